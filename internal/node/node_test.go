package node_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/node"
	"github.com/zodb-dht/zodb_dht/internal/replica"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	quiet = slog.New(slog.DiscardHandler)
	ctx   = context.Background()
	ids   atomic.Uint64
)

func open(t testing.TB, path string, edit ...func(*node.Config)) *node.Node {
	t.Helper()
	n, err := tryOpen(path, edit...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func tryOpen(path string, edit ...func(*node.Config)) (*node.Node, error) {
	cfg := node.Config{Path: path, Create: true, CacheSize: 8 << 20, Logger: quiet}
	for _, e := range edit {
		e(&cfg)
	}
	return node.Open(ctx, cfg)
}

func write(oid zodb.Oid, base zodb.Tid, data string) zodb.Write {
	return zodb.Write{Oid: oid, Base: base, Kind: zodb.WriteData, Hash: block.Sum([]byte(data)), Data: []byte(data)}
}

func txn(writes ...zodb.Write) *zodb.Txn {
	x := &zodb.Txn{Writes: writes}
	binary.BigEndian.PutUint64(x.ID[:], ids.Add(1))
	return x
}

func vote(t testing.TB, n *node.Node, x *zodb.Txn) {
	t.Helper()
	if stale, err := n.Vote(ctx, x); err != nil || stale != nil {
		t.Fatal(stale, err)
	}
}

func commit(t testing.TB, n *node.Node, writes ...zodb.Write) zodb.Tid {
	t.Helper()
	x := txn(writes...)
	vote(t, n, x)
	tid, err := n.Finish(ctx, x.ID, false)
	if err != nil {
		t.Fatal(err)
	}
	return tid
}

func load(t testing.TB, n *node.Node, oid zodb.Oid, at zodb.Tid) string {
	t.Helper()
	buf := make([]byte, 1<<10)
	size, tid, ok := n.TryLoad(oid, at, buf)
	rev, err := n.Load(ctx, oid, at)
	if err != nil {
		t.Fatal(err)
	}
	if ok && (!bytes.Equal(buf[:size], rev.Data) || tid != rev.Tid) {
		t.Fatalf("memory says %q at %s, the state %q at %s", buf[:size], tid, rev.Data, rev.Tid)
	}
	return string(rev.Data)
}

func TestASnapshotStaysAsItIs(t *testing.T) {
	n := open(t, t.TempDir())
	first := commit(t, n, write(1, 0, "a"))
	load(t, n, 1, first)
	second := commit(t, n, write(1, first, "b"))
	for range 2 { // from the state, then from memory
		if got := load(t, n, 1, first); got != "a" {
			t.Fatal(got)
		}
		if got := load(t, n, 1, second); got != "b" {
			t.Fatal(got)
		}
	}
	rev, err := n.Load(ctx, 1, first)
	if err != nil || rev.Next != second {
		t.Fatal(rev, err)
	}
}

func TestAdvanceNamesWhatChangedAndWhoWroteItLast(t *testing.T) {
	n := open(t, t.TempDir())
	first := commit(t, n, write(1, 0, "a"), write(2, 0, "a"))
	second := commit(t, n, write(1, first, "b"))
	third := commit(t, n, write(3, 0, "c"))
	now, changed, known, err := n.Advance(ctx, first)
	want := []index.Change{{Oid: 3, Tid: third}, {Oid: 1, Tid: second}}
	if err != nil || !known || now != third || cmp.Diff(want, changed) != "" {
		t.Fatal(now, changed, known, err)
	}
	if now, changed, known, err = n.Advance(ctx, third); err != nil || !known || now != third || len(changed) != 0 {
		t.Fatal(now, changed, known, err)
	}
	if _, changed, known, err = n.Advance(ctx, 0); err != nil || !known || len(changed) != 3 {
		t.Fatal(changed, known, err)
	}
}

func TestAdvanceAnswersFromTheRowsAfterReopening(t *testing.T) {
	dir := t.TempDir()
	n, err := tryOpen(dir)
	if err != nil {
		t.Fatal(err)
	}
	first := commit(t, n, write(1, 0, "a"))
	second := commit(t, n, write(1, first, "b"), write(2, 0, "x"))
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n = open(t, dir)
	_, changed, known, err := n.Advance(ctx, first)
	want := []index.Change{{Oid: 1, Tid: second}, {Oid: 2, Tid: second}}
	if err != nil || !known || cmp.Diff(want, changed) != "" {
		t.Fatal(changed, known, err)
	}
}

func TestAConflictCarriesWhatItsResolutionNeeds(t *testing.T) {
	n := open(t, t.TempDir())
	first := commit(t, n, write(1, 0, "a"))
	second := commit(t, n, write(1, first, "b"))
	x := txn(write(1, first, "c"))
	got, err := n.Vote(ctx, x)
	want := []node.Conflict{{Oid: 1, Base: first, Committed: second, CommittedData: []byte("b"), BaseData: []byte("a")}}
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Fatal(err, d)
	}
	x.Writes[0] = write(1, second, "bc")
	vote(t, n, x)
	third, err := n.Finish(ctx, x.ID, false)
	if err != nil {
		t.Fatal(err)
	}
	if got := load(t, n, 1, third); got != "bc" {
		t.Fatal(got)
	}
}

// G3 under threads: two objects are always written together; no reader, at any snapshot, sees them apart.
func TestNoReaderSeesATransactionInPart(t *testing.T) {
	n := open(t, t.TempDir())
	base := commit(t, n, write(1, 0, "0"), write(2, 0, "0"))
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			var at zodb.Tid
			for {
				select {
				case <-done:
					return
				default:
				}
				now, _, _, err := n.Advance(ctx, at)
				if err != nil || now < at {
					t.Error(now, at, err)
					return
				}
				at = now
				a, errA := n.Load(ctx, 1, at)
				b, errB := n.Load(ctx, 2, at)
				if errA != nil || errB != nil || !bytes.Equal(a.Data, b.Data) || a.Tid > at {
					t.Errorf("at %s: %q of %s, %q of %s (%v %v)", at, a.Data, a.Tid, b.Data, b.Tid, errA, errB)
					return
				}
				buf := make([]byte, 16)
				if size, tid, ok := n.TryLoad(1, at, buf); ok && (!bytes.Equal(buf[:size], b.Data) || tid != b.Tid) {
					t.Errorf("memory at %s: %q of %s, the state %q of %s", at, buf[:size], tid, b.Data, b.Tid)
					return
				}
			}
		}()
	}
	for i := range 400 {
		data := fmt.Sprint(i)
		base = commit(t, n, write(1, base, data), write(2, base, data))
	}
	close(done)
	wg.Wait()
}

