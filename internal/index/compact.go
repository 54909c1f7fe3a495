package index

import (
	"context"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// compacting is what calls of Compact share.
type compacting struct {
	wait *sync.WaitGroup
	run  context.Context //nolint:containedctx // ends when Pebble is closed: what waits in it then never has its turn
	end  context.CancelFunc
}

func newCompacting() compacting {
	run, end := context.WithCancel(context.Background())
	return compacting{new(sync.WaitGroup), run, end}
}

// Compact rewrites the tables that the sweeps left deletions in: else Pebble keeps their space until other writes push them out. It
// is safe to stop it, and runs beside everything else: after ctx' end, too, up to Close. Corrupt: it met damage in rows that nothing else reads.
func (s *Store) Compact(ctx context.Context) error {
	to := s.swept.Load().to
	s.Settle()
	done, panicked := make(chan error, 1), make(chan any, 1)
	s.compacting.wait.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				panicked <- p // also of a store that was closed before this began; then nobody listens
			}
		}()
		// In one call: each would push what the tables at the top hold of the other rows down, too. Not under ctx: Pebble panics when it comes to
		// run a compaction that was given up while it waited for its turn.
		done <- s.db.Compact(s.compacting.run, []byte{rowBlob}, []byte{rowTxn + 1}, true)
	})
	select {
	case p := <-panicked:
		panic(p)
	case err := <-done:
		if pebble.IsCorruptionError(err) {
			err = &Corrupt{File: s.dir, Cause: err}
		}
		if err != nil {
			return fmt.Errorf("compact: %w", err)
		}
	case <-s.fence.fell: // it waits for Close
		return fmt.Errorf("compact: %w", ErrBroken)
	case <-ctx.Done():
		return fmt.Errorf("compact: %w", ctx.Err())
	}
	w := sweeper{s: s}
	now := *s.swept.Load()
	now.compacted = max(now.compacted, to)
	b := s.db.NewBatch()
	defer b.Close()
	return w.commit(b, &now)
}
