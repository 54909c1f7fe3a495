package replica

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
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
		return stale, nil
	}
	if txn.Status == 0 {
		txn.Status = ' '
	}
	txn.Floor = uint64(r.cfg.State.Stats().Applied)
	entry := index.AppendCommit(make([]byte, 0, index.CommitSize(txn)), txn)
	if !r.table.vote(g, entry) {
		return nil, ErrVoteLost
	}
	return nil, nil
}

// reserve returns txn's grant, the one of an earlier vote if it covers the same objects.
func (r *Replica) reserve(ctx context.Context, txn *zodb.Txn) (*grant, error) {
	if g := r.table.get(txn.ID); g != nil {
		if g.sent {
			return nil, fmt.Errorf("transaction %s was finished already: %w", txn.ID, ErrVoteLost)
		}
		if g.covers(txn) {
			return g, nil
		}
		r.table.release(txn.ID)
	}
	g := &grant{id: txn.ID, writes: make([]zodb.Oid, len(txn.Writes))}
	var written map[zodb.Oid]bool
	if len(txn.Reads) > 0 {
		written = make(map[zodb.Oid]bool, len(txn.Writes))
	}
	for i := range txn.Writes {
		g.writes[i] = txn.Writes[i].Oid
		if written != nil {
			written[g.writes[i]] = true
		}
	}
	seen := make(map[zodb.Oid]bool, len(txn.Reads))
	for _, read := range txn.Reads {
		if !written[read.Oid] && !seen[read.Oid] {
			seen[read.Oid] = true
			g.reads = append(g.reads, read.Oid)
		}
	}
	wait, cancel := context.WithTimeout(ctx, r.cfg.VoteWait)
	defer cancel()
	err := r.table.acquire(wait, g)
	if errors.Is(err, ErrClosed) {
		err = r.failure()
	}
	if err != nil {
		return nil, fmt.Errorf("reserve %d objects: %w", len(g.writes), err)
	}
	return g, nil
}

func (g *grant) covers(txn *zodb.Txn) bool {
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

func (r *Replica) checkReads(txn *zodb.Txn) error {
	for _, read := range txn.Reads {
		at, err := r.cfg.State.Head(read.Oid)
		if err != nil {
			return err
		}
		if at != read.Serial {
			return &StaleRead{Oid: read.Oid, Serial: read.Serial, Committed: at}
		}
	}
	return nil
}

// judge is asked under the reservation: what it finds stays so until the outcome.
func (r *Replica) judge(txn *zodb.Txn) (stale []Stale, err error) {
	if err := r.checkReads(txn); err != nil {
		return nil, err
	}
	for i := range txn.Writes {
		w := &txn.Writes[i]
		at, err := r.cfg.State.Head(w.Oid)
		if err != nil {
			return nil, err
		}
		if at != w.Base {
			stale = append(stale, Stale{Oid: w.Oid, Base: w.Base, Committed: at})
		}
	}
	return stale, nil
}

// Finish commits what was voted and returns Apply's outcome. When it says Committed the transaction is on the disks of a
// majority. ErrVoteLost: nothing was written. *InDoubt: the outcome is unknown yet.
func (r *Replica) Finish(ctx context.Context, id zodb.TxnID) (index.Outcome, error) {
	entry, again := r.table.send(id)
	if entry == nil || again {
		return index.Outcome{}, fmt.Errorf("finish transaction %s: %w", id, ErrVoteLost)
	}
	return r.decide(ctx, &proposal{id: id, entry: entry, commit: true, done: make(chan index.Outcome, 1)})
}

// decide takes an entry through the log. An error before the entry was proposed is returned as it is; later, it is *InDoubt.
func (r *Replica) decide(ctx context.Context, p *proposal) (index.Outcome, error) {
	if err := r.propose(p); err != nil {
		r.table.release(p.id)
		return index.Outcome{}, err
	}
	select {
	case o := <-p.done: // the usual way: this goroutine drove
		return o, nil
	default:
	}
	timer := time.NewTimer(r.cfg.FinishTimeout)
	defer timer.Stop()
	var cause error
	select {
	case o := <-p.done:
		return o, nil
	case <-r.dead:
		select {
		case o := <-p.done:
			return o, nil
		default:
		}
		cause = r.failure()
	case <-ctx.Done():
		cause = ctx.Err()
	case <-timer.C:
		cause = fmt.Errorf("no outcome within %s: %w", r.cfg.FinishTimeout, ErrUnavailable)
	}
	if r.withdraw(p) {
		r.table.release(p.id)
		return index.Outcome{}, cause
	}
	return index.Outcome{}, &InDoubt{Txn: p.id, Cause: cause}
}

// withdraw takes a proposal back that raft never saw: then nothing was written.
func (r *Replica) withdraw(p *proposal) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, q := range r.mu.queue {
		if q == p {
			r.mu.queue = append(r.mu.queue[:i:i], r.mu.queue[i+1:]...)
			delete(r.mu.waiting, p.id)
			return true
		}
	}
	return false
}