func TestTheCacheStaysWithinItsBound(t *testing.T) {
	n := open(t, t.TempDir())
	data := string(make([]byte, 10_000))
	for i := range 40 {
		var ws []zodb.Write
		for j := range 25 {
			ws = append(ws, write(zodb.Oid(i*25+j), 0, data))
		}
		commit(t, n, ws...)
	}
	hits := 0
	buf := make([]byte, 1<<14)
	for oid := range zodb.Oid(1000) {
		if _, _, ok := n.TryLoad(oid, n.Visible(), buf); ok {
			hits++
		}
	}
	if most := (8 << 20) * 3 / 8 / 10_000; hits == 0 || hits > most {
		t.Fatalf("%d records of 10 kB are in memory, at most %d fit", hits, most)
	}
}

func TestWhatIsTooLargeIsRefusedBeforeTheLog(t *testing.T) {
	n := open(t, t.TempDir(), func(c *node.Config) { c.MaxObjectSize = 10 })
	if _, err := n.Vote(ctx, txn(write(1, 0, "eleven bytes"))); !errors.Is(err, node.ErrTooLarge) {
		t.Fatal(err)
	}
	commit(t, n, write(1, 0, "ten bytes."))
}

func TestTwoWritesOfAnObjectAreNoTransaction(t *testing.T) {
	n := open(t, t.TempDir())
	for _, oids := range [][]zodb.Oid{{1, 1}, {2, 1, 3, 1}, {1, 2, 2}} {
		x := txn()
		for _, oid := range oids {
			x.Writes = append(x.Writes, write(oid, 0, fmt.Sprint(len(x.Writes))))
		}
		if _, err := n.Vote(t.Context(), x); !errors.Is(err, node.ErrUsage) {
			t.Errorf("vote on %v: %v", oids, err)
		}
		x.Tid = 1
		if err := n.Restore(t.Context(), x); !errors.Is(err, node.ErrUsage) {
			t.Errorf("restore %v: %v", oids, err)
		}
	}
	commit(t, n, write(3, 0, "a"), write(1, 0, "b"), write(2, 0, "c"))
	if st := n.Stats(); st.Records != 3 {
		t.Errorf("%+v", st)
	}
}

func TestAfterCloseEverythingSaysClosed(t *testing.T) {
	n, err := tryOpen(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	commit(t, n, write(1, 0, "a"))
	if err := errors.Join(n.Close(), n.Close()); err != nil {
		t.Fatal(err)
	}
	_, load := n.Load(ctx, 1, zodb.MaxTid)
	_, vote := n.Vote(ctx, txn())
	_, oids := n.NewOids(ctx, 1)
	_, _, _, advance := n.Advance(ctx, 1)
	for _, err := range []error{load, vote, oids, advance} {
		if !errors.Is(err, index.ErrClosed) {
			t.Error(err)
		}
	}
	if _, _, ok := n.TryLoad(1, zodb.MaxTid, nil); ok {
		t.Error("memory answers after Close")
	}
}

func TestAPoisonedPeerReadsAndCommitsNothing(t *testing.T) {
	n := open(t, t.TempDir())
	tid := commit(t, n, write(1, 0, "a"))
	x := txn(write(1, tid, "b"))
	vote(t, n, x)
	n.Poison(errors.New("the disk burns"))
	_, finish := n.Finish(ctx, x.ID, false)
	_, vote := n.Vote(ctx, txn(write(2, 0, "c")))
	for _, err := range []error{finish, vote} {
		var broken *replica.Broken
		if !errors.As(err, &broken) {
			t.Error(err)
		}
	}
	if got := load(t, n, 1, tid); got != "a" {
		t.Error(got)
	}
}

func TestVerifyCountsAndFollowsTheChain(t *testing.T) {
	dir := t.TempDir()
	n, err := tryOpen(dir)
	if err != nil {
		t.Fatal(err)
	}
	tid := commit(t, n, write(1, 0, "a"), write(2, 0, "b"))
	last := commit(t, n, write(1, tid, "c"))
	st := n.Stats()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := node.Verify(ctx, dir, nil)
	want := node.Report{Report: index.Report{Records: 3, Transactions: 2, Objects: 2, LastTid: last, Digest: st.Digest}}
	if d := cmp.Diff(want, r); err != nil || d != "" {
		t.Fatal(err, d)
	}
}
