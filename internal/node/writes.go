package node

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/replica"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// NewOids is Operations.NewOids.
func (n *Node) NewOids(ctx context.Context, count int) (zodb.Oid, error) {
	if err := n.enterWrite(); err != nil {
		return 0, err
	}
	defer n.calls.RUnlock()
	if count < 1 || count > 1<<20 {
		return 0, fmt.Errorf("%w: a range of %d oids", ErrUsage, count)
	}
	if next := n.store.Stats().NextOid; next > zodb.MaxOid-zodb.Oid(count) {
		return 0, fmt.Errorf("no oids are left: the next would be %s, the largest is %s: %w", next, zodb.MaxOid, ErrTooLarge)
	}
	return n.log.NewOids(ctx, uint64(count))
}

// check refuses what is too large, or no transaction, before it reaches the log.
func (n *Node) check(txn *zodb.Txn) error {
	for i := range txn.Writes {
		w := &txn.Writes[i]
		if w.Oid > zodb.MaxOid {
			return fmt.Errorf("oid %s %w: the largest is %s", w.Oid, ErrID, zodb.MaxOid)
		}
		if size := int64(len(w.Data)); size > n.cfg.MaxObjectSize {
			return fmt.Errorf("oid %s has %d bytes, max-object-size is %d: %w", w.Oid, size, n.cfg.MaxObjectSize, ErrTooLarge)
		}
	}
	if oid, twice := writtenTwice(txn.Writes); twice {
		return fmt.Errorf("%w: two writes of oid %s in one transaction", ErrUsage, oid)
	}
	if size := index.CommitSize(txn); size > index.MaxTxnSize {
		return fmt.Errorf("a transaction of %d bytes, the limit is %d: %w", size, index.MaxTxnSize, ErrTooLarge)
	}
	return nil
}

// writtenTwice looks for zodb.Txn's invariant: of two writes one would be lost, and the transaction's digest would be of both.
func writtenTwice(writes []zodb.Write) (zodb.Oid, bool) {
	rising := true
	for i := 1; i < len(writes) && rising; i++ {
		rising = writes[i-1].Oid < writes[i].Oid
	}
	if rising {
		return 0, false
	}
	oids := make([]zodb.Oid, len(writes))
	for i := range writes {
		oids[i] = writes[i].Oid
	}
	slices.Sort(oids)
	for i := 1; i < len(oids); i++ {
		if oids[i-1] == oids[i] {
			return oids[i], true
		}
	}
	return 0, false
}

// Vote is Operations.Vote.
func (n *Node) Vote(ctx context.Context, txn *zodb.Txn) ([]Conflict, error) {
	if err := n.enterWrite(); err != nil {
		return nil, err
	}
	defer n.calls.RUnlock()
	if err := n.check(txn); err != nil {
		return nil, err
	}
	if err := n.seal(ctx, txn); err != nil {
		return nil, err
	}
	stale, err := n.log.Vote(ctx, txn)
	if err != nil || len(stale) == 0 {
		return nil, err
	}
	return n.conflicts(stale)
}

// forget lets a transaction be seen once it is committed, if it is.
func (n *Node) forget(id zodb.TxnID) {
	n.mu.Lock()
	delete(n.mu.holds, id)
	n.mu.Unlock()
}

// conflicts fetches what one round of conflict resolution needs. The objects are reserved: nobody changes them meanwhile.
func (n *Node) conflicts(stale []replica.Stale) ([]Conflict, error) {
	out := make([]Conflict, len(stale))
	for i, s := range stale {
		out[i] = Conflict{Oid: s.Oid, Base: s.Base, Committed: s.Committed}
		if s.Committed != 0 {
			rev, err := n.store.LoadSerial(s.Oid, s.Committed)
			if err != nil {
				return nil, fmt.Errorf("load oid %s at tid %s, which a conflict names: %w", s.Oid, s.Committed, err)
			}
			out[i].CommittedData = rev.Data
		}
		if s.Base == 0 {
			continue
		}
		rev, err := n.store.LoadSerial(s.Oid, s.Base)
		if errors.Is(err, index.ErrNotFound) { // packed: nothing can be resolved
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("load oid %s at tid %s, the base of a conflict: %w", s.Oid, s.Base, err)
		}
		out[i].BaseData = rev.Data
	}
	return out, nil
}

