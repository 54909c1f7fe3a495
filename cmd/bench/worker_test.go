package main

import (
	"errors"
	"strings"
	"testing"
)

func TestAWorkersLinesAreMeasurementsAndNotes(t *testing.T) {
	var o output
	for _, line := range []string{`{"metric": "warm-1000-1t", "value": 0.75}`, `{"note": "loads", "value": 13211}`, `{"metric": "open-0", "value": 0}`} {
		if err := o.parseLine([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	if len(o.metrics) != 2 || o.metrics[0] != (measurement{"warm-1000-1t", 0.75}) || o.notes["loads"] != 13211 {
		t.Errorf("%+v", o)
	}
}

func TestWhatIsNoLineOfAWorkerIsRefused(t *testing.T) {
	for _, line := range []string{
		``, `warning: slow`, `[]`, `{}`, `{"metric": "a"}`, `{"value": 1}`, `{"metric": "", "value": 1}`, `{"metric": "a", "value": "1"}`,
		`{"metric": "a", "value": NaN}`, `{"metric": "a", "value": -1}`, `{"metric": "a", "note": "b", "value": 1}`,
		`{"metric": "a", "value": 1, "unit": "s"}`, `{"metric": "a", "value": 1} {}`,
	} {
		var o output
		if err := o.parseLine([]byte(line)); !errors.Is(err, errOutput) {
			t.Errorf("%q: %v", line, err)
		}
		if len(o.metrics)+len(o.notes) != 0 {
			t.Errorf("%q left %+v", line, o)
		}
	}
}

const trace = `100 access("/etc/ld.so.preload", R_OK) = -1 ENOENT
100 fdatasync(5) = 0
100 access("/zodb-dht-bench-mark", F_OK) = -1 ENOENT (No such file or directory)
101 fdatasync(5</peer/db/000004.log> <unfinished ...>
100 fsync(3</data/Data.fs>) = 0
102 fsync(7</peer/db/000009.sst>) = 0
102 fsync(8</peer/db>) = 0
101 <... fdatasync resumed>) = 0
`

const secondMark = `100 faccessat2(AT_FDCWD, "/zodb-dht-bench-mark", F_OK, 0) = -1 ENOENT (No such file or directory)
`

func TestSyncsAreCountedBetweenTheMarksAndOnce(t *testing.T) {
	n, background, err := countSyncs(strings.NewReader(trace + secondMark + "100 fsync(3) = 0\n"))
	if err != nil || n != 2 || background != 2 {
		t.Error(n, background, err)
	}
	if _, _, err := countSyncs(strings.NewReader(trace)); err == nil {
		t.Error("a trace that breaks off was counted")
	}
}
