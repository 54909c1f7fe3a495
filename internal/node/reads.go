package node

import (
	"context"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

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
