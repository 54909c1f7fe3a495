package replica

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/zodb-dht/zodb_dht/internal/index"
)

// tick is the clock's goroutine: it does no I/O.
func (r *Replica) tick(ctx context.Context) {
	defer r.guard("clock")
	t := time.NewTicker(r.cfg.Tick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.dead:
			return
		case <-t.C:
			r.table.renew(r.cfg.Lease)
			r.expire()
			if !r.resting.Load() {
				_ = r.locked(func() error { r.mu.raw.Tick(); return nil })
			}
		}
	}
}

// Step hands a message from another voter to raft.
func (r *Replica) Step(m *raftpb.Message) (err error) {
	defer r.guard("message")
	return r.locked(func() error { return r.mu.raw.Step(m) })
}

// locked runs f, which calls raft, and takes over what raft wants done.
func (r *Replica) locked(f func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := f()
	r.collect()
	if len(r.mu.appends)+len(r.mu.applies)+len(r.mu.queue) > 0 {
		r.wake()
	}
	return err
}

// wake tells the driver that there is work. It never waits.
func (r *Replica) wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// guard ends a goroutine's panic by poisoning the replica: raft panics on what it can't explain, Pebble on a failed write.
func (r *Replica) guard(who string) {
	p := recover()
	if p == nil {
		return
	}
	r.cfg.Logger.Error("the log panicked", "in", who, "panic", p, "stack", string(debug.Stack()))
	if s, ok := r.cfg.State.(interface{ Panicked() }); ok {
		s.Panicked()
	}
	err, ok := p.(error)
	if !ok {
		err = fmt.Errorf("%v", p)
	}
	r.end(&Broken{Cause: fmt.Errorf("panic in the log's %s: %w", who, err)})
}

// collect takes raft's wishes over. REQUIRES: r.mu.
func (r *Replica) collect() {
	for r.mu.raw.HasReady() {
		rd := r.mu.raw.Ready()
		if !raft.IsEmptyHardState(rd.HardState) && rd.HardState.GetTerm() != r.mu.term {
			r.mu.term, r.mu.elected = rd.HardState.GetTerm(), false
		}
		if rd.SoftState != nil {
			r.leads.Store(rd.SoftState.RaftState == raft.StateLeader)
		}
		for _, m := range rd.Messages {
			switch m.GetTo() {
			case raft.LocalAppendThread:
				r.mu.appends = append(r.mu.appends, m)
			case raft.LocalApplyThread:
				r.mu.applies = append(r.mu.applies, m)
			default:
				r.send(m)
			}
		}
	}
	if r.leads.Load() && !r.mu.elected {
		r.mu.elected = true
		r.reproposeAll()
	}
}

func (r *Replica) send(m *raftpb.Message) {
	if r.cfg.Transport != nil {
		r.cfg.Transport.Send(m)
	}
}

// serve is the driver: it takes the replica through rounds, the one place that writes and applies.
func (r *Replica) serve() {
	defer close(r.driven)
	defer r.refuse()
	defer r.guard("driver")
	for {
		more, err := r.round()
		if err != nil {
			r.end(&Broken{Cause: err})
			return
		}
		if more {
			runtime.Gosched() // whoever was told may have the next proposal at hand: it goes into the same append
			continue
		}
		switch err := r.failure(); {
		case err == nil:
		case errors.Is(err, ErrClosed):
			if err := r.leave(); err != nil {
				r.end(&Broken{Cause: err})
			}
			return
		default:
			return
		}
		select {
		case <-r.kick:
		case <-r.dead:
			return
		}
	}
}

// refuse tells whoever still waits when the driver has ended.
func (r *Replica) refuse() {
	r.giveUpAll(time.Time{}, r.failure())
}

// round starts one append, applies what earlier ones made committed while the disk syncs it, and then lets raft answer. It reports
// whether there was anything to do.
func (r *Replica) round() (bool, error) {
	appends, applies, err := r.take()
	if err != nil || len(appends)+len(applies) == 0 {
		return false, err
	}
	batch, err := r.log.begin(appends)
	if err != nil {
		return false, fmt.Errorf("append to the log: %w", err)
	}
	for _, m := range applies {
		if err := r.apply(m); err != nil {
			return false, err
		}
	}
	if batch != nil {
		r.prepare(appends)
	}
	if batch != nil {
		if err := r.log.end(batch); err != nil {
			return false, fmt.Errorf("append to the log: %w", err)
		}
		if err := r.log.mark.promise(lastOf(appends)); err != nil {
			return false, fmt.Errorf("append to the log: %w", err)
		}
	}
	if len(appends) == 0 {
		return true, nil
	}
	return true, r.appended(appends)
}

