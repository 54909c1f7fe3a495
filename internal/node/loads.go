package node

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// TryLoad is Operations.TryLoad.
func (n *Node) TryLoad(oid zodb.Oid, at zodb.Tid, buf []byte) (int, zodb.Tid, bool) {
	if n.closed.Load() {
		return 0, 0, false
	}
	return n.cache.tryGet(oid, at, buf)
}

// Load is Operations.Load.
func (n *Node) Load(_ context.Context, oid zodb.Oid, at zodb.Tid) (index.Revision, error) {
	rev, err := n.load(oid, at)
	return n.hide(rev), err
}

// LoadTo is Operations.LoadTo.
func (n *Node) LoadTo(_ context.Context, oid zodb.Oid, at zodb.Tid, buf []byte) (int, zodb.Tid, error) {
	// TryLoad may have met the writer that brought it.
	if size, tid, ok := n.cache.get(oid, at, buf); ok && !n.closed.Load() {
		return size, tid, nil
	}
	if err := n.enter(); err != nil {
		return 0, 0, err
	}
	defer n.calls.RUnlock()
	if n.ahead.instead(oid) {
		if size, tid, ok := n.cache.get(oid, at, buf); ok {
			return size, tid, nil
		}
	}
	begun := n.cache.begin(oid)
	gone, err := n.store.Gone(oid)
	if err != nil {
		return 0, 0, err
	}
	size, tid := 0, zodb.Tid(0)
	fetched, err := n.store.ReadPinned(oid, at, func(rev *index.Revision) {
		if size, tid = len(rev.Data), rev.Tid; size <= len(buf) {
			copy(buf, rev.Data)
		}
		if rev.Tid > gone { // else it is nobody's but older snapshots'
			n.cache.fill(rev, begun)
		}
	})
	if err != nil {
		return 0, 0, n.packedAway(oid, at, err)
	}
	if tid > gone {
		n.ahead.missed(oid, fetched)
	}
	return size, tid, nil
}

// load reads from the state.
func (n *Node) load(oid zodb.Oid, at zodb.Tid) (index.Revision, error) {
	if err := n.enter(); err != nil {
		return index.Revision{}, err
	}
	defer n.calls.RUnlock()
	begun := n.cache.begin(oid)
	rev, err := n.store.Load(oid, at)
	if errors.Is(err, index.ErrNotFound) {
		err = n.packedAway(oid, at, err)
	}
	if err != nil {
		return rev, err
	}
	n.cache.fill(&rev, begun)
	n.ahead.missed(oid, false)
	return rev, nil
}

// PackedAway says that a snapshot is older than the last pack, and that what it would see may be deleted.
type PackedAway struct {
	Oid     zodb.Oid
	At      zodb.Tid // the snapshot
	Horizon zodb.Tid
}

func (e *PackedAway) Error() string {
	return fmt.Sprintf("oid %s at tid %s: the database was packed to %s since", e.Oid, e.At, e.Horizon)
}

// LoadPinned is Operations.LoadPinned.
func (n *Node) LoadPinned(_ context.Context, oid zodb.Oid, at zodb.Tid) (index.Revision, error) {
	rev, err := n.loadPinned(oid, at)
	return n.hide(rev), err
}

// loadPinned is load for LoadPinned.
func (n *Node) loadPinned(oid zodb.Oid, at zodb.Tid) (index.Revision, error) {
	if err := n.enter(); err != nil {
		return index.Revision{}, err
	}
	defer n.calls.RUnlock()
	begun := n.cache.begin(oid)
	gone, err := n.store.Gone(oid)
	if err != nil {
		return index.Revision{}, err
	}
	rev, err := n.store.LoadPinned(oid, at)
	if err != nil {
		return rev, n.packedAway(oid, at, err)
	}
	if rev.Tid > gone {
		n.cache.fill(&rev, begun)
		n.ahead.missed(oid, false)
	}
	return rev, nil
}

