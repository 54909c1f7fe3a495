package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/replica"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// ErrPacking says that a pack is under way.
var ErrPacking = errors.New("already packing")

// The phases of a pack, in order. Until the horizon is in the log a pack has changed nothing; from then on its sweep is finished
// by whoever opens the peer next.
const (
	phaseSurvey  = "survey"  // which objects are concerned
	phaseMark    = "mark"    // what can be reached: records go out, references come in
	phaseWait    = "wait"    // for readers of older snapshots, up to pack-wait
	phaseLog     = "log"     // the horizon, once what has voted on an older snapshot has ended; it waits as long
	phaseList    = "list"    // garbage lists; back to phaseMark for what was committed meanwhile
	phaseSweep   = "sweep"   // rows are deleted
	phaseCompact = "compact" // the files shrink
)

// PackStep is how far a pack is.
type PackStep struct {
	Phase       string
	Done, Total uint64 // of the phase's objects, as far as they are known
	Finished    bool
	// Records are to be searched for references, which go into the next step. The caller owns them.
	Records []index.Revision
}

const (
	stepRows  = 1 << 17                // rows of a survey's step
	stepBytes = 1 << 20                // of the records that a step hands out
	stepWait  = 250 * time.Millisecond // what a step waits at most, so that its caller can show progress and be interrupted
	// strictTries is how often a list that commits overtook is tried again as it is; then it goes fenced, which ends under
	// constant commits. maxTries is for commits that declare no snapshot and keep coming.
	strictTries = 4
	maxTries    = 1000
)

// packing is the one pack that may be under way.
type packing struct {
	mu  sync.Mutex // guards what follows, and is held by each step
	job *packJob
	// collected: all garbage at this position is listed, by a pack of this open. One that a crash cut short may have logged its horizon only.
	collected zodb.Tid
}

type packJob struct {
	to     zodb.Tid
	gc     bool
	search bool // for references, here
	thread uint64
	phase  string
	survey *index.Survey
	marks  *index.Marks
	until  time.Time // the end of phaseWait
	next   zodb.Oid  // where the next garbage list begins
	tries  int
	run    uint64 // the sweeper's, before ours
	only   bool   // the sweep is all that there is to do, or is left
}

// look begins the survey.
func (j *packJob) look(n *Node) {
	n.sweep.hold()
	j.phase, j.survey = phaseSurvey, n.store.NewSurvey(j.to)
}

// References says whether a pack removes the objects that the root does not reach, too, and who finds the references.
type References uint8

// Who finds references.
const (
	NoReferences    References = iota // no garbage is looked for
	CallersOwn                        // the caller, in every record
	ZODBsReferences                   // as ZODB.serialize.referencesf: here, and the caller in records that are not known with certainty
)

// PackBegin starts a pack to the position `to`, or to the last transaction if that is older. false: there is nothing to do, as after a later pack or before all data. ErrPacking: another one is under way. thread is the
// caller's, for Pin.
func (n *Node) PackBegin(_ context.Context, to zodb.Tid, refs References, thread uint64) (bool, error) {
	if err := n.enterWrite(); err != nil {
		return false, err
	}
	defer n.calls.RUnlock()
	n.pack.mu.Lock()
	defer n.pack.mu.Unlock()
	if n.pack.job != nil {
		return false, ErrPacking
	}
	to = min(to, n.Visible())
	st := n.store.Stats()
	gc := refs != NoReferences
	job := &packJob{to: to, gc: gc, search: refs == ZODBsReferences, thread: thread, phase: phaseSurvey}
	// What an earlier pack left is swept first: a survey would take rows for current that are garbage already.
	sweep, compact := n.store.Unswept()
	job.only = to < st.Horizon || to == st.Horizon && (!gc || n.pack.collected == to)
	if !job.only && st.Horizon == 0 {
		empty, err := n.nothingUpTo(to)
		if err != nil {
			return false, fmt.Errorf("pack to %s: %w", to, err)
		}
		job.only = empty
	}
	switch {
	case job.only && !sweep && !compact:
		return false, nil
	case job.only || sweep:
		job.phase = phaseSweep
		job.run = n.sweep.release(nil, 0)
	default:
		job.look(n)
	}
	n.pack.job = job
	return true, nil
}

// nothingUpTo tells whether every transaction is after `to`. Of a database that was never packed.
func (n *Node) nothingUpTo(to zodb.Tid) (bool, error) {
	empty := true
	err := n.store.Transactions(0, to, func(index.Header) bool {
		empty = false
		return false
	})
	return empty, err
}

// PackEnd gives a pack up, wherever it is; after its last step it does nothing.
func (n *Node) PackEnd() {
	n.pack.mu.Lock()
	defer n.pack.mu.Unlock()
	if n.pack.job != nil {
		n.pack.job = nil
		n.sweep.release(nil, 0)
	}
}

// PackStep takes a pack a little further: refs are the references in the records of the step before. An error ends it;
// *index.Corrupt names what can't be read: then nothing was deleted.
func (n *Node) PackStep(ctx context.Context, refs []zodb.Oid) (step PackStep, err error) {
	if err := n.enterWrite(); err != nil {
		return step, err
	}
	defer n.calls.RUnlock()
	n.pack.mu.Lock()
	defer n.pack.mu.Unlock()
	job := n.pack.job
	if job == nil {
		return step, fmt.Errorf("%w: no pack is under way", ErrUsage)
	}
	switch job.phase {
	case phaseSurvey:
		step, err = job.lookAround(ctx, n)
	case phaseMark:
		step, err = job.mark(ctx, refs, n)
	case phaseWait:
		step, err = job.wait(ctx, n)
	case phaseLog:
		step, err = job.log(ctx, n)
	case phaseList:
		step, err = job.list(ctx, refs, n)
	case phaseSweep:
		step, err = job.sweep(ctx, n)
	}
	if err != nil {
		err = fmt.Errorf("pack to %s: %w", job.to, err)
	}
	if err != nil || step.Finished {
		n.pack.job = nil
		n.sweep.release(nil, 0)
	}
	return step, err
}

