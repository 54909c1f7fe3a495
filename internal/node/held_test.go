package node_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/zodb-dht/zodb_dht/internal/node"
	"github.com/zodb-dht/zodb_dht/internal/replica"
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

// Who does not know whether his transaction was committed has no tid to publish: it holds nobody up once it turns out that it was.
func TestACommitInDoubtIsNotHeld(t *testing.T) {
	var stuck atomic.Bool
	var once sync.Once
	begun, goOn := make(chan struct{}), make(chan struct{})
	fs := errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
		sync := op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo
		if sync && stuck.Load() && strings.HasSuffix(op.Path, ".log") {
			once.Do(func() { close(begun) })
			<-goOn
		}
		return nil
	}))
	n := open(t, t.TempDir(), func(c *node.Config) { c.FS, c.Lease = fs, node.Duration(10*time.Minute) })
	commit(t, n, write(2, 0, "b")) // the first one waits for an election
	x := txn(write(1, 0, "a"))
	vote(t, n, x)
	stuck.Store(true)
	patience, end := context.WithCancel(ctx)
	finished := make(chan error, 1)
	go func() {
		_, err := n.Finish(patience, x.ID, true)
		finished <- err
	}()
	<-begun
	end()
	var doubt *replica.InDoubt
	if err := <-finished; !errors.As(err, &doubt) {
		t.Error(err)
	}
	close(goOn)
	if _, err := n.NewOids(ctx, 1); err != nil { // behind it in the log
		t.Fatal(err)
	}
	o, known, err := n.Outcome(ctx, x.ID)
	if err != nil || !known || n.Visible() != o.Tid {
		t.Error(o, known, err, n.Visible())
	}
}
