package replica

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Horizon takes a pack's horizon through the log; see index.AppendHorizon. With fence it would refuse transactions whose snapshot is older: those that have voted,
// in other threads than the pack's, may finish first, since a vote is a promise. It waits for them, at most wait: ErrBusy, and nothing was
// done; with wait < 0 it does not. After another error it may have been logged: repeating it does no harm.
func (r *Replica) Horizon(ctx context.Context, to zodb.Tid, fence bool, thread uint64, wait time.Duration) (index.Outcome, error) {
	if fence {
		err := r.table.raise(ctx, to, thread, wait)
		if errors.Is(err, ErrClosed) {
			err = r.failure()
		}
		if err != nil {
			return index.Outcome{}, err
		}
		defer r.table.lower()
	}
	return r.idempotent(ctx, func(id zodb.TxnID) []byte { return index.AppendHorizon(nil, id, to, fence) })
}

// Garbage takes a garbage list through the log, as Horizon; the outcome's verdict is index.Collected or index.Rescan.
func (r *Replica) Garbage(ctx context.Context, g *index.Garbage) (index.Outcome, error) {
	return r.idempotent(ctx, func(id zodb.TxnID) []byte { return index.AppendGarbage(nil, id, g) })
}

// idempotent proposes an entry under an id of its own.
func (r *Replica) idempotent(ctx context.Context, entry func(zodb.TxnID) []byte) (index.Outcome, error) {
	var id zodb.TxnID
	if _, err := rand.Read(id[:]); err != nil {
		return index.Outcome{}, err
	}
	o, err := r.decide(ctx, &proposal{id: id, entry: entry(id)})
	if doubt := new(InDoubt); errors.As(err, &doubt) { // nobody needs to look it up
		err = doubt.Cause
	}
	return o, err
}
