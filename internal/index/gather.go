package index

import (
	"context"
	"errors"
	"runtime"
	"sync"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// gather takes the packed revisions of some of these objects into the batch, beside each other, and returns how many objects, from the
// first on. All revisions of an object are in one batch: whatever it leaves, no reader finds an old revision in the place of a
// newer one that is gone.
func (w *sweeper) gather(ctx context.Context, gatherers []gatherer, oids []uint64) (n int, err error) {
	each := (len(oids) + len(gatherers) - 1) / len(gatherers)
	errs := make([]error, len(gatherers))
	var wg sync.WaitGroup
	for i := range gatherers {
		g := &gatherers[i]
		g.w, g.done, g.oids = w, 0, oids[min(i*each, len(oids)):min((i+1)*each, len(oids))]
		wg.Go(func() { errs[i] = g.run(ctx) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return 0, err
	}
	whole := true // all before were whole
	for i := range gatherers {
		g := &gatherers[i]
		if whole {
			n += g.done
			w.add(&g.batch)
		}
		whole = whole && g.done == len(g.oids)
		g.clear()
	}
	return n, nil
}

// gatherer is one goroutine's part of a batch.
type gatherer struct {
	w *sweeper
	walk
	oids []uint64
	done int // of them
	batch
}

// run stops before a history that may be more than a batch, and where its part of one is full.
func (g *gatherer) run(ctx context.Context) (err error) {
	// An iterator holds the tables of its making: a new one each time.
	if g.iter, err = g.w.s.db.NewIter(recordBounds()); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.iter.Close()) }()
	g.begun = false
	for i, oid := range g.oids {
		if i%giveWay == 0 {
			runtime.Gosched()
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if whole, err := g.object(zodb.Oid(oid)); err != nil || !whole {
			return err
		}
		if g.done++; len(g.rows) >= maxSweep {
			break
		}
	}
	return nil
}

func (g *gatherer) object(oid zodb.Oid) (whole bool, err error) {
	last, err := g.w.s.gone.last(oid)
	if err != nil {
		return false, err
	}
	rows, blobs, size := len(g.rows), len(g.blobs), g.dataSize
	var next zodb.Tid
	for ok := g.forward(oid); ok; ok = g.iter.Next() {
		rev, err := g.revision(false, false)
		if err != nil {
			return false, err
		}
		if rev.Oid != oid {
			break
		}
		rev.Next, next = next, rev.Tid
		if !g.w.packed(&rev, last) {
			continue
		}
		if len(g.rows)-rows == longHistory {
			g.rows, g.blobs, g.dataSize = g.rows[:rows], g.blobs[:blobs], size
			return false, nil
		}
		if rev.Kind == zodb.WriteData {
			val := g.iter.Value() // revision looked for its error
			rev.Hash = block.Sum(val[len(val)-rev.Size:])
		}
		g.take(&rev)
	}
	if err := g.iter.Error(); err != nil {
		return false, g.w.s.blame(oid, err)
	}
	if last != 0 {
		g.gone = append(g.gone, oid)
	}
	return true, nil
}
