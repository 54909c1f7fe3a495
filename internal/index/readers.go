package index

import (
	"sync"

	"github.com/cockroachdb/pebble/v2"
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
	return reading{iter: it, epoch: epoch, key: make([]byte, 0, recordKeyLen)}, nil
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
