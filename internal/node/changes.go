package node

import (
	"context"
	"slices"
	"sort"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

const (
	// maxChanges is how many oids Advance names at most: beyond, a connection does better to forget its cache.
	maxChanges = 100_000
	// ringTxns and ringOids bound the recent transactions in memory: about 3 MiB. An older prev is answered from the rows.
	ringTxns = 1 << 15
	ringOids = 1 << 18
)

// changes remembers the oids of recent transactions, in order. Its owner locks.
type changes struct {
	txns []change // oldest first
	oids int
	from zodb.Tid // Invariant: every transaction after from is here
}

type change struct {
	tid  zodb.Tid
	oids []zodb.Oid
}

func (c *changes) add(tid zodb.Tid, oids []zodb.Oid) {
	c.txns = append(c.txns, change{tid, oids})
	c.oids += len(oids)
	drop := 0
	for drop < len(c.txns)-1 && (len(c.txns)-drop > ringTxns || c.oids > ringOids) {
		c.oids -= len(c.txns[drop].oids)
		c.from = c.txns[drop].tid
		drop++
	}
	if drop > 0 {
		c.txns = c.txns[drop:] // append moves the rest into a new array when this one is used up
	}
}

// between returns the transactions in (prev, now], false if they are not all here any more. The slice may be read after
// the owner unlocked: its items are never written again.
func (c *changes) between(prev, now zodb.Tid) ([]change, bool) {
	if prev < c.from {
		return nil, false
	}
	first := sort.Search(len(c.txns), func(i int) bool { return c.txns[i].tid > prev })
	last := sort.Search(len(c.txns), func(i int) bool { return c.txns[i].tid > now })
	return c.txns[first:max(first, last)], true
}

// lastWriters gives each oid once, with the transaction that wrote it last; false if they are more than maxChanges.
func lastWriters(txns []change) ([]index.Change, bool) {
	total := 0
	for _, t := range txns {
		total += len(t.oids)
	}
	out := make([]index.Change, 0, min(total, maxChanges))
	if len(txns) == 1 {
		if total > maxChanges {
			return nil, false
		}
		for _, oid := range txns[0].oids {
			out = append(out, index.Change{Oid: oid, Tid: txns[0].tid})
		}
		return out, true
	}
	seen := make(map[zodb.Oid]struct{}, min(total, maxChanges))
	for _, t := range slices.Backward(txns) {
		for _, oid := range t.oids {
			if _, ok := seen[oid]; ok {
				continue
			}
			if len(seen) == maxChanges {
				return nil, false
			}
			seen[oid] = struct{}{}
			out = append(out, index.Change{Oid: oid, Tid: t.tid})
		}
	}
	return out, true
}

// Visible is Operations.Visible.
func (n *Node) Visible() zodb.Tid { return zodb.Tid(n.visible.Load()) }

// Overtaken tells whether a read at `at`, which was visible and which no pin holds, has to be repeated at what is visible now: a pack went past
// it, so that the read may have missed objects that exist. It looks into memory only.
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
