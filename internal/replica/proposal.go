package replica

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/raft/v3"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// proposal is an entry on its way through the log, or somebody who waits for that of another. Guarded by Replica.mu.
type proposal struct {
	id      zodb.TxnID
	entry   []byte // nil: only waits
	suggest bool   // a commit entry, whose tid is suggested when it is first proposed
	restore bool   // counted in Replica.mu.restoring until it is decided
	given   bool   // raft took it at least once: from here on it may be in a log, and its bytes are shared
	number  uint64
	since   time.Time
	next    *proposal // of the same transaction
	// tell is who waits; nil: nobody, or he was told. Called once and without a lock, from any goroutine, it may neither block
	// nor call the replica. *InDoubt: the entry may be in the log. Any other error: it is not, and never will be.
	tell func(index.Outcome, error)
}

// answer is what a proposal's waiter is told.
type answer struct {
	outcome index.Outcome
	err     error
}

// decide takes an entry through the log and waits, at most FinishTimeout. Errors: see proposal.tell.
func (r *Replica) decide(ctx context.Context, p *proposal) (index.Outcome, error) {
	told := make(chan answer, 1)
	p.tell = func(o index.Outcome, err error) { told <- answer{o, err} }
	if err := r.propose(p); err != nil {
		return index.Outcome{}, err
	}
	return r.hear(ctx, p, told)
}

// hear waits until p is told, or gives up when ctx ends.
func (r *Replica) hear(ctx context.Context, p *proposal, told <-chan answer) (index.Outcome, error) {
	select {
	case a := <-told:
		return a.outcome, a.err
	case <-ctx.Done():
	}
	r.mu.Lock()
	tell := r.giveUp(p, ctx.Err())
	r.mu.Unlock()
	if tell != nil {
		tell()
	}
	a := <-told // now, if not at the same moment before
	return a.outcome, a.err
}

// propose queues p. After an error nobody is told.
func (r *Replica) propose(p *proposal) error {
	if err := r.rouse(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.mu.err; err != nil {
		return err
	}
	r.mu.proposed++
	p.number, p.since = r.mu.proposed, time.Now()
	p.next = r.mu.waiting[p.id]
	r.mu.waiting[p.id] = p
	r.mu.queue = append(r.mu.queue, p)
	r.wake()
	return nil
}

// giveUp ends p's waiting, and takes its entry back if raft never saw it: then nothing was written. The caller calls what it
// returns without the lock; nil: p was told. REQUIRES: r.mu.
func (r *Replica) giveUp(p *proposal, cause error) func() {
	tell := p.tell
	if tell == nil {
		return nil
	}
	p.tell = nil
	if p.given || p.entry == nil {
		if p.entry == nil {
			r.unchain(p)
		}
		cause = &InDoubt{Txn: p.id, Cause: cause}
	} else {
		r.mu.queue = slices.DeleteFunc(r.mu.queue, func(q *proposal) bool { return q == p })
		r.unchain(p)
	}
	return func() { tell(index.Outcome{}, cause) }
}

// giveUpAll gives up every proposal that began before the given time, or at any if that is zero, and tells.
func (r *Replica) giveUpAll(before time.Time, cause error) {
	var tells []func()
	r.mu.Lock()
	for _, first := range r.mu.waiting {
		for p := first; p != nil; {
			next := p.next
			if before.IsZero() || p.since.Before(before) {
				if tell := r.giveUp(p, cause); tell != nil {
					tells = append(tells, tell)
				}
			}
			p = next
		}
	}
	r.mu.Unlock()
	for _, tell := range tells {
		tell()
	}
}

// expire tells those who waited for FinishTimeout.
func (r *Replica) expire() {
	r.giveUpAll(time.Now().Add(-r.cfg.FinishTimeout), fmt.Errorf("no outcome within %s (finish-timeout): no majority of the voters is reachable, or this process or its disk stood still: %w", r.cfg.FinishTimeout, ErrUnavailable))
}

// unchain forgets a waiter. REQUIRES: r.mu.
func (r *Replica) unchain(p *proposal) {
	first := r.mu.waiting[p.id]
	if first == p {
		first = p.next
	}
	for q := first; q != nil; q = q.next {
		if q.next == p {
			q.next = p.next
		}
	}
	if first == nil {
		delete(r.mu.waiting, p.id)
	} else {
		r.mu.waiting[p.id] = first
	}
}

// proposeQueued hands queued entries to raft, as many as one append shall take. REQUIRES: r.mu.
func (r *Replica) proposeQueued() error {
	size, n := 0, 0
	for _, p := range r.mu.queue {
		if n > 0 && size+len(p.entry) > maxRound {
			break
		}
		if p.suggest && !p.given {
			at := index.EntryTid(p.entry) // of the client's clock
			if at == 0 {
				at = zodb.TidFromTime(r.cfg.Clock())
			}
			r.mu.lastTid = max(at, r.mu.lastTid+1)
			index.SetEntryTid(p.entry, r.mu.lastTid)
		}
		err := r.mu.raw.Propose(p.entry)
		if errors.Is(err, raft.ErrProposalDropped) {
			break // no leader now, or too much uncommitted: it stays queued, its waiter has a deadline
		}
		if err != nil {
			return fmt.Errorf("propose: %w", err)
		}
		p.given = true
		size += len(p.entry)
		n++
	}
	clear(r.mu.queue[:n])
	if r.mu.queue = r.mu.queue[n:]; len(r.mu.queue) == 0 {
		r.mu.queue = nil
	}
	return nil
}

// reproposeAll queues again what an earlier term may have lost. Apply knows a transaction that it has seen. REQUIRES: r.mu.
func (r *Replica) reproposeAll() {
	queue := r.mu.queue[:0:0]
	for _, first := range r.mu.waiting {
		for p := first; p != nil; p = p.next {
			if p.entry != nil {
				queue = append(queue, p)
			}
		}
	}
	slices.SortFunc(queue, func(a, b *proposal) int { return cmp.Compare(a.number, b.number) })
	r.mu.queue = queue
}

// deliver tells the node, ends the reservation, then tells who waits, and the node that he was told.
func (r *Replica) deliver(o index.Outcome) {
	if r.cfg.Applied != nil {
		r.cfg.Applied(o)
	}
	r.mu.Lock()
	first := r.mu.waiting[o.TxnID]
	delete(r.mu.waiting, o.TxnID)
	if o.Verdict == index.Committed {
		r.mu.lastTid = max(r.mu.lastTid, o.Tid)
	}
	var doubt error
	if err := r.mu.err; err != nil && !errors.Is(err, ErrClosed) {
		doubt = &InDoubt{Txn: o.TxnID, Cause: err} // a broken replica acknowledges nothing, even what is durable
	}
	var one [1]func(index.Outcome, error)
	tells := one[:0]
	for p := first; p != nil; p = p.next {
		if p.restore {
			r.restored(o, len(p.entry))
		}
		if p.tell != nil { // else he gave up, or was told already that the replica is broken
			tells = append(tells, p.tell)
			p.tell = nil
		}
	}
	r.mu.Unlock()
	r.table.release(o.TxnID)
	for _, tell := range tells {
		if doubt != nil {
			tell(index.Outcome{}, doubt)
			continue
		}
		tell(o, nil)
	}
	if r.cfg.Told != nil {
		r.cfg.Told(o)
	}
}
