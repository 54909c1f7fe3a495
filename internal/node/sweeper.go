package node

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// sweeper deletes, in a goroutine of its own, what the horizon hides, and lets the files shrink. It starts when the horizon rises,
// wherever that was asked for, and at the open, where a crash or a close may have left something. Node.Close joins it.
type sweeper struct {
	kick   chan struct{} // capacity 1
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu struct {
		sync.Mutex
		held   bool          // a pack of this process is not there yet
		waived zodb.Tid      // snapshots before it were waited for already
		survey *index.Survey // of that pack
		runs   uint64        // finished
		err    error         // of the last one
		phase  string        // "" while it rests
		done   uint64
		total  uint64
		rest   chan struct{} // closed and made anew when a run ends
	}
}

func (w *sweeper) init() {
	w.kick = make(chan struct{}, 1)
	w.mu.rest = make(chan struct{})
	w.cancel = func() {}
}

func (w *sweeper) start(n *Node) {
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	w.wg.Go(func() {
		for {
			select {
			case <-w.kick:
			case <-ctx.Done():
				return
			}
			if survey, ok := w.begin(); ok {
				w.end(n.guarded("the sweep", func() error { return n.sweepUp(ctx, survey) }))
			}
		}
	})
	w.wake()
}

// stop ends and joins it, unless a call into Pebble was parked, perhaps its own.
func (w *sweeper) stop(parked <-chan struct{}) {
	w.cancel()
	ended := make(chan struct{})
	go func() {
		w.wg.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-parked:
	}
}

// wake never waits.
func (w *sweeper) wake() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// hold keeps further runs back while a pack is under way.
func (w *sweeper) hold() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.held = true
}

// release lets a run begin that knows what the pack found: snapshots before waived were waited for. It returns the number of the
// last run before it.
func (w *sweeper) release(survey *index.Survey, waived zodb.Tid) uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.held, w.mu.survey = false, survey
	w.mu.waived = max(w.mu.waived, waived)
	w.wake()
	if w.mu.phase != "" { // one that began before does not count
		return w.mu.runs + 1
	}
	return w.mu.runs
}

func (w *sweeper) begin() (*index.Survey, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	survey := w.mu.survey
	if w.mu.held {
		return nil, false
	}
	w.mu.survey, w.mu.phase, w.mu.done, w.mu.total = nil, phaseSweep, 0, 0
	return survey, true
}

func (w *sweeper) end(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.runs++
	w.mu.err, w.mu.phase = err, ""
	close(w.mu.rest)
	w.mu.rest = make(chan struct{})
}

func (w *sweeper) at(phase string, done, total uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.phase, w.mu.done, w.mu.total = phase, done, total
}

// await waits for a run after number `after`, for d at most. finished: it has ended, and err is how.
func (w *sweeper) await(ctx context.Context, after uint64, d time.Duration) (step PackStep, finished bool, err error) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	w.mu.Lock()
	rest := w.mu.rest
	if w.mu.runs <= after {
		w.mu.Unlock()
		select {
		case <-rest:
		case <-timer.C:
		case <-ctx.Done():
			return step, false, ctx.Err()
		}
		w.mu.Lock()
	}
	defer w.mu.Unlock()
	step = PackStep{Phase: w.mu.phase, Done: w.mu.done, Total: w.mu.total}
	if step.Phase == "" {
		step.Phase = phaseSweep
	}
	if w.mu.runs > after {
		return step, true, w.mu.err
	}
	return step, false, nil
}

// sweepUp is one run.
func (n *Node) sweepUp(ctx context.Context, survey *index.Survey) error {
	sweep, compact := n.store.Unswept()
	if !sweep && !compact {
		return nil
	}
	horizon := n.store.Stats().Horizon
	n.sweep.mu.Lock()
	waived := n.sweep.mu.waived
	n.sweep.mu.Unlock()
	if waived < horizon {
		left, err := n.pins.wait(ctx, horizon, 0, time.Duration(n.cfg.PackWait))
		if err != nil {
			return err
		}
		if left > 0 {
			n.cfg.Logger.Warn("a pack does not wait any longer for readers of older snapshots", "readers", left, "horizon", horizon.String())
		}
	}
	err := n.store.Sweep(ctx, survey, func(done, total uint64) { n.sweep.at(phaseSweep, done, total) })
	if err == nil {
		n.sweep.at(phaseCompact, 0, 0)
		err = n.store.Compact(ctx)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		n.cfg.Logger.Error("what was packed could not be deleted; the next open or pack goes on with it", "path", n.cfg.Path, "error", err.Error())
	}
	return err
}

// guarded ends a goroutine's panic by poisoning the node. Pebble's own failures come as one: index.Store knows this name.
func (n *Node) guarded(what string, f func() error) (err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		cause, ok := p.(error)
		if !ok {
			cause = fmt.Errorf("%v\n%s", p, debug.Stack())
		}
		err = fmt.Errorf("panic in %s: %w", what, cause)
		n.Poison(err)
	}()
	return f()
}
