package replica_test

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/replica"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

type peer struct {
	*replica.Replica
	store *index.Store
}

func open(t testing.TB, fs vfs.FS, create bool, edit ...func(*replica.Config)) *peer {
	t.Helper()
	p, err := tryOpen(fs, create, edit...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func tryOpen(fs vfs.FS, create bool, edit ...func(*replica.Config)) (*peer, error) {
	p := &peer{}
	var early atomic.Pointer[error]
	s, err := index.Open(index.Config{Dir: "db", FS: fs, Create: create, CacheBytes: 1 << 20, Logger: quiet, Broken: func(err error) {
		early.Store(&err)
		if p.Replica != nil {
			p.Poison(err)
		}
	}})
	if err != nil {
		return nil, err
	}
	cfg := replica.Config{DB: s.DB(), Left: s.Left(), State: s, Logger: quiet, FinishTimeout: 20 * time.Second}
	for _, e := range edit {
		e(&cfg)
	}
	r, err := replica.Open(context.Background(), cfg)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	p.Replica, p.store = r, s
	return p, nil
}

func (p *peer) close(t testing.TB) {
	t.Helper()
	err := p.Close()
	p.store.Leave(p.Left())
	if err := errors.Join(err, p.store.Close()); err != nil {
		t.Fatal(err)
	}
}

var txns atomic.Uint64

func txn(writes ...zodb.Write) *zodb.Txn {
	x := &zodb.Txn{Writes: writes}
	binary.BigEndian.PutUint64(x.ID[:], txns.Add(1))
	return x
}

func write(oid zodb.Oid, base zodb.Tid, data string) zodb.Write {
	return zodb.Write{Oid: oid, Base: base, Kind: zodb.WriteData, Hash: block.Sum([]byte(data)), Data: []byte(data)}
}

func (p *peer) commit(t testing.TB, x *zodb.Txn) zodb.Tid {
	t.Helper()
	ctx := context.Background()
	if stale, err := p.Vote(ctx, x); err != nil || stale != nil {
		t.Fatal(stale, err)
	}
	o, err := p.Finish(ctx, x.ID)
	if err != nil || o.Verdict != index.Committed {
		t.Fatal(o, err)
	}
	return o.Tid
}

func TestACommitIsThereAfterReopening(t *testing.T) {
	fs := vfs.NewMem()
	p := open(t, fs, true)
	first := p.commit(t, txn(write(1, 0, "a")))
	second := p.commit(t, txn(write(1, first, "b")))
	if second <= first {
		t.Fatal(first, second)
	}
	p.close(t)
	p = open(t, fs, false)
	defer p.close(t)
	rev, err := p.store.Load(1, zodb.MaxTid)
	if err != nil || string(rev.Data) != "b" || rev.Tid != second {
		t.Fatal(rev, err)
	}
	if third := p.commit(t, txn(write(1, second, "c"))); third <= second {
		t.Fatal(second, third)
	}
}

func TestAStaleWriteIsToldAndReserved(t *testing.T) {
	p := open(t, vfs.NewMem(), true)
	defer p.close(t)
	ctx := context.Background()
	tid := p.commit(t, txn(write(1, 0, "a")))
	late := txn(write(1, 0, "late"), write(2, 0, "new"))
	stale, err := p.Vote(ctx, late)
	if err != nil || len(stale) != 1 || stale[0] != (replica.Stale{Oid: 1, Base: 0, Committed: tid}) {
		t.Fatal(stale, err)
	}
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	if _, err := p.Vote(short, txn(write(2, 0, "other"))); !errors.Is(err, replica.ErrBusy) {
		t.Fatal(err)
	}
	late.Writes[0].Base = tid
	p.commit(t, late)
}

func TestBusySaysHowLongWasWaited(t *testing.T) {
	p := open(t, vfs.NewMem(), true, func(cfg *replica.Config) { cfg.VoteWait = 20 * time.Millisecond })
	defer p.close(t)
	if _, err := p.Vote(t.Context(), txn(write(1, 0, "a"))); err != nil {
		t.Fatal(err)
	}
	_, err := p.Vote(t.Context(), txn(write(1, 0, "b")))
	if !errors.Is(err, replica.ErrBusy) || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "20ms (vote-wait)") {
		t.Fatal(err)
	}
}

func TestAStaleReadIsRefusedAndLeavesNothingReserved(t *testing.T) {
	p := open(t, vfs.NewMem(), true)
	defer p.close(t)
	tid := p.commit(t, txn(write(1, 0, "a")))
	x := txn(write(2, 0, "b"))
	x.Reads = []zodb.Read{{Oid: 1, Serial: tid - 1}}
	var stale *replica.StaleRead
	if _, err := p.Vote(context.Background(), x); !errors.As(err, &stale) || stale.Oid != 1 || stale.Committed != tid {
		t.Fatal(err)
	}
	p.commit(t, txn(write(2, 0, "c")))
	if n := p.Status().Reservations; n != 0 {
		t.Fatalf("%d reservations", n)
	}
}

func TestAFinishWithoutAVoteIsLost(t *testing.T) {
	p := open(t, vfs.NewMem(), true)
	defer p.close(t)
	ctx := context.Background()
	if _, err := p.Finish(ctx, zodb.TxnID{9}); !errors.Is(err, replica.ErrVoteLost) {
		t.Fatal(err)
	}
	x := txn(write(1, 0, "a"))
	if _, err := p.Vote(ctx, x); err != nil {
		t.Fatal(err)
	}
	if err := p.Abort(ctx, x.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Finish(ctx, x.ID); !errors.Is(err, replica.ErrVoteLost) {
		t.Fatal(err)
	}
	p.commit(t, txn(write(1, 0, "b")))
}

// G1 under threads: a counter that everybody increments loses nothing.
func TestIncrementsOfManyWritersAreNotLost(t *testing.T) {
	p := open(t, vfs.NewMem(), true)
	defer p.close(t)
	ctx := context.Background()
	p.commit(t, txn(write(1, 0, string(make([]byte, 8)))))
	const writers, each = 8, 40
	var wg sync.WaitGroup
	for range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for done := 0; done < each; {
				rev, err := p.store.Load(1, zodb.MaxTid)
				if err != nil {
					t.Error(err)
					return
				}
				n := binary.BigEndian.AppendUint64(nil, binary.BigEndian.Uint64(rev.Data)+1)
				x := txn(write(1, rev.Tid, string(n)))
				stale, err := p.Vote(ctx, x)
				if err != nil {
					t.Error(err)
					return
				}
				if stale != nil {
					if err := p.Abort(ctx, x.ID); err != nil {
						t.Error(err)
						return
					}
					continue
				}
				if o, err := p.Finish(ctx, x.ID); err != nil || o.Verdict != index.Committed {
					t.Error(o, err)
					return
				}
				done++
			}
		}()
	}
	wg.Wait()
	rev, err := p.store.Load(1, zodb.MaxTid)
	if err != nil || binary.BigEndian.Uint64(rev.Data) != writers*each {
		t.Fatal(rev, err)
	}
}