// Abort ends a transaction. One that was already proposed gets a tombstone; what is first in the log counts, and Outcome tells.
// Unknown transactions are no error.
func (r *Replica) Abort(ctx context.Context, id zodb.TxnID) error {
	if !r.table.abandon(id) {
		return nil
	}
	tomb := &proposal{id: id, entry: index.AppendTombstone(nil, id), done: make(chan index.Outcome, 1)}
	_, err := r.decide(ctx, tomb)
	return err
}

// NewOids reserves count oids through the log and returns the first. Oids of a reservation whose answer is lost are never used.
func (r *Replica) NewOids(ctx context.Context, count uint64) (zodb.Oid, error) {
	var id zodb.TxnID
	if _, err := rand.Read(id[:]); err != nil {
		return 0, err
	}
	o, err := r.decide(ctx, &proposal{id: id, entry: index.AppendOids(nil, count, id), done: make(chan index.Outcome, 1)})
	if err != nil {
		var doubt *InDoubt
		if errors.As(err, &doubt) {
			return 0, fmt.Errorf("reserve %d oids: %w", count, doubt.Cause)
		}
		return 0, err
	}
	return o.FirstOid, nil
}

// Restore proposes a copy of a transaction with its tid and does not wait: it is durable after Drain. It blocks while maxRestoring
// bytes are under way. What an earlier one met is returned by the next call, or by Drain.
func (r *Replica) Restore(ctx context.Context, txn *zodb.Txn) error {
	txn.Restore, txn.Floor = true, uint64(r.cfg.State.Stats().Applied)
	if txn.Status == 0 {
		txn.Status = ' '
	}
	entry := index.AppendCommit(make([]byte, 0, index.CommitSize(txn)), txn)
	if err := r.room(ctx, len(entry)); err != nil {
		return err
	}
	err := r.propose(&proposal{id: txn.ID, entry: entry, commit: true, restore: true, done: make(chan index.Outcome, 1)})
	if err != nil {
		r.mu.Lock()
		r.mu.restoring -= len(entry)
		r.mu.Unlock()
	}
	return err
}

// room waits until size more bytes may be under way, and counts them.
func (r *Replica) room(ctx context.Context, size int) error {
	stop := context.AfterFunc(ctx, r.wakeIdle)
	defer stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		if err := r.restoreError(ctx); err != nil {
			return err
		}
		if r.mu.restoring == 0 || r.mu.restoring+size <= maxRestoring {
			r.mu.restoring += size
			return nil
		}
		r.mu.idle.Wait()
	}
}

// Drain waits until every restored transaction is durable and applied, and returns the first failure of one.
func (r *Replica) Drain(ctx context.Context) error {
	stop := context.AfterFunc(ctx, r.wakeIdle)
	defer stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		if err := r.restoreError(ctx); err != nil {
			return err
		}
		if r.mu.restoring == 0 {
			return nil
		}
		r.mu.idle.Wait()
	}
}

func (r *Replica) wakeIdle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.idle.Broadcast()
}

// restoreError tells a restore's failure once. REQUIRES: r.mu.
func (r *Replica) restoreError(ctx context.Context) error {
	if err := r.mu.restored; err != nil {
		r.mu.restored = nil
		return err
	}
	if r.mu.err != nil {
		return r.mu.err
	}
	return ctx.Err()
}

// Outcome looks a transaction up; false: it is unknown here, or too old to be remembered.
func (r *Replica) Outcome(_ context.Context, id zodb.TxnID) (index.Outcome, bool, error) {
	return r.cfg.State.Outcome(id)
}
