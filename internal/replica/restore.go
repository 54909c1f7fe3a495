package replica

import (
	"context"
	"fmt"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Refused says that Apply refused a restored transaction.
type Refused struct{ Outcome index.Outcome }

func (e *Refused) Error() string {
	return fmt.Sprintf("restored transaction %s was refused (verdict %d)", e.Outcome.TxnID, e.Outcome.Verdict)
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
	err := r.propose(&proposal{id: txn.ID, entry: entry, restore: true})
	if err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.mu.restoring -= len(entry)
	}
	return err
}

// Drain waits until every restored transaction is durable and applied, and returns the first failure of one.
func (r *Replica) Drain(ctx context.Context) error {
	return r.calm(ctx, func() bool { return r.mu.restoring == 0 })
}

// room waits until size more bytes may be under way, and counts them.
func (r *Replica) room(ctx context.Context, size int) error {
	return r.calm(ctx, func() bool {
		if r.mu.restoring > 0 && r.mu.restoring+size > maxRestoring {
			return false
		}
		r.mu.restoring += size
		return true
	})
}

// calm waits until done says so; it is asked with r.mu held.
func (r *Replica) calm(ctx context.Context, done func() bool) error {
	if d := ctx.Done(); d != nil {
		defer context.AfterFunc(ctx, func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.mu.idle.Broadcast()
		})()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		if err := r.mu.restored; err != nil { // told once
			r.mu.restored = nil
			return err
		}
		if r.mu.err != nil {
			return r.mu.err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if done() {
			return nil
		}
		r.mu.idle.Wait()
	}
}

// restored takes down a restored transaction's outcome. REQUIRES: r.mu.
func (r *Replica) restored(o index.Outcome, size int) {
	r.mu.restoring -= size
	if o.Verdict != index.Committed && r.mu.restored == nil {
		r.mu.restored = &Refused{Outcome: o}
	}
	r.mu.idle.Broadcast()
}