func (j *packJob) lookAround(ctx context.Context, n *Node) (PackStep, error) {
	done, err := j.survey.Scan(ctx, stepRows)
	if err != nil {
		return PackStep{}, err
	}
	step := PackStep{Phase: phaseSurvey, Done: j.survey.Rows(), Total: n.store.Stats().Records}
	if !done {
		return step, nil
	}
	j.begin(phaseWait, n)
	if j.gc {
		j.phase = phaseMark
		if j.marks, err = n.store.NewMarks(j.survey); err == nil && j.search {
			j.marks.Search()
		}
	}
	return step, err
}

func (j *packJob) begin(phase string, n *Node) {
	j.phase = phase
	j.until = time.Now().Add(time.Duration(n.cfg.PackWait))
}

// records searches what there is, for a while at most, and hands out what its caller has to search. done: for now, that was all.
func (j *packJob) records(ctx context.Context, refs []zodb.Oid, n *Node) (step PackStep, done bool, err error) {
	j.marks.Refer(refs)
	step.Phase = phaseMark
	followed := false
	for begun := time.Now(); err == nil && !done && len(step.Records) == 0 && time.Since(begun) < stepWait; {
		var all bool
		step.Records, all, err = j.marks.Next(ctx, stepBytes)
		if err != nil || !all || len(step.Records) > 0 {
			continue
		}
		if last := n.store.Stats().LastTid; !followed && last > j.marks.Scanned() {
			followed, err = true, j.marks.Follow(last)
		} else {
			done = true
		}
	}
	step.Done, step.Total = j.marks.Progress()
	return step, done, err
}

func (j *packJob) mark(ctx context.Context, refs []zodb.Oid, n *Node) (PackStep, error) {
	step, done, err := j.records(ctx, refs, n)
	if err == nil && done {
		j.begin(phaseWait, n)
	}
	return step, err
}

func (j *packJob) wait(ctx context.Context, n *Node) (PackStep, error) {
	left, err := n.pins.wait(ctx, j.to, j.thread, max(0, min(stepWait, time.Until(j.until))))
	if err != nil {
		return PackStep{}, err
	}
	if left > 0 && time.Now().Before(j.until) {
		return PackStep{Phase: phaseWait, Total: uint64(left)}, nil
	}
	if left > 0 {
		n.cfg.Logger.Warn("a pack does not wait any longer for readers of older snapshots", "readers", left, "horizon", j.to.String())
	}
	j.phase = phaseLog
	return PackStep{Phase: phaseWait}, nil
}

func (j *packJob) log(ctx context.Context, n *Node) (PackStep, error) {
	_, err := n.log.Horizon(ctx, j.to, j.gc, j.thread, max(0, min(stepWait, time.Until(j.until))))
	if errors.Is(err, replica.ErrBusy) {
		if time.Now().Before(j.until) {
			return PackStep{Phase: phaseWait}, nil
		}
		n.cfg.Logger.Warn("a pack does not wait any longer for transactions that have voted: their commits will fail", "horizon", j.to.String(), "cause", err.Error())
		_, err = n.log.Horizon(ctx, j.to, j.gc, j.thread, -1)
	}
	if err != nil {
		return PackStep{}, fmt.Errorf("log the horizon: %w", err)
	}
	if j.gc {
		j.phase = phaseList
	} else {
		j.toSweep(n)
	}
	return PackStep{Phase: phaseLog}, nil
}

func (j *packJob) toSweep(n *Node) {
	j.phase, j.only = phaseSweep, true
	j.run = n.sweep.release(j.survey, j.to)
}

// list logs garbage lists, and searches what was committed since, in turns.
func (j *packJob) list(ctx context.Context, refs []zodb.Oid, n *Node) (PackStep, error) {
	for begun := time.Now(); time.Since(begun) < stepWait; refs = nil {
		step, done, err := j.records(ctx, refs, n)
		if err != nil || !done {
			return step, err
		}
		list, next, err := j.marks.Garbage(j.next)
		if err != nil {
			return step, err
		}
		if len(list.Objects) == 0 {
			n.pack.collected = j.to
			j.toSweep(n)
			return PackStep{Phase: phaseList}, nil
		}
		list.Fenced = j.tries >= strictTries
		o, err := n.log.Garbage(ctx, &list)
		if err != nil {
			return step, fmt.Errorf("log a list of %d objects: %w", len(list.Objects), err)
		}
		if o.Verdict == index.Collected {
			j.next, j.tries = next, 0
		} else if j.tries++; j.tries > maxTries {
			return step, fmt.Errorf("commits that declare no snapshot keep coming: %w", replica.ErrBusy)
		}
	}
	done, total := j.marks.Progress()
	return PackStep{Phase: phaseList, Done: done, Total: total}, nil
}

func (j *packJob) sweep(ctx context.Context, n *Node) (PackStep, error) {
	step, finished, err := n.sweep.await(ctx, j.run, stepWait)
	switch {
	case err != nil || !finished:
	case j.only:
		step.Finished = true
	default:
		j.look(n)
	}
	return step, err
}