// prepare uses the time of a sync to work out what its first entry will change, if that becomes the next to be applied. Where there is no
// other voter it will: it is durable by this sync, or the replica is broken.
func (r *Replica) prepare(appends []*raftpb.Message) {
	p, ok := r.cfg.State.(interface {
		Prepare(pos index.Position, entry []byte, sure bool)
	})
	if e := appends[0].GetEntries(); ok && len(e) > 0 && e[0].GetType() == raftpb.EntryNormal {
		p.Prepare(index.Position(e[0].GetIndex()), e[0].GetData(), r.log.alone())
	}
}

// lastOf is the last entry of a round's appends, 0 if they carry none.
func lastOf(appends []*raftpb.Message) uint64 {
	for _, m := range slices.Backward(appends) {
		if e := m.GetEntries(); len(e) > 0 {
			return e[len(e)-1].GetIndex()
		}
	}
	return 0
}

// take proposes what waits and gives the driver its work; none if there is nothing to do or the replica is broken.
func (r *Replica) take() (appends, applies []*raftpb.Message, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.err != nil && !errors.Is(r.mu.err, ErrClosed) {
		return nil, nil, nil
	}
	if len(r.mu.queue) > 0 && r.mu.err == nil {
		if err := r.proposeQueued(); err != nil {
			return nil, nil, err
		}
	}
	r.collect()
	r.placed()
	appends, applies = r.mu.appends, r.mu.applies
	r.mu.appends, r.mu.applies = nil, nil
	return appends, applies, nil
}

// placed tells Open when this voter knows its leader and what was committed before is applied. REQUIRES: r.mu.
func (r *Replica) placed() {
	select {
	case <-r.opened:
		return
	default:
	}
	st := r.mu.raw.BasicStatus()
	if st.Lead == raft.None && !r.resting.Load() || st.Applied < st.GetCommit() {
		return
	}
	if term, err := r.log.Term(st.GetCommit()); st.RaftState == raft.StateLeader && (err != nil || term != st.GetTerm()) {
		return // what earlier terms committed is known only once an entry of this one is
	}
	close(r.opened)
}

// appended is called when the messages' entries are durable, if anybody cares: raft's answers go out.
func (r *Replica) appended(appends []*raftpb.Message) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.err != nil && !errors.Is(r.mu.err, ErrClosed) {
		return nil // poisoned meanwhile: no acknowledgement, even of what is durable
	}
	for _, m := range appends {
		if err := r.log.Append(m.GetEntries()); err != nil {
			return fmt.Errorf("append to the log: %w", err)
		}
		r.answer(m)
	}
	r.collect()
	return nil
}

// answer delivers the responses of a storage message. REQUIRES: r.mu.
func (r *Replica) answer(m *raftpb.Message) {
	for _, resp := range m.GetResponses() {
		if resp.GetTo() != r.log.id {
			r.send(resp)
			continue
		}
		_ = r.mu.raw.Step(resp) // our own answers are never refused: raft drops those of an older term
	}
}

// apply applies committed entries in order and tells whoever proposed them.
func (r *Replica) apply(m *raftpb.Message) error {
	var last uint64
	for _, e := range m.GetEntries() {
		if e.GetType() != raftpb.EntryNormal {
			return fmt.Errorf("entry %d changes the members: %w", e.GetIndex(), index.ErrNewerFormat)
		}
		o, err := r.cfg.State.Apply(index.Position(e.GetIndex()), e.GetData())
		if err != nil {
			return err
		}
		last = e.GetIndex()
		if len(e.GetData()) > 0 {
			r.deliver(o)
		}
	}
	_ = r.locked(func() error { r.answer(m); return nil })
	if err := r.log.truncate(last); err != nil {
		return fmt.Errorf("truncate the log: %w", err)
	}
	return nil
}
