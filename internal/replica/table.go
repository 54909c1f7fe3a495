package replica

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// grant is one transaction's reservation, from its vote to its outcome.
type grant struct {
	id     zodb.TxnID
	writes []zodb.Oid
	reads  []zodb.Oid // without those written; each once
	since  time.Time  // of the last vote; monotonic
	alive  time.Time  // its client's last sign of life
	// snapshot and thread are zodb.Txn's. A horizon behind the snapshot refuses the transaction.
	snapshot zodb.Tid
	thread   uint64
	entry    []byte // what Finish proposes; nil while conflicts are unresolved
	sent     bool   // Finish was called: from here on only its outcome, or never having been proposed, ends the grant
}

// table holds the reservations: writes exclusive, reads shared, each transaction's set taken in one step. Who must wait is
// served first come, first served: nobody passes a waiting transaction that he conflicts with, so nobody starves. It knows
// nothing of Raft, runs no goroutine and has no clock but now.
type table struct {
	now func() time.Time

	mu     sync.Mutex // guards all below; never held across I/O or a wait
	held   map[zodb.Oid]hold
	grants map[zodb.TxnID]*grant
	queue  []*request // oldest first; bounded by the callers: each waits in its own goroutine, at most vote-wait
	closed bool
	fence  zodb.Tid      // of a horizon that is about to be logged: nobody with an older snapshot votes; 0: none
	ended  chan struct{} // closed and forgotten when a reservation ends; nil: nobody waits
}

// hold is what an oid is reserved for. Invariant: writer != nil or readers > 0, never both.
type hold struct {
	writer  *grant
	readers int
}

type request struct {
	g     *grant
	ready chan error // capacity 1: nil granted
}

func newTable(now func() time.Time) *table {
	return &table{now: now, held: make(map[zodb.Oid]hold), grants: make(map[zodb.TxnID]*grant)}
}

// acquire reserves g's set, waiting at most wait, and until ctx ends, for incompatible ones: ErrBusy. ErrClosed, ErrVoteLost (aborted while
// it waited).
func (t *table) acquire(ctx context.Context, g *grant, wait time.Duration) error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return ErrClosed
	}
	if t.known(g.id) {
		t.mu.Unlock()
		return fmt.Errorf("transaction %s votes in two places: %w", g.id, ErrVoteLost)
	}
	if t.free(g) && (len(t.queue) == 0 || !t.waiting().conflicts(g)) {
		t.take(g)
		t.mu.Unlock()
		return nil
	}
	req := &request{g: g, ready: make(chan error, 1)}
	t.queue = append(t.queue, req)
	t.mu.Unlock()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	var failed error
	select {
	case err := <-req.ready:
		return err
	case <-timer.C:
		failed = fmt.Errorf("%w: they were waited for %s (vote-wait)", ErrBusy, wait)
	case <-ctx.Done():
		failed = fmt.Errorf("%w: %w", ErrBusy, ctx.Err())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case err := <-req.ready: // it came at the same moment
		return err
	default:
	}
	t.drop(req)
	return failed
}

// known tells whether a transaction has a reservation or waits for one. REQUIRES: t.mu.
func (t *table) known(id zodb.TxnID) bool {
	for _, q := range t.queue {
		if q.g.id == id {
			return true
		}
	}
	return t.grants[id] != nil
}

// drop ends a wait. REQUIRES: t.mu.
func (t *table) drop(req *request) {
	for i, q := range t.queue {
		if q == req {
			t.queue = append(t.queue[:i:i], t.queue[i+1:]...)
			break
		}
	}
	t.serve() // those behind may not have to wait any more
}

// before tells whether a horizon at to refuses g's transaction.
func (g *grant) before(to zodb.Tid) bool { return g.snapshot != 0 && g.snapshot < to }

// raise keeps transactions with a snapshot before to from voting, until lower, and waits for those that have voted, but thread's own, to
// end: at most wait, or ErrBusy and it is lowered again. With wait < 0 it waits for nobody.
func (t *table) raise(ctx context.Context, to zodb.Tid, thread uint64, wait time.Duration) error {
	timer := time.NewTimer(max(0, wait))
	defer timer.Stop()
	for {
		t.mu.Lock()
		if t.closed {
			t.mu.Unlock()
			return ErrClosed
		}
		t.fence = to
		left := 0
		for _, g := range t.grants {
			if g.entry != nil && g.before(to) && (thread == 0 || g.thread != thread) {
				left++
			}
		}
		if left == 0 || wait < 0 {
			t.mu.Unlock()
			return nil
		}
		if t.ended == nil {
			t.ended = make(chan struct{})
		}
		ended := t.ended
		t.mu.Unlock()
		var err error
		select {
		case <-ended:
		case <-timer.C:
			err = fmt.Errorf("%d transactions with an older snapshot have voted: %w", left, ErrBusy)
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil {
			t.lower()
			return err
		}
	}
}

// lower undoes raise.
func (t *table) lower() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fence = 0
	t.serve()
}

