package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// run ticks raft's clock, ends old votes, and drives when a proposer hands over.
func (r *Replica) run(ctx context.Context) {
	defer r.wg.Done()
	tick := time.NewTicker(r.cfg.Tick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.dead:
			return
		case now := <-tick.C:
			r.table.expire(now)
			r.mu.Lock()
			r.mu.raw.Tick()
			r.collect()
			r.mu.Unlock()
			r.tryDrive(nil)
		case <-r.kick:
			r.drive(nil)
		}
	}
}

// wake makes the run loop drive if nobody does.
func (r *Replica) wake() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.mu.driving && r.mu.err == nil {
		r.mu.driving = true
		r.kick <- struct{}{}
	}
}

// collect takes raft's wishes over. REQUIRES: r.mu.
func (r *Replica) collect() {
	for r.mu.raw.HasReady() {
		rd := r.mu.raw.Ready()
		for _, m := range rd.Messages {
			switch m.GetTo() {
			case raft.LocalAppendThread:
				r.mu.appends = append(r.mu.appends, m)
			case raft.LocalApplyThread:
				r.mu.applies = append(r.mu.applies, m)
			default:
				if r.cfg.Transport != nil {
					r.cfg.Transport.Send(m)
				}
			}
		}
	}
}

// Step hands a message from another voter to raft.
func (r *Replica) Step(m *raftpb.Message) error {
	r.mu.Lock()
	err := r.mu.raw.Step(m)
	r.collect()
	r.mu.Unlock()
	r.wake()
	return err
}

// propose queues p and drives if nobody does. The caller then waits for p.done.
func (r *Replica) propose(p *proposal) error {
	r.mu.Lock()
	if err := r.mu.err; err != nil {
		r.mu.Unlock()
		return err
	}
	r.mu.queue = append(r.mu.queue, p)
	r.mu.waiting[p.id] = p
	if r.mu.driving {
		r.mu.Unlock()
		return nil
	}
	r.mu.driving = true
	if p.restore { // nobody waits for it: the run loop does the work
		r.kick <- struct{}{}
		r.mu.Unlock()
		return nil
	}
	r.mu.Unlock()
	r.drive(p)
	return nil
}

func (r *Replica) tryDrive(own *proposal) {
	r.mu.Lock()
	if r.mu.driving {
		r.mu.Unlock()
		return
	}
	r.mu.driving = true
	r.mu.Unlock()
	r.drive(own)
}

// drive does rounds until there is nothing to do. A proposer leaves as soon as it has its own outcome: the run loop goes on.
// REQUIRES: the caller set driving.
func (r *Replica) drive(own *proposal) {
	defer func() {
		if p := recover(); p != nil {
			err, ok := p.(error)
			if !ok {
				err = fmt.Errorf("panic: %v", p)
			}
			r.cfg.Logger.Error("the log's driver panicked", "panic", p, "stack", string(debug.Stack()))
			r.stopDriving()
			r.Poison(err)
		}
	}()
	for {
		more, err := r.round()
		if err != nil {
			r.stopDriving()
			r.Poison(err)
			return
		}
		if !more {
			return
		}
		if own != nil && len(own.done) > 0 && r.handOver() {
			return
		}
	}
}

// handOver leaves driving to the run loop; false if that may have ended.
func (r *Replica) handOver() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.err != nil {
		return false
	}
	r.kick <- struct{}{} // driving stays set: it is the run loop's now. Capacity 1, and only a driver sends.
	return true
}

func (r *Replica) stopDriving() {
	r.mu.Lock()
	r.mu.driving = false
	r.mu.idle.Broadcast()
	r.mu.Unlock()
}

// round proposes what waits, appends, syncs once, and applies what is committed. It reports whether there was anything to do;
// if not, nobody drives any more.
func (r *Replica) round() (bool, error) {
	r.mu.Lock()
	if r.mu.err != nil {
		r.mu.driving = false
		r.mu.idle.Broadcast()
		r.mu.Unlock()
		return false, nil
	}
	if err := r.proposeQueued(); err != nil {
		r.mu.Unlock()
		return false, err
	}
	appends, applies := r.mu.appends, r.mu.applies
	r.mu.appends, r.mu.applies = nil, nil
	if len(appends) == 0 && len(applies) == 0 {
		r.mu.driving = false
		r.mu.idle.Broadcast()
		r.mu.Unlock()
		return false, nil
	}
	r.mu.Unlock()
	if err := r.append(appends); err != nil {
		return false, err
	}
	// What the append made committed is applied in the same round: the proposer's answer is one lock away.
	r.mu.Lock()
	applies = append(applies, r.mu.applies...)
	r.mu.applies = nil
	r.mu.Unlock()
	for _, m := range applies {
		if err := r.apply(m); err != nil {
			return false, err
		}
	}
	return true, nil
}

// proposeQueued hands queued entries to raft, as many as one append shall take. REQUIRES: r.mu.
func (r *Replica) proposeQueued() error {
	size, n := 0, 0
	for _, p := range r.mu.queue {
		if n > 0 && size+len(p.entry) > maxRound {
			break
		}
		if p.commit && !p.restore {
			r.mu.lastTid = max(zodb.TidFromTime(time.Now()), r.mu.lastTid+1)
			index.SetEntryTid(p.entry, r.mu.lastTid)
		}
		err := r.mu.raw.Propose(p.entry)
		if errors.Is(err, raft.ErrProposalDropped) {
			break // no leader now, or too much uncommitted: it stays queued, its waiter has a deadline
		}
		if err != nil {
			return fmt.Errorf("propose: %w", err)
		}
		size += len(p.entry)
		n++
	}
	clear(r.mu.queue[:n])
	r.mu.queue = r.mu.queue[n:]
	if len(r.mu.queue) == 0 {
		r.mu.queue = nil
	}
	r.collect()
	return nil
}

