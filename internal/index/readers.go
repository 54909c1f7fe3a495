package index

import (
	"bytes"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// maxIdleReaders bounds the iterators kept for the next load: one a processor would do, a few more cost nothing.
const maxIdleReaders = 8

// readers keeps iterators over the record rows between loads, since making one costs as much as a load (1-2 µs). An
// iterator sees the state of its making, so each Apply outdates them all: a load may then use none made before.
type readers struct {
	db *pebble.DB
	mu struct {
		sync.Mutex
		idle   []reading
		epoch  uint64 // rises with every Apply
		closed bool
		out    sync.WaitGroup // iterators in use; Close waits for them
	}
}

// reading is one iterator and the state that it shows.
type reading struct {
	iter    *pebble.Iterator
	epoch   uint64
	key     []byte
	fetched uint64 // bytes of table blocks that were not in the block cache, so far
}

// fetch tells whether the iterator read a table block since the last call.
func (r *reading) fetch() bool {
	stats := r.iter.Stats()
	before := r.fetched
	r.fetched = stats.InternalStats.BlockBytes - stats.InternalStats.BlockBytesInCache
	return r.fetched != before
}

// walk reads objects one after the other: to a neighbour further on it steps, where a seek would go through all levels anew.
type walk struct {
	reading
	begun bool     // the iterator stands on a row of `last`, or on the first row behind it
	last  zodb.Oid // asked for
}

// nearBy is how many rows are stepped over before a seek: it costs about as much.
const nearBy = 12

// forward moves to the newest row of oid, or to the first row behind where it would be. false: there is none, or an error. Its caller
// moves the iterator by Next only, and not beyond the first row of another object; else it says so by begun.
func (w *walk) forward(oid zodb.Oid) bool {
	w.key = recordKey(w.key[:0], oid, ^zodb.Tid(0))
	near := w.begun && oid > w.last && w.iter.Valid()
	w.begun, w.last = true, oid
	for n := 0; near && n < nearBy; n++ {
		if bytes.Compare(w.iter.Key(), w.key) >= 0 {
			return true
		}
		near = w.iter.Next()
	}
	return w.iter.SeekGE(w.key)
}

func recordBounds() *pebble.IterOptions {
	return &pebble.IterOptions{LowerBound: []byte{rowRecord}, UpperBound: []byte{rowRecord + 1}}
}

func (r *readers) open(db *pebble.DB) { r.db = db }

// get returns an iterator that shows at least every Apply that returned before.
func (r *readers) get() (reading, error) {
	r.mu.Lock()
	if r.mu.closed {
		r.mu.Unlock()
		return reading{}, ErrClosed
	}
	r.mu.out.Add(1)
	epoch := r.mu.epoch
	if n := len(r.mu.idle); n > 0 {
		got := r.mu.idle[n-1]
		r.mu.idle = r.mu.idle[:n-1]
		r.mu.Unlock()
		return got, nil
	}
	r.mu.Unlock()
	it, err := r.db.NewIter(recordBounds())
	if err != nil {
		r.mu.out.Done()
		return reading{}, err
	}
	return reading{iter: it, epoch: epoch}, nil
}

// put takes an iterator back; one that failed or is outdated is closed.
func (r *readers) put(it reading) {
	defer r.mu.out.Done()
	r.mu.Lock()
	if it.iter.Error() == nil && it.epoch == r.mu.epoch && !r.mu.closed && len(r.mu.idle) < maxIdleReaders {
		r.mu.idle = append(r.mu.idle, it)
		r.mu.Unlock()
		return
	}
	r.mu.Unlock()
	_ = it.iter.Close() // repeats what Error said to the load that met it
}

// outdate is called after each Apply; it also lets go of the tables that idle iterators hold.
func (r *readers) outdate() {
	r.mu.Lock()
	r.mu.epoch++
	idle := r.mu.idle
	r.mu.idle = nil
	r.mu.Unlock()
	for _, it := range idle {
		_ = it.iter.Close()
	}
}

func (r *readers) close() {
	r.mu.Lock()
	r.mu.closed = true
	r.mu.Unlock()
	r.outdate()
	r.mu.out.Wait()
}
