package index

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// pebbleLog turns Pebble's logger into ours, and its process exits into a broken store.
type pebbleLog struct {
	log    *slog.Logger
	broken func(error)
	fatal  chan error // while Pebble opens: where Fatalf reports to
	parked chan struct{}
	once   sync.Once // closes parked
	told   sync.Map  // paths of damaged tables, each told once: every load of a damaged record meets it again
}

// ErrBroken says that Pebble could not go on; see Config.Broken.
var ErrBroken = errors.New("the store is broken")

func (l *pebbleLog) Infof(format string, args ...any) { l.log.Debug(fmt.Sprintf(format, args...)) }

func (l *pebbleLog) Errorf(format string, args ...any) { l.log.Error(fmt.Sprintf(format, args...)) }

// Fatalf must not return, by Pebble's contract: what called it holds Pebble's locks and would go on with a lost write. It must not
// panic either: Pebble's defers release locks that are not held then, which ends the process.
func (l *pebbleLog) Fatalf(format string, args ...any) {
	l.park(fmt.Errorf("%w: %w", ErrBroken, fmt.Errorf(format, args...)))
}

// park breaks the store and does not return: the goroutine and the locks that it holds are lost. Of ours, only the log's driver
// and sweeps come where that can happen, in goroutines of their own; nobody waits for them then.
func (l *pebbleLog) park(err error) {
	l.broken(err)
	l.once.Do(func() { close(l.parked) })
	select {
	case l.fatal <- err:
	default:
	}
	select {}
}

func (l *pebbleLog) events(flushed func()) *pebble.EventListener {
	e := &pebble.EventListener{
		BackgroundError: func(err error) {
			if errors.Is(err, errLeft) {
				return // of a table's statistics
			}
			if pebble.IsCorruptionError(err) {
				// A damaged table fails its compaction again and again; records outside of it stay readable.
				l.log.Error("a compaction met damage; run zodb-dht verify", "error", err.Error())
				return
			}
			err = fmt.Errorf("%w: %w", ErrBroken, err)
			l.broken(err)
			select { // an open on a full disk would try again for ever
			case l.fatal <- err:
			default:
			}
		},
		FlushEnd:       func(pebble.FlushInfo) { flushed() },
		DataCorruption: func(i pebble.DataCorruptionInfo) { l.damaged(i.Path, i.Details) },
	}
	return e
}

// damaged tells of a table. A text, here as above: of an error slog would write Pebble's stack traces, too.
func (l *pebbleLog) damaged(path string, err error) {
	if _, told := l.told.LoadOrStore(path, true); !told {
		l.log.Error("damaged table; run zodb-dht verify", "file", path, "error", err.Error())
	}
}
