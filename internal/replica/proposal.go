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

// proposal is an entry on its way through the log, or somebody who waits for that of another. Guarded by Replica.mu but for done.
type proposal struct {
	id      zodb.TxnID
	entry   []byte // nil: only waits
	suggest bool   // a commit entry, whose tid is suggested when it is first proposed
	restore bool   // nobody waits
	given   bool   // raft took it at least once: from here on it may be in a log, and its bytes are shared
	number  uint64
	next    *proposal          // of the same transaction
	done    chan index.Outcome // capacity 1
}

func newProposal(id zodb.TxnID, entry []byte) *proposal {
	return &proposal{id: id, entry: entry, done: make(chan index.Outcome, 1)}
}

// decide takes an entry through the log. *InDoubt: it may be in the log. Any other error: it is not, and never will be.
func (r *Replica) decide(ctx context.Context, p *proposal) (index.Outcome, error) {
	drives, err := r.propose(p)
	if err != nil {
		return index.Outcome{}, err
	}
	if drives {
		r.drive(p)
	}
	o, err := r.await(ctx, p)
	if err == nil {
		return o, nil
	}
	if r.withdraw(p) {
		return index.Outcome{}, err
	}
	select {
	case o := <-p.done: // it came at the same moment
		return o, nil
	default:
		return index.Outcome{}, &InDoubt{Txn: p.id, Cause: err}
	}
}

// propose queues p. The caller drives if it is told to, then waits for p.done. A restored transaction's does neither.
func (r *Replica) propose(p *proposal) (drives bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.err != nil {
		return false, r.mu.err
	}
	r.mu.proposed++
	p.number = r.mu.proposed
	p.next = r.mu.waiting[p.id]
	r.mu.waiting[p.id] = p
	r.mu.queue = append(r.mu.queue, p)
	if r.mu.driving { // the driver looks again
		return false, nil
	}
	// Whatever else is there is the goroutine's, which was woken for it: it may be large, and its room was not asked for.
	alone := len(r.mu.queue) == 1 && len(r.mu.appends)+len(r.mu.applies) == 0
	if p.restore || !alone || len(p.entry) > maxOwn || !r.roomFor(len(p.entry)) {
		r.wake()
		return false, nil
	}
	r.mu.driving = true
	return true, nil
}

// await waits for p's outcome, at most FinishTimeout.
func (r *Replica) await(ctx context.Context, p *proposal) (index.Outcome, error) {
	timer := time.NewTimer(r.cfg.FinishTimeout)
	defer timer.Stop()
	select {
	case o := <-p.done:
		return o, nil
	case <-r.dead:
	case <-r.driven:
	case <-ctx.Done():
		return index.Outcome{}, ctx.Err()
	case <-timer.C:
		return index.Outcome{}, fmt.Errorf("no outcome within %s: %w", r.cfg.FinishTimeout, ErrUnavailable)
	}
	select {
	case o := <-p.done:
		return o, nil
	default:
		return index.Outcome{}, r.failure()
	}
}

// withdraw takes a proposal back that raft never saw: then nothing was written.
func (r *Replica) withdraw(p *proposal) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.given || r.mu.waiting[p.id] == nil { // in a log, perhaps, or decided
		return false
	}
	r.mu.queue = slices.DeleteFunc(r.mu.queue, func(q *proposal) bool { return q == p })
	r.unchain(p)
	return true
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

// deliver tells the node, ends the reservation, then wakes who waits.
func (r *Replica) deliver(o index.Outcome, size int) {
	if r.cfg.Applied != nil {
		r.cfg.Applied(o)
	}
	r.mu.Lock()
	first := r.mu.waiting[o.TxnID]
	delete(r.mu.waiting, o.TxnID)
	if o.Verdict == index.Committed {
		r.mu.lastTid = max(r.mu.lastTid, o.Tid)
	}
	if first != nil && first.restore {
		r.restored(o, size)
	}
	broken := r.mu.err != nil && !errors.Is(r.mu.err, ErrClosed)
	r.mu.Unlock()
	r.table.release(o.TxnID)
	for p := first; p != nil && !broken; p = p.next {
		p.done <- o // its first outcome: nobody else sends
	}
}