// Prefetch is Operations.Prefetch.
func (n *Node) Prefetch(ctx context.Context, oids []zodb.Oid, at zodb.Tid) error {
	if err := n.enter(); err != nil {
		return err
	}
	defer n.calls.RUnlock()
	for _, oid := range slices.Sorted(slices.Values(oids)) { // neighbours lie in one table block
		if err := ctx.Err(); err != nil {
			return err
		}
		if n.cache.has(oid, at) || n.ahead.help(oid) && n.cache.has(oid, at) {
			continue
		}
		begun := n.cache.begin(oid)
		gone, err := n.store.Gone(oid)
		if err == nil {
			_, err = n.store.ReadPinned(oid, at, func(rev *index.Revision) {
				if rev.Tid > gone {
					n.cache.fill(rev, begun)
				}
			})
		}
		if err != nil && !errors.Is(err, index.ErrNotFound) && !errors.Is(err, index.ErrNoRevision) {
			return err
		}
	}
	return nil
}

// packedAway turns "not found" at a position that is packed into the error that says so.
func (n *Node) packedAway(oid zodb.Oid, at zodb.Tid, err error) error {
	if horizon := n.store.Stats().Horizon; at < horizon && (errors.Is(err, index.ErrNotFound) || errors.Is(err, index.ErrNoRevision)) {
		return &PackedAway{Oid: oid, At: at, Horizon: horizon}
	}
	return err
}

// hide leaves out a successor that is not published yet.
func (n *Node) hide(rev index.Revision) index.Revision {
	if rev.Next > n.Visible() {
		rev.Next = 0
	}
	return rev
}

// LoadBatch is Operations.LoadBatch.
func (n *Node) LoadBatch(ctx context.Context, oids []zodb.Oid, at zodb.Tid) ([]index.Revision, []error) {
	revs, errs := make([]index.Revision, len(oids)), make([]error, len(oids))
	fail := func(err error) ([]index.Revision, []error) {
		for i := range errs {
			errs[i] = err
		}
		return revs, errs
	}
	if err := n.enter(); err != nil {
		return fail(err)
	}
	defer n.calls.RUnlock()
	begun := make([]uint64, len(oids))
	for i, oid := range oids {
		begun[i] = n.cache.begin(oid)
	}
	err := n.store.LoadMany(oids, at, func(i int, rev index.Revision, err error) {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			n.cache.fill(&rev, begun[i])
		}
		revs[i], errs[i] = n.hide(rev), err
	})
	if err != nil {
		return fail(err)
	}
	return revs, errs
}

// LoadSerial is Operations.LoadSerial; it sees transactions that are not published yet, for conflict resolution.
func (n *Node) LoadSerial(_ context.Context, oid zodb.Oid, tid zodb.Tid) (index.Revision, error) {
	if err := n.enter(); err != nil {
		return index.Revision{}, err
	}
	defer n.calls.RUnlock()
	return n.store.LoadSerial(oid, tid)
}

// LoadRevisions is Operations.LoadRevisions.
func (n *Node) LoadRevisions(ctx context.Context, keys []index.RevisionKey, limit int, repeats bool) ([]index.Revision, []zodb.Tid, error) {
	if err := n.enter(); err != nil {
		return nil, nil, err
	}
	defer n.calls.RUnlock()
	n.ahead.passed(len(keys))
	for {
		revs, older, over, err := n.loadRevisions(ctx, keys, limit, repeats)
		if err != nil || !over {
			return revs, older, err
		}
		// More than the limit was met before all were read: what a smaller number of them has is known then.
		keys = keys[:max(1, len(keys)/8)]
		if len(keys) == 1 {
			limit = math.MaxInt
		}
	}
}

func (n *Node) loadRevisions(ctx context.Context, keys []index.RevisionKey, limit int, repeats bool) (revs []index.Revision, older []zodb.Tid, over bool, _ error) {
	var size atomic.Int64
	revs, errs := make([]index.Revision, len(keys)), make([]error, len(keys))
	if repeats {
		older = make([]zodb.Tid, len(keys))
	}
	n.store.LoadRevisions(keys, repeats, func(i int, rev index.Revision, repeated zodb.Tid, err error) {
		if err == nil {
			err = ctx.Err()
		}
		if errors.Is(err, index.ErrNotFound) {
			rev, err = index.Revision{}, nil
		}
		if size.Add(int64(len(rev.Data))) > int64(limit) {
			rev.Data = nil // not to be returned: only counted
		}
		revs[i], errs[i] = rev, err
		if repeats {
			older[i] = repeated
		}
	})
	if size.Load() > int64(limit) {
		return nil, nil, true, nil
	}
	for i, err := range errs {
		if err != nil {
			return nil, nil, false, fmt.Errorf("load oid %s at tid %s: %w", keys[i].Oid, keys[i].Tid, err)
		}
	}
	return revs, older, false, nil
}
