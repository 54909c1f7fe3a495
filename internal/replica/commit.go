package replica

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Stale is a written object that is no longer at the transaction's base.
type Stale struct {
	Oid       zodb.Oid
	Base      zodb.Tid
	Committed zodb.Tid // 0: the object does not exist
}

// Vote reserves what txn writes and reads, and keeps its entry for Finish. It returns the written objects that have changed, all
// reserved too: the caller resolves them and votes again with the same ID, or aborts. *StaleRead and every other error leave
// no reservation behind. It blocks for others' reservations, at most VoteWait: ErrBusy. The bytes of txn are copied.
func (r *Replica) Vote(ctx context.Context, txn *zodb.Txn) ([]Stale, error) {
	if err := r.failure(); err != nil {
		return nil, err
	}
	if !r.log.alone() && !r.leads.Load() {
		return nil, fmt.Errorf("vote: this peer does not lead: %w", ErrUnavailable)
	}
	if err := r.checkFence(txn); err != nil {
		r.table.abandon(txn.ID)
		return nil, err
	}
	if err := r.checkReads(txn); err != nil {
		r.table.abandon(txn.ID)
		return nil, err
	}
	g, err := r.reserve(ctx, txn)
	if err != nil {
		return nil, err
	}
	stale, err := r.judge(txn)
	if err != nil {
		r.table.abandon(txn.ID)
		return nil, err
	}
	if len(stale) > 0 {
		if err := r.table.vote(g, nil); err != nil { // what an earlier vote may have left to be finished is void
			return nil, err
		}
		return stale, nil
	}
	if txn.Status == 0 {
		txn.Status = ' '
	}
	txn.Floor = uint64(r.cfg.State.Stats().Applied)
	entry := index.AppendCommit(make([]byte, 0, index.CommitSize(txn)), txn)
	return nil, r.table.vote(g, entry)
}

// reserve returns txn's grant, the one of an earlier vote if it covers the same objects.
func (r *Replica) reserve(ctx context.Context, txn *zodb.Txn) (*grant, error) {
	if g, sent := r.table.get(txn.ID); g != nil {
		if sent {
			return nil, fmt.Errorf("transaction %s was finished already: %w", txn.ID, ErrVoteLost)
		}
		if g.covers(txn) {
			return g, nil
		}
		r.table.release(txn.ID)
	}
	g := newGrant(txn)
	err := r.table.acquire(ctx, g, r.cfg.VoteWait)
	if errors.Is(err, ErrClosed) {
		err = r.failure()
	}
	if err != nil {
		return nil, fmt.Errorf("reserve %d objects: %w", len(g.writes)+len(g.reads), err)
	}
	return g, nil
}

func newGrant(txn *zodb.Txn) *grant {
	g := &grant{id: txn.ID, snapshot: txn.Snapshot, thread: txn.Thread, writes: make([]zodb.Oid, len(txn.Writes))}
	for i := range txn.Writes {
		g.writes[i] = txn.Writes[i].Oid
	}
	if len(txn.Reads) == 0 {
		return g
	}
	seen := make(map[zodb.Oid]bool, len(txn.Writes)+len(txn.Reads))
	for _, oid := range g.writes {
		seen[oid] = true
	}
	for _, read := range txn.Reads {
		if !seen[read.Oid] {
			seen[read.Oid] = true
			g.reads = append(g.reads, read.Oid)
		}
	}
	return g
}

func (g *grant) covers(txn *zodb.Txn) bool {
	if g.snapshot != txn.Snapshot {
		return false
	}
	held := make(map[zodb.Oid]bool, len(g.writes)+len(g.reads))
	for _, oid := range g.reads {
		held[oid] = false
	}
	for _, oid := range g.writes {
		held[oid] = true
	}
	for i := range txn.Writes {
		if !held[txn.Writes[i].Oid] {
			return false
		}
	}
	for _, read := range txn.Reads {
		if _, ok := held[read.Oid]; !ok {
			return false
		}
	}
	return true
}

func (r *Replica) checkFence(txn *zodb.Txn) error {
	if txn.Snapshot != 0 && txn.Snapshot < r.cfg.State.Stats().Fence {
		return ErrBehind
	}
	return nil
}

func (r *Replica) checkReads(txn *zodb.Txn) error {
	if len(txn.Reads) == 0 {
		return nil
	}
	heads, err := r.heads(len(txn.Reads), func(i int) zodb.Oid { return txn.Reads[i].Oid })
	if err != nil {
		return err
	}
	for i, read := range txn.Reads {
		if heads[i] != read.Serial {
			return &StaleRead{Oid: read.Oid, Serial: read.Serial, Committed: heads[i]}
		}
	}
	return nil
}

