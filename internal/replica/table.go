package replica

import (
	"context"
	"sync"
	"time"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// grant is one transaction's reservation, from its vote to its outcome.
type grant struct {
	id     zodb.TxnID
	writes []zodb.Oid
	reads  []zodb.Oid // without those written
	since  time.Time  // monotonic
	entry  []byte     // what Finish proposes; nil while conflicts are unresolved
	sent   bool       // proposed: only the log ends it now
}

// table holds the reservations: writes exclusive, reads shared, each transaction's set taken in one step. Who must wait is
// served first come, first served: nobody passes a waiting transaction that he conflicts with. It knows nothing of Raft.
type table struct {
	mu     sync.Mutex // guards all below; never held across I/O or a wait
	held   map[zodb.Oid]hold
	grants map[zodb.TxnID]*grant
	queue  []*request // bounded by the callers: each waits in its own goroutine, at most vote-wait
	closed bool
}

type hold struct {
	writer  *grant
	readers int
}

type request struct {
	g     *grant
	ready chan bool // capacity 1: true granted, false closed
}

func newTable() *table {
	return &table{held: make(map[zodb.Oid]hold), grants: make(map[zodb.TxnID]*grant)}
}

// acquire reserves g's set, waiting for incompatible ones until ctx ends: ErrBusy, ErrClosed.
func (t *table) acquire(ctx context.Context, g *grant) error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return ErrClosed
	}
	if t.free(g) && (len(t.queue) == 0 || !t.overtakes(g, len(t.queue))) {
		t.take(g)
		t.mu.Unlock()
		return nil
	}
	req := &request{g: g, ready: make(chan bool, 1)}
	t.queue = append(t.queue, req)
	t.mu.Unlock()
	select {
	case ok := <-req.ready:
		return granted(ok)
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case ok := <-req.ready: // it came at the same moment
		return granted(ok)
	default:
	}
	for i, q := range t.queue {
		if q == req {
			t.queue = append(t.queue[:i:i], t.queue[i+1:]...)
			break
		}
	}
	t.serve() // those behind may not have to wait any more
	return ErrBusy
}

func granted(ok bool) error {
	if !ok {
		return ErrClosed
	}
	return nil
}

// free tells whether g's set is compatible with what is held. REQUIRES: t.mu.
func (t *table) free(g *grant) bool {
	for _, oid := range g.writes {
		if h, ok := t.held[oid]; ok && (h.writer != nil || h.readers > 0) {
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

// overtakes tells whether g conflicts with one of the first n that wait. REQUIRES: t.mu.
func (t *table) overtakes(g *grant, n int) bool {
	writes := make(map[zodb.Oid]bool) // waiting oid -> somebody wants to write it
	for _, q := range t.queue[:n] {
		for _, oid := range q.g.writes {
			writes[oid] = true
		}
		for _, oid := range q.g.reads {
			writes[oid] = writes[oid]
		}
	}
	for _, oid := range g.writes {
		if _, ok := writes[oid]; ok {
			return true
		}
	}
	for _, oid := range g.reads {
		if writes[oid] {
			return true
		}
	}
	return false
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
	g.since = time.Now()
	t.grants[g.id] = g
}

// serve grants whoever waits and can go. REQUIRES: t.mu.
func (t *table) serve() {
	for i := 0; i < len(t.queue); {
		req := t.queue[i]
		if !t.free(req.g) || t.overtakes(req.g, i) {
			i++
			continue
		}
		t.take(req.g)
		t.queue = append(t.queue[:i:i], t.queue[i+1:]...)
		req.ready <- true
	}
}

// get returns a transaction's reservation, nil if it has none.
func (t *table) get(id zodb.TxnID) *grant {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.grants[id]
}

// send marks a reservation as proposed and returns its entry; nil if there is none, or it was not voted to the end.
func (t *table) send(id zodb.TxnID) (entry []byte, again bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	g := t.grants[id]
	if g == nil || g.entry == nil {
		return nil, false
	}
	again, g.sent = g.sent, true
	return g.entry, again
}

// vote stores what Finish proposes; false if the reservation is gone.
func (t *table) vote(g *grant, entry []byte) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.grants[g.id] != g {
		return false
	}
	g.entry = entry
	return true
}

// release ends a transaction's reservation.
func (t *table) release(id zodb.TxnID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.releaseLocked(id)
}

func (t *table) releaseLocked(id zodb.TxnID) {
	g := t.grants[id]
	if g == nil {
		return
	}
	delete(t.grants, id)
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
	if len(t.queue) > 0 {
		t.serve()
	}
}

// abandon releases a reservation that was not proposed; it reports whether it was.
func (t *table) abandon(id zodb.TxnID) (sent bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if g := t.grants[id]; g != nil && g.sent {
		return true
	}
	t.releaseLocked(id)
	return false
}

// expire ends votes older than maxLease that were never finished.
func (t *table) expire(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, g := range t.grants {
		if !g.sent && now.Sub(g.since) > maxLease {
			t.releaseLocked(id)
		}
	}
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
	for _, req := range t.queue {
		req.ready <- false
	}
	t.queue = nil
}
