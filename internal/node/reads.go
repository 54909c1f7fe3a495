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

// History is Operations.History.
func (n *Node) History(_ context.Context, oid zodb.Oid, size int) ([]index.Revision, error) {
	if err := n.enter(); err != nil {
		return nil, err
	}
	defer n.calls.RUnlock()
	// What is committed, but not published, is not the reader's to see: such revisions come first and are asked for in addition.
	for hidden := 0; ; {
		visible := n.Visible()
		revs, err := n.store.History(oid, size+hidden)
		if err != nil {
			return nil, err
		}
		first := 0
		for first < len(revs) && revs[first].Tid > visible {
			first++
		}
		if first <= hidden {
			if n.Overtaken(visible) { // what the reader would have seen was packed
				continue
			}
			if revs = revs[first:]; len(revs) == 0 && size > 0 {
				return nil, index.ErrNotFound
			}
			return revs[:min(size, len(revs))], nil
		}
		hidden = first
	}
}

// Transactions is Operations.Transactions.
func (n *Node) Transactions(ctx context.Context, from, to zodb.Tid, limit int) ([]index.Header, error) {
	return n.headers(ctx, n.store.Transactions, from, to, limit)
}

// TransactionsBackwards is Operations.TransactionsBackwards.
func (n *Node) TransactionsBackwards(ctx context.Context, from, to zodb.Tid, limit int) ([]index.Header, error) {
	return n.headers(ctx, n.store.TransactionsBackwards, from, to, limit)
}

func (n *Node) headers(
	ctx context.Context, read func(from, to zodb.Tid, yield func(index.Header) bool) error, from, to zodb.Tid, limit int,
) (hs []index.Header, err error) {
	if err := n.enter(); err != nil {
		return nil, err
	}
	defer n.calls.RUnlock()
	if limit <= 0 {
		return nil, nil
	}
	err = read(from, min(to, n.Visible()), func(h index.Header) bool {
		hs = append(hs, h)
		return len(hs) < limit && ctx.Err() == nil
	})
	if err == nil {
		err = ctx.Err()
	}
	return hs, err
}

// currentBytes is how much data one answer of Current holds, about.
const currentBytes = 4 << 20

// Current is Operations.Current.
func (n *Node) Current(ctx context.Context, from zodb.Oid, limit int) (revs []index.Revision, err error) {
	if err := n.enter(); err != nil {
		return nil, err
	}
	defer n.calls.RUnlock()
	if limit <= 0 {
		return nil, nil
	}
	for {
		visible, size := n.Visible(), 0
		revs = nil
		err = n.store.Current(from, visible, func(rev index.Revision) bool {
			revs = append(revs, rev)
			size += rev.Size
			return len(revs) < limit && size < currentBytes && ctx.Err() == nil
		})
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || !n.Overtaken(visible) {
			return revs, err
		}
	}
}

// Repeats is Operations.Repeats.
func (n *Node) Repeats(ctx context.Context, keys []index.RevisionKey) ([]zodb.Tid, error) {
	if err := n.enter(); err != nil {
		return nil, err
	}
	defer n.calls.RUnlock()
	tids := make([]zodb.Tid, len(keys))
	for i, key := range keys {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		var err error
		if tids[i], err = n.store.Repeats(key.Oid, key.Tid); err != nil && !errors.Is(err, index.ErrNotFound) {
			return nil, err
		}
	}
	return tids, nil
}

// Visible is Operations.Visible.
func (n *Node) Visible() zodb.Tid { return zodb.Tid(n.visible.Load()) }

// Overtaken tells whether what was read at a position that was visible, and that no pin held, has to be read anew: a pack has passed it, and
// objects may lack there that exist now. It blocks nothing.
func (n *Node) Overtaken(at zodb.Tid) bool { return at < n.store.Stats().Horizon && at < n.Visible() }

// Recent tells whether Pin and Advance answer from memory what was written since prev.
func (n *Node) Recent(prev zodb.Tid) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return prev >= n.mu.changes.from
}

// Advance is Operations.Advance.
func (n *Node) Advance(ctx context.Context, prev zodb.Tid) (zodb.Tid, []index.Change, bool, error) {
	if err := n.enter(); err != nil {
		return 0, nil, false, err
	}
	defer n.calls.RUnlock()
	return n.advance(ctx, prev, n.Visible())
}

func (n *Node) advance(ctx context.Context, prev, now zodb.Tid) (zodb.Tid, []index.Change, bool, error) {
	if prev >= now {
		return prev, nil, true, nil
	}
	n.mu.Lock()
	txns, ok := n.mu.changes.between(prev, now)
	n.mu.Unlock()
	if !ok {
		var err error
		if txns, ok, err = n.changesFromRows(ctx, prev, now); err != nil {
			return 0, nil, false, err
		}
	}
	if !ok {
		return now, nil, false, nil
	}
	list, ok := lastWriters(txns)
	return now, list, ok, nil
}

// changesFromRows reads what the ring has forgotten, false if it names more than a reader wants to know.
func (n *Node) changesFromRows(ctx context.Context, prev, now zodb.Tid) (txns []change, _ bool, err error) {
	packed := func() bool { return prev < n.store.Stats().Horizon } // rows may be gone that named a change
	if packed() {
		return nil, false, nil
	}
	total := 0
	err = n.store.Transactions(prev+1, now, func(h index.Header) bool {
		txns = append(txns, change{h.Tid, h.Oids})
		total += len(h.Oids)
		return total <= 4*maxChanges && ctx.Err() == nil
	})
	if err == nil {
		err = ctx.Err()
	}
	return txns, total <= 4*maxChanges && !packed(), err // a pack may have come meanwhile
}

// Stats is Operations.Stats.
func (n *Node) Stats() index.Stats { return n.store.Stats() }

// DiskSize is what the database takes on disk, in bytes.
func (n *Node) DiskSize() uint64 {
	if n.enter() != nil {
		return 0
	}
	defer n.calls.RUnlock()
	return n.store.DiskSize()
}