func TestRestoredTransactionsAreThereAfterDrain(t *testing.T) {
	fs := vfs.NewMem()
	p := open(t, fs, true)
	ctx := context.Background()
	for i := range 3000 {
		x := txn(write(zodb.Oid(i%100), 0, string(make([]byte, 1000))))
		x.Tid = zodb.Tid(i + 1)
		if err := p.Restore(ctx, x); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	if st := p.store.Stats(); st.LastTid != 3000 || st.Records != 3000 || st.Objects != 100 {
		t.Fatal(st)
	}
	back := txn(write(1, 0, "x"))
	back.Tid = 5
	_ = p.Restore(ctx, back)
	var refused *replica.Refused
	if err := p.Drain(ctx); !errors.As(err, &refused) || refused.Outcome.Verdict != index.Regressed {
		t.Fatal(err)
	}
	if _, err := p.NewOids(ctx, 1); err != nil { // the driver truncates after it answers, and before it takes this
		t.Fatal(err)
	}
	st := p.Status()
	if kept := st.LastIndex + 1 - st.FirstIndex; kept > 1200 || kept == 0 {
		t.Errorf("%d entries are kept", kept)
	}
	p.close(t)
	if st := p.Status(); st.LastIndex+1 != st.FirstIndex {
		t.Errorf("a close left %+v", st)
	}
	p = open(t, fs, false)
	defer p.close(t)
	if st := p.store.Stats(); st.LastTid != 3000 {
		t.Fatal(st)
	}
}

// The log's first entry of a transaction answers both; nobody waits for the second one any more.
func TestATransactionThatIsRestoredTwiceIsUnderWayOnce(t *testing.T) {
	p := open(t, vfs.NewMem(), true)
	defer p.close(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for i := range zodb.Tid(200) {
		x := txn(write(1, 0, "x"))
		x.Tid = i + 1
		if err := errors.Join(p.Restore(ctx, x), p.Restore(ctx, x)); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	if st := p.store.Stats(); st.LastTid != 200 || st.Records != 200 {
		t.Errorf("%+v", st)
	}
}

func TestOidRangesOfManyCallersDoNotOverlap(t *testing.T) {
	p := open(t, vfs.NewMem(), true)
	defer p.close(t)
	var mu sync.Mutex
	seen := map[zodb.Oid]bool{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 20 {
				first, err := p.NewOids(context.Background(), 10)
				mu.Lock()
				for i := range zodb.Oid(10) {
					if err != nil || seen[first+i] {
						t.Error(first, err)
					}
					seen[first+i] = true
				}
				mu.Unlock()
			}
		}()
	}
	wg.Wait()
}

func BenchmarkCommit500B(b *testing.B) {
	dir := b.TempDir()
	s, err := index.Open(index.Config{Dir: dir, Create: true, Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	r, err := replica.Open(context.Background(), replica.Config{DB: s.DB(), State: s, Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	p := &peer{r, s}
	defer p.close(b)
	data := string(make([]byte, 500))
	b.Run("1 writer", func(b *testing.B) {
		oid, err := p.NewOids(context.Background(), 1)
		if err != nil {
			b.Fatal(err)
		}
		var base zodb.Tid
		for b.Loop() {
			base = p.commit(b, txn(write(oid, base, data)))
		}
	})
	b.Run("16 writers", func(b *testing.B) {
		b.SetParallelism(8)
		b.RunParallel(func(pb *testing.PB) {
			oid, err := p.NewOids(context.Background(), 1)
			if err != nil {
				b.Error(err)
			}
			var base zodb.Tid
			for pb.Next() {
				base = p.commit(b, txn(write(oid, base, data)))
			}
		})
	})
}