// append writes raft's entries and hard state, synced if anybody waits for them, and only then lets raft answer.
func (r *Replica) append(messages []*raftpb.Message) error {
	if len(messages) == 0 {
		return nil
	}
	sync, entries := false, false
	for _, m := range messages {
		sync = sync || len(m.GetResponses()) > 0
		entries = entries || len(m.GetEntries()) > 0
	}
	if sync || entries || r.log.urgent(messages) {
		if err := r.log.write(messages, sync); err != nil {
			return fmt.Errorf("append to the log: %w", err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range messages {
		if err := r.log.mirror(m.GetEntries()); err != nil {
			return fmt.Errorf("append to the log: %w", err)
		}
		r.answer(m)
	}
	r.collect()
	return nil
}

// urgent tells whether a hard state without entries must be written: a new commit index alone may be lost.
func (l *logStore) urgent(messages []*raftpb.Message) bool {
	urgent := false
	for _, m := range messages {
		if m.Term == nil || m.Vote == nil || m.Commit == nil {
			continue
		}
		urgent = urgent || m.GetTerm() != l.hard.GetTerm() || m.GetVote() != l.hard.GetVote()
		if !urgent {
			l.hard = &raftpb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
		}
	}
	return urgent
}

// answer delivers the responses of a storage message. REQUIRES: r.mu.
func (r *Replica) answer(m *raftpb.Message) {
	for _, resp := range m.GetResponses() {
		if to := resp.GetTo(); to != r.log.id && to != 0 {
			if r.cfg.Transport != nil {
				r.cfg.Transport.Send(resp)
			}
			continue
		}
		_ = r.mu.raw.Step(resp) // our own answers are never refused: raft drops those of an older term
	}
}

// apply applies committed entries in order and answers whoever proposed them.
func (r *Replica) apply(m *raftpb.Message) error {
	var last uint64
	for _, e := range m.GetEntries() {
		data := e.GetData()
		if e.GetType() != raftpb.EntryNormal {
			data = nil // membership is raft's; this version never proposes any
		}
		o, err := r.cfg.State.Apply(index.Position(e.GetIndex()), data)
		if err != nil {
			return err
		}
		last = e.GetIndex()
		if len(data) > 0 {
			r.deliver(o, data)
		}
	}
	r.mu.Lock()
	r.answer(m)
	r.collect()
	r.mu.Unlock()
	if last == 0 {
		return nil
	}
	if err := r.log.truncate(last); err != nil {
		return fmt.Errorf("truncate the log: %w", err)
	}
	return nil
}

// deliver tells the node, ends the reservation, then wakes the proposer.
func (r *Replica) deliver(o index.Outcome, entry []byte) {
	if r.cfg.Applied != nil {
		r.cfg.Applied(o)
	}
	id := o.TxnID
	r.mu.Lock()
	p := r.mu.waiting[id]
	delete(r.mu.waiting, id)
	if o.Verdict == index.Committed {
		r.mu.lastTid = max(r.mu.lastTid, o.Tid)
	}
	if p != nil && p.restore {
		r.mu.restoring -= len(entry)
		if o.Verdict != index.Committed && r.mu.restored == nil {
			r.mu.restored = &Refused{Outcome: o}
		}
		r.mu.idle.Broadcast()
	}
	r.mu.Unlock()
	r.table.release(id)
	if p != nil {
		select {
		case p.done <- o:
		default: // its first outcome is the one that counts
		}
	}
}

// Refused says that Apply refused a restored transaction.
type Refused struct{ Outcome index.Outcome }

func (e *Refused) Error() string {
	return fmt.Sprintf("restored transaction %s was refused (verdict %d)", e.Outcome.TxnID, e.Outcome.Verdict)
}

// raftLog is raft's logger on slog. Raft panics on what it can't explain: the driver's recover poisons the replica.
type raftLog struct{ log *slog.Logger }

func (l raftLog) Debug(v ...any)                   { l.log.Debug(fmt.Sprint(v...)) }
func (l raftLog) Debugf(format string, v ...any)   { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l raftLog) Info(v ...any)                    { l.log.Debug(fmt.Sprint(v...)) }
func (l raftLog) Infof(format string, v ...any)    { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l raftLog) Warning(v ...any)                 { l.log.Warn(fmt.Sprint(v...)) }
func (l raftLog) Warningf(format string, v ...any) { l.log.Warn(fmt.Sprintf(format, v...)) }
func (l raftLog) Error(v ...any)                   { l.log.Error(fmt.Sprint(v...)) }
func (l raftLog) Errorf(format string, v ...any)   { l.log.Error(fmt.Sprintf(format, v...)) }
func (l raftLog) Fatal(v ...any)                   { panic(fmt.Sprint(v...)) }
func (l raftLog) Fatalf(format string, v ...any)   { panic(fmt.Sprintf(format, v...)) }
func (l raftLog) Panic(v ...any)                   { panic(fmt.Sprint(v...)) }
func (l raftLog) Panicf(format string, v ...any)   { panic(fmt.Sprintf(format, v...)) }
