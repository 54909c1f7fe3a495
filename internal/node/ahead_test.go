package node_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/node"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Readers whose misses are read ahead, beside commits and packs with garbage collection: whatever comes from memory is what its
// snapshot has, and what a pack removed never comes back.
func TestWhatIsReadAheadIsNeverStaleAndNeverGarbage(t *testing.T) {
	const groups, per = 30, 8 // of 256 oids; odd ones are garbage
	dir := t.TempDir()
	for round := range 2 {
		n, err := tryOpen(dir) // reads everything ahead, beside what follows
		if err != nil {
			t.Fatal(err)
		}
		base := zodb.Oid(1 + round*groups*256)
		var all, live []zodb.Oid
		x := txn()
		for g := range groups {
			for i := range per {
				oid := base + zodb.Oid(g*256+i)
				all = append(all, oid)
				if i%2 == 0 {
					live = append(live, oid)
				}
				x.Writes = append(x.Writes, write(oid, 0, fmt.Sprintf("%d", oid)))
			}
		}
		if round == 0 {
			x.Writes = append(x.Writes, write(0, 0, "root"))
		}
		vote(t, n, x)
		if _, err := n.Finish(ctx, x.ID, false); err != nil {
			t.Fatal(err)
		}
		if err := n.Close(); err != nil { // nothing is in memory any more
			t.Fatal(err)
		}
		if n, err = tryOpen(dir); err != nil {
			t.Fatal(err)
		}
		var stop atomic.Bool
		var wg sync.WaitGroup
		for reader := range 3 {
			wg.Go(func() {
				draw := rand.New(rand.NewPCG(uint64(round), uint64(reader)))
				for !stop.Load() {
					checkLive(t, n, live[draw.IntN(len(live))])
				}
			})
		}
		wg.Go(func() {
			draw := rand.New(rand.NewPCG(uint64(round), 99))
			for !stop.Load() {
				oid := live[draw.IntN(len(live))]
				rev, err := n.Load(ctx, oid, n.Visible())
				if err != nil {
					t.Error(err)
					return
				}
				commit(t, n, write(oid, rev.Tid, fmt.Sprintf("%d", oid)))
			}
		})
		refer(t, n, live)
		stop.Store(true)
		wg.Wait()
		for _, oid := range all {
			_, _, cached := n.TryLoad(oid, n.Visible(), make([]byte, 100))
			_, err := n.Load(ctx, oid, n.Visible())
			if garbage := (oid-base)%256%2 == 1; garbage && (cached || !errors.Is(err, index.ErrNotFound)) || !garbage && err != nil {
				t.Errorf("oid %s, garbage %t: from memory %t, %v", oid, garbage, cached, err)
			}
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// checkLive loads at the present position, from memory if it can, and compares with the rows.
func checkLive(t *testing.T, n *node.Node, oid zodb.Oid) {
	t.Helper()
	buf := make([]byte, 100)
	at := n.Visible()
	size, tid, ok := n.TryLoad(oid, at, buf)
	if !ok {
		var err error
		if size, tid, err = n.LoadTo(ctx, oid, at, buf); err != nil {
			var packed *node.PackedAway
			if !errors.As(err, &packed) {
				t.Errorf("oid %s at %s: %v", oid, at, err)
			}
			return
		}
	}
	if string(buf[:size]) != fmt.Sprintf("%d", oid) || tid > at {
		t.Errorf("oid %s at %s: %q of %s", oid, at, buf[:size], tid)
	}
	revs, err := n.History(ctx, oid, 1000)
	if err != nil {
		t.Error(err)
	}
	for _, rev := range revs {
		if rev.Tid > tid && rev.Tid <= at {
			t.Errorf("STALE: oid %s at %s: %s was served, %s is there", oid, at, tid, rev.Tid)
		}
	}
}

// refer packs with garbage collection; the root refers to live.
func refer(t *testing.T, n *node.Node, live []zodb.Oid) {
	t.Helper()
	begun, err := n.PackBegin(ctx, zodb.MaxTid, node.CallersOwn, 0)
	if err != nil || !begun {
		t.Fatal(begun, err)
	}
	for step := (node.PackStep{}); !step.Finished; {
		if step, err = n.PackStep(ctx, live); err != nil {
			t.Fatal(err)
		}
	}
}
