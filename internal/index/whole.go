package index

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// logOfATransaction is less than what any transaction takes of a write-ahead log: its entry and its rows.
const logOfATransaction = 300

// logBytes is the size of the write-ahead logs that Pebble is about to replay: 0 behind a clean close.
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
	left := bytes/logOfATransaction + 1
	next, want := st.LastTid, st.Digest
	var gap error
	err := s.walkTxns(st.Horizon+1, st.LastTid, (*pebble.Iterator).Last, (*pebble.Iterator).Prev, func(h Header, _ []zodb.Tid) bool {
		if h.Digest != want {
			gap = fmt.Errorf("open %s: %w", cfg.Dir, &Corrupt{File: cfg.Dir, Cause: fmt.Errorf(
				"the transactions between %s and %s are missing: a write-ahead log (*.log) is gone, or the manifest is cut", h.Tid, next)})
			return false
		}
		next, want = h.Tid, h.Prev
		left--
		return left > 0
	})
	if gap == nil && err == nil && left > 0 && want != st.HorizonDigest {
		gap = fmt.Errorf("open %s: %w", cfg.Dir, &Corrupt{File: cfg.Dir, Cause: fmt.Errorf(
			"the transactions before %s are missing: a write-ahead log (*.log) is gone, or the manifest is cut", next)})
	}
	if gap == nil && err != nil {
		gap = fmt.Errorf("open %s: %w", cfg.Dir, err)
	}
	return gap
}
