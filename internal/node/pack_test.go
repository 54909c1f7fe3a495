package node_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/node"
	"github.com/zodb-dht/zodb_dht/internal/replica"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// packed drives a pack to its end, or until it says stop; nothing refers to anything.
func packed(t *testing.T, n *node.Node, to zodb.Tid, refs node.References, stop func(node.PackStep) bool) {
	t.Helper()
	packedBy(t, n, to, refs, 0, stop)
}

func packedBy(t *testing.T, n *node.Node, to zodb.Tid, refs node.References, thread uint64, stop func(node.PackStep) bool) {
	t.Helper()
	begun, err := n.PackBegin(ctx, to, refs, thread)
	if err != nil || !begun {
		t.Fatal(begun, err)
	}
	for step := (node.PackStep{}); !step.Finished; {
		if step, err = n.PackStep(ctx, nil); err != nil {
			t.Fatal(err)
		}
		if stop != nil && stop(step) {
			return
		}
	}
}

func TestAPackInterruptedAfterItsHorizonIsFinishedByTheNextOpen(t *testing.T) {
	dir := t.TempDir()
	n := open(t, dir)
	tid := commit(t, n, write(0, 0, "a"))
	commit(t, n, write(0, tid, "b"))
	packed(t, n, zodb.MaxTid, node.NoReferences, func(s node.PackStep) bool { return s.Phase == "log" })
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n = open(t, dir)
	begun, err := n.PackBegin(ctx, 0, node.NoReferences, 0) // nothing new, but it waits for what the open began
	for step := (node.PackStep{Finished: !begun}); err == nil && !step.Finished; {
		step, err = n.PackStep(ctx, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	if st := n.Stats(); st.Records != 1 {
		t.Fatal(st)
	}
}

// A pack that ends between its horizon and its garbage lists leaves the garbage to the next pack to the same position, in the same open
// or in the next.
func TestGarbageOfAnInterruptedPackIsCollectedByThatToTheSamePosition(t *testing.T) {
	for _, reopen := range []bool{false, true} {
		dir := t.TempDir()
		n := open(t, dir)
		commit(t, n, write(0, 0, "root"), write(1, 0, "garbage"))
		packed(t, n, zodb.MaxTid, node.CallersOwn, func(s node.PackStep) bool { return s.Phase == "log" })
		n.PackEnd()
		if reopen {
			if err := n.Close(); err != nil {
				t.Fatal(err)
			}
			n = open(t, dir)
		}
		packed(t, n, zodb.MaxTid, node.CallersOwn, nil)
		if st := n.Stats(); st.Objects != 1 || st.Records != 1 {
			t.Errorf("reopened %t: %+v", reopen, st)
		}
		if begun, err := n.PackBegin(ctx, zodb.MaxTid, node.CallersOwn, 0); err != nil || begun {
			t.Error("there was something left to pack", err)
		}
	}
}

func TestASecondPackIsRefusedUntilTheFirstIsGivenUp(t *testing.T) {
	n := open(t, t.TempDir())
	commit(t, n, write(0, 0, "a"))
	if begun, err := n.PackBegin(ctx, zodb.MaxTid, node.CallersOwn, 0); err != nil || !begun {
		t.Fatal(begun, err)
	}
	if _, err := n.PackBegin(ctx, zodb.MaxTid, node.CallersOwn, 0); !errors.Is(err, node.ErrPacking) {
		t.Fatal(err)
	}
	n.PackEnd()
	if _, err := n.PackStep(ctx, nil); !errors.Is(err, node.ErrUsage) {
		t.Fatal(err)
	}
	packed(t, n, zodb.MaxTid, node.CallersOwn, nil)
	if begun, err := n.PackBegin(ctx, zodb.MaxTid, node.CallersOwn, 0); err != nil || begun {
		t.Fatal("there was something to pack", err)
	}
}

func TestChangesFromBeforeAPackAreUnknownOnceTheRingForgotThem(t *testing.T) {
	dir := t.TempDir()
	n := open(t, dir)
	first := commit(t, n, write(0, 0, "a"))
	second := commit(t, n, write(0, first, "b"))
	if _, changed, known, err := n.Advance(ctx, first); err != nil || !known || len(changed) != 1 {
		t.Fatal(changed, known, err)
	}
	packed(t, n, zodb.MaxTid, node.NoReferences, nil)
	if err := n.Close(); err != nil { // the ring begins anew
		t.Fatal(err)
	}
	n = open(t, dir)
	if _, _, known, err := n.Advance(ctx, first); err != nil || known {
		t.Fatal(known, err)
	}
	if now, _, known, err := n.Advance(ctx, second); err != nil || !known || now != second {
		t.Fatal(now, known, err)
	}
}

func TestATransactionFromBeforeAGarbageCollectionIsRefused(t *testing.T) {
	n := open(t, t.TempDir())
	first := commit(t, n, write(0, 0, "a"))
	const thread = 9 // a pack does not wait for its own thread
	voted := &zodb.Txn{ID: zodb.TxnID{77}, Thread: thread, Snapshot: first, Status: ' ', Writes: []zodb.Write{write(1, 0, "links what is gone")}}
	if _, err := n.Vote(ctx, voted); err != nil {
		t.Fatal(err)
	}
	commit(t, n, write(0, first, "b"))
	packedBy(t, n, zodb.MaxTid, node.CallersOwn, thread, nil)
	if _, err := n.Finish(ctx, voted.ID, false); !errors.Is(err, replica.ErrBehind) {
		t.Fatal(err)
	}
	voted.ID[0]++
	if _, err := n.Vote(ctx, voted); !errors.Is(err, replica.ErrBehind) {
		t.Fatal(err)
	}
	if _, err := n.Load(ctx, 1, zodb.MaxTid); !errors.Is(err, index.ErrNotFound) {
		t.Fatal(err)
	}
}

// A vote is a promise: a pack that would break it waits.
func TestAPackWaitsForWhatHasVoted(t *testing.T) {
	n := open(t, t.TempDir(), func(c *node.Config) { c.PackWait = node.Duration(time.Hour) })
	first := commit(t, n, write(0, 0, "a"), write(5, 0, "b"))
	voted := &zodb.Txn{ID: zodb.TxnID{77}, Thread: 8, Snapshot: first, Status: ' ', Writes: []zodb.Write{write(0, first, "links 5")}}
	if stale, err := n.Vote(ctx, voted); err != nil || stale != nil {
		t.Fatal(stale, err)
	}
	commit(t, n, write(5, first, "c"))
	steps, late := 0, make(chan error, 1)
	packedBy(t, n, zodb.MaxTid, node.CallersOwn, 9, func(step node.PackStep) bool {
		if step.Phase != "wait" {
			return false
		}
		if steps++; steps == 3 {
			// Who would be refused later is not promised anything meanwhile.
			other := &zodb.Txn{ID: zodb.TxnID{78}, Thread: 8, Snapshot: first, Status: ' ', Writes: []zodb.Write{write(6, 0, "x")}}
			go func() {
				for {
					if _, err := n.Vote(ctx, other); err != nil {
						late <- err
						return
					}
					if _, err := n.Finish(ctx, other.ID, false); err != nil {
						late <- errors.New("a promise was broken: " + err.Error())
						return
					}
					other.ID[0]++
					other.Writes[0].Oid++
				}
			}()
			if _, err := n.Finish(ctx, voted.ID, false); err != nil {
				t.Error(err)
			}
		}
		return false
	})
	if steps < 3 {
		t.Errorf("it waited for %d steps", steps)
	}
	if err := <-late; !errors.Is(err, replica.ErrBehind) {
		t.Error(err)
	}
	if rev, err := n.Load(ctx, 0, zodb.MaxTid-1); err != nil || string(rev.Data) != "links 5" {
		t.Error(rev, err)
	}
}

func TestAPackWaitsForAVoteNoLongerThanPackWait(t *testing.T) {
	n := open(t, t.TempDir(), func(c *node.Config) { c.PackWait = node.Duration(time.Nanosecond) })
	first := commit(t, n, write(0, 0, "a"))
	voted := &zodb.Txn{ID: zodb.TxnID{77}, Thread: 8, Snapshot: first, Status: ' ', Writes: []zodb.Write{write(1, 0, "b")}}
	if _, err := n.Vote(ctx, voted); err != nil {
		t.Fatal(err)
	}
	commit(t, n, write(0, first, "b"))
	packedBy(t, n, zodb.MaxTid, node.CallersOwn, 9, nil)
	if _, err := n.Finish(ctx, voted.ID, false); !errors.Is(err, replica.ErrBehind) {
		t.Fatal(err)
	}
}

func TestAPinIsWaitedForUnlessItIsTheCallersOwn(t *testing.T) {
	n := open(t, t.TempDir(), func(c *node.Config) { c.PackWait = node.Duration(time.Hour) })
	first := commit(t, n, write(0, 0, "a"))
	const reader, thread = 1, 9
	if now, _, _, err := n.Pin(ctx, reader, thread, ^zodb.Tid(0)); err != nil || now != first {
		t.Fatal(now, err)
	}
	second := commit(t, n, write(0, first, "b"))
	if begun, err := n.PackBegin(ctx, second, node.NoReferences, thread); err != nil || !begun {
		t.Fatal(begun, err)
	}
	for range 2 { // survey, wait
		if step, err := n.PackStep(ctx, nil); err != nil || step.Total > 10 || step.Phase == "wait" && step.Total > 0 {
			t.Fatal("the caller waits for itself", step, err)
		}
	}
	n.PackEnd()
	waited := 0
	packed(t, n, zodb.MaxTid, node.NoReferences, func(s node.PackStep) bool {
		if s.Phase == "wait" && s.Total > 0 {
			waited++
			if rev, err := n.LoadPinned(ctx, 0, first); err != nil || string(rev.Data) != "a" {
				t.Fatal(rev, err)
			}
			n.Unpin(reader)
		}
		return false
	})
	if waited != 1 {
		t.Fatalf("%d steps waited", waited)
	}
	var gone *node.PackedAway
	if _, err := n.LoadPinned(ctx, 0, first); !errors.As(err, &gone) || gone.At != first {
		t.Fatal(err)
	}
}

func TestAPinWhoseAnswerFailedIsAsItWas(t *testing.T) {
	dir := t.TempDir()
	n := open(t, dir)
	first := commit(t, n, write(0, 0, "a"))
	if err := n.Close(); err != nil { // the ring begins anew: what is older is read from the rows
		t.Fatal(err)
	}
	n = open(t, dir, func(c *node.Config) { c.PackWait = node.Duration(time.Hour) })
	ended, cancel := context.WithCancel(ctx)
	cancel()
	const fails, held = 1, 2
	if _, _, _, err := n.Pin(ctx, held, 0, ^zodb.Tid(0)); err != nil {
		t.Fatal(err)
	}
	second := commit(t, n, write(0, first, "b"))
	for _, reader := range []uint64{fails, held} {
		if _, _, _, err := n.Pin(ended, reader, 0, first-1); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	waited := 0
	packed(t, n, second, node.NoReferences, func(s node.PackStep) bool {
		if s.Phase == "wait" && s.Total > 0 {
			waited++
			if s.Total != 1 {
				t.Fatal("who never was told of a snapshot has one", s)
			}
			n.Unpin(held)
		}
		return false
	})
	if waited != 1 {
		t.Fatalf("%d steps waited", waited)
	}
	third := commit(t, n, write(0, second, "c"))
	packed(t, n, third, node.NoReferences, func(s node.PackStep) bool {
		if s.Phase == "wait" && s.Total > 0 {
			t.Fatal("who never was told of a snapshot has one", s)
		}
		return false
	})
}
