package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
	"github.com/cockroachdb/pebble/v2"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// gone knows the objects that a garbage list removed and no sweep has deleted yet. A set in memory answers nearly always, in
// about a bit an object; the rows behind it tell up to which revision: an oid may have a later life.
type gone struct {
	db    *pebble.DB
	count atomic.Int64
	// mu guards oids, and makes the end of a sweep's batch one step: rows deleted, old iterators outdated, oids forgotten.
	mu     sync.RWMutex
	oids   *roaring64.Bitmap
	sweeps int // batches of sweeps so far
}

// none is open where it is known that there are no rows.
func (g *gone) none(db *pebble.DB) { g.db, g.oids = db, roaring64.New() }

func (g *gone) open(db *pebble.DB) (err error) {
	g.none(db)
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{rowGone}, UpperBound: []byte{rowGone + 1}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		if len(it.Key()) != 9 {
			return &Corrupt{File: "the garbage rows", Cause: fmt.Errorf("key %x: %w", it.Key(), zodb.ErrMalformed)}
		}
		g.oids.Add(binary.BigEndian.Uint64(it.Key()[1:]))
		g.count.Add(1)
	}
	return damage(0, 0, it.Error())
}

func (g *gone) empty() bool { return g.count.Load() == 0 }

// last is the last revision that is gone; 0: the object is not among the removed.
func (g *gone) last(oid zodb.Oid) (zodb.Tid, error) {
	if g.empty() {
		return 0, nil
	}
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.read(oid)
}

// soFar counts the batches of sweeps. Where look counts as many, an iterator made behind soFar sees no object that was forgotten since.
func (g *gone) soFar() int {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.sweeps
}

// look is last and soFar, at one moment.
func (g *gone) look(oid zodb.Oid) (last zodb.Tid, sweeps int, err error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	last, err = g.read(oid)
	return last, g.sweeps, err
}

// read is last. REQUIRES: mu, for reading.
func (g *gone) read(oid zodb.Oid) (zodb.Tid, error) {
	if !g.oids.Contains(uint64(oid)) {
		return 0, nil
	}
	v, closer, err := g.db.Get(goneKey(nil, oid))
	if err != nil {
		return 0, damage(oid, 0, err)
	}
	if len(v) != 8 {
		return 0, errors.Join(&Corrupt{Oid: oid, Cause: fmt.Errorf("a garbage row of %d bytes: %w", len(v), zodb.ErrMalformed)}, closer.Close())
	}
	return zodb.Tid(binary.BigEndian.Uint64(v)), closer.Close()
}

// Gone is the last revision that went with a whole object as garbage, while its rows are still here; 0: none did.
func (s *Store) Gone(oid zodb.Oid) (zodb.Tid, error) { return s.gone.last(oid) }

func (g *gone) add(objects []Change) {
	if len(objects) == 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, o := range objects {
		if g.oids.CheckedAdd(uint64(o.Oid)) {
			g.count.Add(1)
		}
	}
}

// swept forgets oids once delete, which deletes their rows, has succeeded.
func (g *gone) swept(oids []zodb.Oid, deleteRows func() error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := deleteRows(); err != nil {
		return err
	}
	g.sweeps++
	for _, oid := range oids {
		if g.oids.CheckedRemove(uint64(oid)) {
			g.count.Add(-1)
		}
	}
	return nil
}

// before is the set as it is, for a walk over rows: taken before its iterator, which keeps seeing what a sweep deletes and forgets
// meanwhile. nil: it is empty.
func (g *gone) before() *roaring64.Bitmap {
	if g.empty() {
		return nil
	}
	return g.all()
}

// has tells whether an object is in a set of before.
func has(set *roaring64.Bitmap, oid zodb.Oid) bool { return set != nil && set.Contains(uint64(oid)) }

// all is a copy.
func (g *gone) all() *roaring64.Bitmap {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.oids.Clone()
}