// Finish is Operations.Finish.
func (n *Node) Finish(ctx context.Context, id zodb.TxnID, hold bool) (zodb.Tid, error) {
	if err := n.enterFinish(id, hold); err != nil {
		return 0, err
	}
	defer n.calls.RUnlock()
	o, err := n.log.Finish(ctx, id)
	tid, err := n.finished(id, &o, err)
	if err == nil && !hold {
		visible := make(chan struct{})
		n.whenVisible(tid, func() { close(visible) })
		<-visible
	}
	return tid, err
}

// StartFinish is Operations.StartFinish.
func (n *Node) StartFinish(id zodb.TxnID, hold bool, done func(zodb.Tid, error)) {
	if err := n.enterFinish(id, hold); err != nil {
		done(0, err)
		return
	}
	n.log.StartFinish(id, func(o index.Outcome, err error) {
		tid, err := n.finished(id, &o, err)
		n.calls.RUnlock()
		if err != nil || hold {
			done(tid, err)
			return
		}
		n.whenVisible(tid, func() { done(tid, nil) })
	})
}

// enterFinish is enterWrite, and tells the cache and the blobs what comes.
func (n *Node) enterFinish(id zodb.TxnID, hold bool) error {
	if err := n.enterWrite(); err != nil {
		return err
	}
	if err := n.blobs.Unchanged(id); err != nil {
		n.calls.RUnlock()
		return err
	}
	if hold {
		n.mu.Lock()
		n.mu.holds[id] = true
		n.mu.Unlock()
	}
	n.blobs.Propose(id)
	return nil
}

func (n *Node) finished(id zodb.TxnID, o *index.Outcome, err error) (zodb.Tid, error) {
	if err == nil {
		return o.Tid, verdict(*o)
	}
	n.forget(id) // he does not know what to publish
	var doubt *replica.InDoubt
	if !errors.As(err, &doubt) { // else an outcome may yet come, and its blobs belong into their places then
		n.blobs.Withdraw(id)
	}
	return 0, err
}

// verdict turns a refusal by Apply into an error.
func verdict(o index.Outcome) error {
	switch o.Verdict {
	case index.Committed:
		return nil
	case index.Stale:
		return &replica.StaleRead{Oid: o.StaleOid, Committed: o.Serial}
	case index.Behind:
		return replica.ErrBehind
	case index.Regressed:
		return fmt.Errorf("tid %s: %w", o.Tid, ErrRegressed)
	case index.TooOld:
		return fmt.Errorf("transaction %s: %w", o.TxnID, ErrTooOld)
	default: // Aborted: nothing was written
		return fmt.Errorf("transaction %s was refused (%d): %w", o.TxnID, o.Verdict, replica.ErrVoteLost)
	}
}

// ErrTooOld says that a transaction was voted so long ago that it can't be told from one that is committed: it was refused.
var ErrTooOld = fmt.Errorf("it was voted too long ago: %w", replica.ErrVoteLost)

// ErrRegressed says that a restored transaction's tid does not rise above the last one.
var ErrRegressed = errors.New("the tid does not rise above the last transaction's")

// Abort is Operations.Abort.
func (n *Node) Abort(ctx context.Context, id zodb.TxnID) error {
	if err := n.enter(); err != nil {
		return err
	}
	defer n.calls.RUnlock()
	n.forget(id)
	if n.cfg.ReadOnly {
		return nil
	}
	if err := n.log.Abort(ctx, id); err != nil {
		return err
	}
	return n.forgetBlobs(id)
}

// Restore is Operations.Restore.
func (n *Node) Restore(ctx context.Context, txn *zodb.Txn) error {
	if err := n.enterWrite(); err != nil {
		return err
	}
	defer n.calls.RUnlock()
	if err := n.check(txn); err != nil {
		return err
	}
	if txn.Tid >= zodb.MaxTid {
		return fmt.Errorf("tid %s %w: tids are below %s", txn.Tid, ErrID, zodb.MaxTid)
	}
	if err := n.seal(ctx, txn); err != nil {
		return err
	}
	txn.Restore = true
	n.blobs.Propose(txn.ID)
	err := n.log.Restore(ctx, txn)
	if err != nil {
		n.blobs.Withdraw(txn.ID)
	}
	return err
}

// Drain is Operations.Drain.
func (n *Node) Drain(ctx context.Context) error {
	if err := n.enterWrite(); err != nil {
		return err
	}
	defer n.calls.RUnlock()
	return n.log.Drain(ctx)
}

// Outcome is Operations.Outcome.
func (n *Node) Outcome(ctx context.Context, id zodb.TxnID) (index.Outcome, bool, error) {
	if err := n.enter(); err != nil {
		return index.Outcome{}, false, err
	}
	defer n.calls.RUnlock()
	return n.log.Outcome(ctx, id)
}
