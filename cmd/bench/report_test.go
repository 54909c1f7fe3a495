package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func measured() figures {
	f := figures{}
	for storage, value := range map[string]float64{dht: 1, filestorage: 4, postgresql: 3, sqlite: 1.5} {
		f.add("warm-300-1t", storage, value)
	}
	for storage, value := range map[string]float64{dht: 1000, filestorage: 500, zeo: 200} {
		f.add("commits-16t", storage, value)
	}
	f.add("fsyncs-per-commit", dht, 1)
	f.add("open-1000", dht, 10)
	f.add("open-2000", dht, 16)
	return f
}

func TestTargetsCompareInTheDirectionThatTheMetricHas(t *testing.T) {
	got := map[string]verdict{}
	for _, v := range judge(targets(quickSizes()), measured()) {
		got[v.Metric+" "+v.Peer] = v
	}
	for key, want := range map[string]verdict{
		"warm-300-1t filestorage":     {Ratio: 4, Met: true},
		"warm-300-1t best RelStorage": {Ratio: 1.5, Met: false}, // sqlite's is the better one
		"commits-16t filestorage":     {Ratio: 2, Met: true},
		"commits-16t zeo":             {Ratio: 5, Met: false},
		"fsyncs-per-commit ":          {Ratio: 1, Met: true},
		"open-2000 our open-1000":     {Ratio: 1.6, Met: false},
	} {
		if v, ok := got[key]; !ok || v.Ratio != want.Ratio || v.Met != want.Met {
			t.Errorf("%s: %+v, want %+v", key, v, want)
		}
		delete(got, key)
	}
	if len(got) != 0 {
		t.Errorf("verdicts without a measurement: %v", got)
	}
}

func TestACommitWithoutItsFsyncMissesTheTarget(t *testing.T) {
	f := figures{}
	f.add("fsyncs-per-commit", dht, 0)
	if vs := judge(targets(quickSizes()), f); len(vs) != 1 || vs[0].Met {
		t.Errorf("%+v", vs)
	}
}

func sample() *report {
	return &report{Rounds: 1, CPUs: 2, Quick: true, Storages: []string{dht, filestorage, zeo, postgresql, sqlite},
		Metrics: metrics([]string{"warm-300-1t", "commits-16t"}, measured()), Verdicts: judge(targets(quickSizes()), measured()),
		Skipped: []skip{{"commit-syncs", "strace is not installed"}}}
}

func TestTheTableHasValuesRatiosVerdictsAndWhatWasSkipped(t *testing.T) {
	var text bytes.Buffer
	if err := sample().text(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"4.00 (0.250)", "500 (2.00)", "–", "missed", "skipped: commit-syncs: strace is not installed", "Quick sizes"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the text lacks %q:\n%s", want, text.String())
		}
	}
	lines := strings.Split(sample().markdown(), "\n")
	if lines[1] != "|---|---|---|---|---|---|---|" || strings.Count(lines[2], "|") != strings.Count(lines[1], "|") {
		t.Errorf("%q", lines[:3])
	}
}

func TestGainsAreAboveOneWhereOursIsBetter(t *testing.T) {
	rows := sample().Metrics
	if got := gains(rows, filestorage); got[0] != 4 || got[1] != 2 {
		t.Error(got)
	}
	if got := gains(rows, zeo); got[0] != 0 || got[1] != 5 {
		t.Error(got)
	}
}

func TestTheChartIsWhatItsNameSays(t *testing.T) {
	for ending, magic := range map[string]string{".svg": "<?xml", ".png": "\x89PNG"} {
		file := filepath.Join(t.TempDir(), "chart"+ending)
		if err := drawChart(file, sample()); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(file)
		if err != nil || !bytes.HasPrefix(b, []byte(magic)) {
			t.Errorf("%s: %v", ending, err)
		}
	}
}

func TestUnits(t *testing.T) {
	for name, want := range map[string]string{
		"warm-1000-1t": "µs", "catalog-load": "s", "commit-1-p50": "ms", "commits-4t": "/s", "open-1000": "ms", "open-killed-1000": "ms",
		"open-peak-1000": "MB", "import-closed": "s", "export-singles": "s", "bytes-per-object": "B", "fsyncs-per-commit": "fsyncs",
	} {
		if got := unit(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}