// free tells whether g's set is compatible with what is held. REQUIRES: t.mu.
func (t *table) free(g *grant) bool {
	if g.before(t.fence) {
		return false
	}
	for _, oid := range g.writes {
		if _, ok := t.held[oid]; ok {
			return false
		}
	}
	for _, oid := range g.reads {
		if t.held[oid].writer != nil {
			return false
		}
	}
	return true
}

// wanted is what waiting transactions want: true to write, false to read only.
type wanted map[zodb.Oid]bool

func (w wanted) add(g *grant) {
	for _, oid := range g.writes {
		w[oid] = true
	}
	for _, oid := range g.reads {
		if !w[oid] {
			w[oid] = false
		}
	}
}

func (w wanted) conflicts(g *grant) bool {
	for _, oid := range g.writes {
		if _, ok := w[oid]; ok {
			return true
		}
	}
	for _, oid := range g.reads {
		if w[oid] {
			return true
		}
	}
	return false
}

// waiting is what the whole queue wants. REQUIRES: t.mu.
func (t *table) waiting() wanted {
	w := make(wanted)
	for _, q := range t.queue {
		w.add(q.g)
	}
	return w
}

// take reserves. REQUIRES: t.mu, free(g).
func (t *table) take(g *grant) {
	for _, oid := range g.writes {
		t.held[oid] = hold{writer: g}
	}
	for _, oid := range g.reads {
		h := t.held[oid]
		h.readers++
		t.held[oid] = h
	}
	g.since = t.now()
	g.alive = g.since
	t.grants[g.id] = g
}

// serve grants, oldest first, whoever waits and conflicts neither with a holder nor with an older one that waits. REQUIRES: t.mu.
func (t *table) serve() {
	if len(t.queue) == 0 {
		return
	}
	w := make(wanted)
	still := t.queue[:0]
	for _, req := range t.queue {
		if !t.free(req.g) || w.conflicts(req.g) {
			w.add(req.g)
			still = append(still, req)
			continue
		}
		t.take(req.g)
		req.ready <- nil
	}
	clear(t.queue[len(still):])
	t.queue = still
}

// get returns a transaction's reservation, nil if it has none, and whether it was sent.
func (t *table) get(id zodb.TxnID) (g *grant, sent bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if g = t.grants[id]; g != nil {
		sent = g.sent
	}
	return g, sent
}

// vote stores what Finish proposes, nil if there is nothing yet. ErrVoteLost: the reservation is gone meanwhile, or finished. ErrBehind: a horizon
// is coming that refuses it; the reservation is gone.
func (t *table) vote(g *grant, entry []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.grants[g.id] != g || g.sent {
		return ErrVoteLost
	}
	if entry != nil && g.before(t.fence) {
		t.releaseLocked(g.id)
		t.serve()
		return ErrBehind
	}
	now := t.now()
	g.entry, g.since, g.alive = entry, now, now
	return nil
}

// send marks a reservation as finished and returns its entry; nil if there is none, it was not voted to the end, or is
// finished already.
func (t *table) send(id zodb.TxnID) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	g := t.grants[id]
	if g == nil || g.entry == nil || g.sent {
		return nil
	}
	g.sent = true
	return g.entry
}

// release ends a transaction's reservation.
func (t *table) release(id zodb.TxnID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.releaseLocked(id)
	t.serve()
}

func (t *table) releaseLocked(id zodb.TxnID) {
	g := t.grants[id]
	if g == nil {
		return
	}
	delete(t.grants, id)
	t.tell()
	for _, oid := range g.writes {
		delete(t.held, oid)
	}
	for _, oid := range g.reads {
		h := t.held[oid]
		if h.readers--; h.readers == 0 {
			delete(t.held, oid)
		} else {
			t.held[oid] = h
		}
	}
}

// tell wakes who waits for reservations to end. REQUIRES: t.mu.
func (t *table) tell() {
	if t.ended != nil {
		close(t.ended)
		t.ended = nil
	}
}

// abandon ends a transaction that was not finished, also one that still waits; it reports whether it was finished.
func (t *table) abandon(id zodb.TxnID) (sent bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if g := t.grants[id]; g != nil && g.sent {
		return true
	}
	t.releaseLocked(id)
	for _, req := range t.queue {
		if req.g.id == id {
			req.ready <- ErrVoteLost
			t.drop(req)
			return false
		}
	}
	t.serve()
	return false
}

// renew ends votes that were never finished and whose client gave no sign of life for longer than lease, or that are older
// than maxLease; the others' clients, all in this process, just gave one.
func (t *table) renew(lease time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	for id, g := range t.grants {
		if !g.sent && (now.Sub(g.alive) > lease || now.Sub(g.since) > maxLease) {
			t.releaseLocked(id)
		}
		g.alive = now
	}
	t.serve()
}

func (t *table) size() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.grants)
}

// close ends every wait.
func (t *table) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	t.tell()
	for _, req := range t.queue {
		req.ready <- ErrClosed
	}
	t.queue = nil
}
