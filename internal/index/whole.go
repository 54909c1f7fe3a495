package index

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/cockroachdb/pebble/v2"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// found is what lies in a directory before Pebble opens it.
type found struct {
	names   []string
	torn    *TornTail
	damaged []Corrupt // files that an open goes on without
	logs    int64     // the size of the write-ahead logs that Pebble is about to replay: 0 behind a clean close
	note    *closed   // nil where it can't be used
	noted   bool      // it has to be removed before anything is written
}

// look reads it. A directory that is not there has nothing.
func look(cfg *Config) (f found, err error) {
	if f.names, err = cfg.FS.List(cfg.Dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return f, openError(cfg, err)
	}
	if f.torn, err = findTornTail(cfg, f.names); err != nil {
		return f, err
	}
	if f.damaged, err = checkManifests(cfg, f.names); err != nil {
		return f, err
	}
	if f.logs, err = logBytes(cfg, f.names); err != nil {
		return f, err
	}
	return f, f.findClosed(cfg)
}

// What any transaction takes of a write-ahead log is more: its entry and its rows, and for each object its part of them.
const (
	logOfATransaction = 300
	logOfAnObject     = 20
)

func logBytes(cfg *Config, names []string) (total int64, err error) {
	for _, name := range names {
		if !isLog(name) {
			continue
		}
		info, err := cfg.FS.Stat(cfg.FS.PathJoin(cfg.Dir, name))
		if err != nil {
			return 0, fmt.Errorf("open %s: %w", cfg.Dir, err)
		}
		total += info.Size()
	}
	return total, nil
}

// followLogs follows the chain of transactions back over all that the replayed logs can hold, and one more. A log that is gone, and a
// manifest that ends before it told of a table, take transactions out of the middle: what came later is there, and nobody else would
// miss them.
func (s *Store) followLogs(cfg *Config, st *state, bytes int64) error {
	if bytes == 0 {
		return nil
	}
	left := bytes
	next, want := st.LastTid, st.Digest
	var gap error
	err := s.walkTxns(st.Horizon+1, st.LastTid, (*pebble.Iterator).Last, (*pebble.Iterator).Prev, func(h Header, _ []zodb.Tid) bool {
		if h.Digest != want {
			gap = fmt.Errorf("open %s: %w", cfg.Dir, &Corrupt{File: cfg.Dir, Cause: fmt.Errorf(
				"the transactions between %s and %s are missing: a write-ahead log (*.log) is gone, or the manifest is cut", h.Tid, next)})
			return false
		}
		next, want = h.Tid, h.Prev
		left -= logOfATransaction + logOfAnObject*int64(len(h.Oids))
		return left >= 0 // below: not all of them are from the logs
	})
	if gap == nil && err == nil && left >= 0 && want != st.HorizonDigest {
		gap = fmt.Errorf("open %s: %w", cfg.Dir, &Corrupt{File: cfg.Dir, Cause: fmt.Errorf(
			"the transactions before %s are missing: a write-ahead log (*.log) is gone, or the manifest is cut", next)})
	}
	if gap == nil && err != nil {
		gap = fmt.Errorf("open %s: %w", cfg.Dir, err)
	}
	return gap
}
