package node_test

import (
	"testing"
	"time"

	"github.com/zodb-dht/zodb_dht/internal/node"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

func TestAHeldCommitIsSeenWhenItIsPublished(t *testing.T) {
	n := open(t, t.TempDir())
	first := commit(t, n, write(1, 0, "a"))
	held := txn(write(1, first, "b"))
	vote(t, n, held)
	second, err := n.Finish(ctx, held.ID, true)
	if err != nil {
		t.Fatal(err)
	}
	behind := txn(write(2, 0, "c"))
	vote(t, n, behind)
	type end struct {
		tid, visible zodb.Tid
		err          error
	}
	finished := make(chan end, 1)
	n.StartFinish(behind.ID, false, func(tid zodb.Tid, err error) { finished <- end{tid, n.Visible(), err} })
	o, known, err := n.Outcome(ctx, behind.ID)
	if err != nil || !known {
		t.Fatal(o, known, err)
	}
	if n.Visible() >= second {
		t.Fatal("a held commit is visible")
	}
	if rev, err := n.Load(ctx, 1, n.Visible()); err != nil || string(rev.Data) != "a" || rev.Next != 0 {
		t.Fatal(rev, err)
	}
	n.Publish(second)
	if third := <-finished; third.err != nil || third.tid != o.Tid || third.visible < third.tid {
		t.Fatal("a commit behind a held one returned before it was visible", third)
	}
	if n.Visible() != o.Tid {
		t.Fatal(n.Visible(), o.Tid)
	}
}

func TestAHeldCommitHoldsOthersNoLongerThanItsLease(t *testing.T) {
	n := open(t, t.TempDir(), func(c *node.Config) {
		c.VoteWait, c.Lease = node.Duration(time.Millisecond), node.Duration(50*time.Millisecond)
	})
	held := txn(write(1, 0, "a"))
	vote(t, n, held)
	if _, err := n.Finish(ctx, held.ID, true); err != nil {
		t.Fatal(err)
	}
	if second := commit(t, n, write(2, 0, "b")); n.Visible() < second {
		t.Fatal(n.Visible(), second)
	}
}