// judge is asked under the reservation: what it finds stays so until the outcome.
func (r *Replica) judge(txn *zodb.Txn) (stale []Stale, err error) {
	if err := r.checkFence(txn); err != nil { // a horizon may have been waited for
		return nil, err
	}
	if err := r.checkReads(txn); err != nil {
		return nil, err
	}
	heads, err := r.heads(len(txn.Writes), func(i int) zodb.Oid { return txn.Writes[i].Oid })
	if err != nil {
		return nil, err
	}
	for i := range txn.Writes {
		if w := &txn.Writes[i]; heads[i] != w.Base {
			stale = append(stale, Stale{Oid: w.Oid, Base: w.Base, Committed: heads[i]})
		}
	}
	return stale, nil
}

// heads returns the serials of n objects. They are asked for in the order of their oids: neighbours lie in one table block.
func (r *Replica) heads(n int, oid func(i int) zodb.Oid) ([]zodb.Tid, error) {
	order, oids, heads := make([]int, n), make([]zodb.Oid, n), make([]zodb.Tid, n)
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(oid(a), oid(b)) })
	for i, n := range order {
		oids[i] = oid(n)
	}
	return heads, r.cfg.State.Heads(oids, func(i int, serial zodb.Tid) { heads[order[i]] = serial })
}

// Finish commits what was voted and returns Apply's outcome. When it says Committed the transaction is on the disks of a
// majority. *InDoubt: the outcome is not known yet. Any other error (ErrVoteLost, ErrUnavailable, *Broken ...): nothing was
// written, and never will be.
func (r *Replica) Finish(ctx context.Context, id zodb.TxnID) (index.Outcome, error) {
	p, err := r.finishing(id)
	if err != nil {
		return index.Outcome{}, err
	}
	o, err := r.decide(ctx, p)
	r.unvote(id, err)
	return o, err
}

// StartFinish is Finish that does not wait: it calls done once, by the latest after FinishTimeout, from any goroutine or before it
// returns. done may neither block nor call the replica.
func (r *Replica) StartFinish(id zodb.TxnID, done func(index.Outcome, error)) {
	p, err := r.finishing(id)
	if err != nil {
		done(index.Outcome{}, err)
		return
	}
	p.tell = func(o index.Outcome, err error) {
		r.unvote(id, err)
		done(o, err)
	}
	if err := r.propose(p); err != nil {
		p.tell(index.Outcome{}, err)
	}
}

func (r *Replica) finishing(id zodb.TxnID) (*proposal, error) {
	entry := r.table.send(id)
	if entry == nil {
		return nil, fmt.Errorf("finish transaction %s: %w", id, ErrVoteLost)
	}
	return &proposal{id: id, entry: entry, suggest: true}, nil
}

// unvote ends the reservation of a transaction whose Finish surely wrote nothing.
func (r *Replica) unvote(id zodb.TxnID, err error) {
	var doubt *InDoubt
	if err != nil && !errors.As(err, &doubt) {
		r.table.release(id)
	}
}

// Abort ends a transaction. One that was already finished gets a tombstone; what is first in the log counts, and Outcome tells.
// Unknown transactions are no error.
func (r *Replica) Abort(ctx context.Context, id zodb.TxnID) error {
	if !r.table.abandon(id) {
		return nil
	}
	_, err := r.decide(ctx, &proposal{id: id, entry: index.AppendTombstone(nil, id)})
	return err
}

// NewOids reserves count oids through the log and returns the first. Oids of a reservation whose answer is lost are never used.
func (r *Replica) NewOids(ctx context.Context, count uint64) (zodb.Oid, error) {
	var id zodb.TxnID
	if _, err := rand.Read(id[:]); err != nil {
		return 0, err
	}
	o, err := r.decide(ctx, &proposal{id: id, entry: index.AppendOids(nil, count, id)})
	var doubt *InDoubt
	if errors.As(err, &doubt) {
		return 0, fmt.Errorf("reserve %d oids: %w", count, doubt.Cause)
	}
	return o.FirstOid, err
}

// Outcome looks a transaction up; one that is under way is waited for. false: it is unknown here, or too old to be remembered.
func (r *Replica) Outcome(ctx context.Context, id zodb.TxnID) (index.Outcome, bool, error) {
	r.mu.Lock()
	first := r.mu.waiting[id]
	if first == nil || r.mu.err != nil {
		r.mu.Unlock()
		return r.cfg.State.Outcome(id)
	}
	told := make(chan answer, 1)
	p := &proposal{id: id, since: time.Now(), tell: func(o index.Outcome, err error) { told <- answer{o, err} }}
	p.next, first.next = first.next, p
	r.mu.Unlock()
	o, err := r.hear(ctx, p, told)
	return o, err == nil, err
}
