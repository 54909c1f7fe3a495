package replica_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/replica"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// told is a commit that was acknowledged.
type told struct {
	oid zodb.Oid
	tid zodb.Tid
}

// propose commits a new object, and calls between before its Finish.
func (p *peer) propose(ctx context.Context, oid zodb.Oid, size int, between func()) (told, error) {
	x := txn(write(oid, 0, string(binary.BigEndian.AppendUint64(make([]byte, size), uint64(oid)))))
	if stale, err := p.Vote(context.Background(), x); err != nil || stale != nil {
		return told{}, fmt.Errorf("%v: %w", stale, err)
	}
	between()
	o, err := p.Finish(ctx, x.ID)
	if err == nil && o.Verdict != index.Committed {
		err = fmt.Errorf("verdict %d", o.Verdict)
	}
	return told{oid, o.Tid}, err
}

// elect lets p lead, as its first entry does.
func (p *peer) elect(t *testing.T) {
	t.Helper()
	if _, err := p.NewOids(context.Background(), 1); err != nil {
		t.Fatal(err)
	}
}

func (p *peer) holds(t *testing.T, all []told) {
	t.Helper()
	for _, a := range all {
		if rev, err := p.store.LoadSerial(a.oid, a.tid); err != nil || binary.BigEndian.Uint64(rev.Data[len(rev.Data)-8:]) != uint64(a.oid) {
			t.Errorf("LOST: oid %s at tid %s: %v", a.oid, a.tid, err)
		}
	}
}

// Callers queue behind each other and give up, with entries of all sizes and restores between: each gets an answer,
// what was acknowledged is there, and what was in doubt is found by its id or never comes.
func TestProposersWithContextsThatEndAllGetTheirAnswer(t *testing.T) {
	fs := vfs.NewMem()
	p := open(t, fs, true)
	const callers, each = 12, 40
	var mu sync.Mutex
	var all []told
	var doubts []zodb.TxnID
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			draw := rand.New(rand.NewPCG(1, uint64(caller)))
			for i := range each {
				oid := zodb.Oid(1 + caller*each + i)
				size := []int{10, 10, 10, 60_000, 1_200_000}[draw.IntN(5)]
				if draw.IntN(4) == 0 {
					if _, err := p.NewOids(context.Background(), 1); err != nil {
						t.Error(err)
					}
				}
				ctx, cancel := context.WithCancel(context.Background())
				between := func() {}
				if draw.IntN(2) == 0 {
					between = func() { go cancel() } // before, during or after it
				}
				a, err := p.propose(ctx, oid, size, between)
				var doubt *replica.InDoubt
				mu.Lock()
				switch {
				case err == nil:
					all = append(all, a)
				case errors.As(err, &doubt):
					doubts = append(doubts, doubt.Txn)
				case !errors.Is(err, context.Canceled):
					t.Error(err)
				}
				mu.Unlock()
				cancel()
			}
		})
	}
	wg.Wait()
	for _, id := range doubts {
		if o, ok, err := p.Outcome(context.Background(), id); err != nil || ok && o.Verdict != index.Committed {
			t.Error(o, ok, err)
		}
	}
	p.holds(t, all)
	if n := p.Status().Reservations; n != 0 {
		t.Errorf("%d reservations are left", n)
	}
	p.close(t)
	p = open(t, fs, false)
	defer p.close(t)
	p.holds(t, all)
	if len(all) < callers {
		t.Errorf("only %d were acknowledged", len(all))
	}
}

// committers commit from several threads until an error, which each returns.
func (p *peer) committers(threads, size int, each func(told)) (all []told, errs []error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for thread := range threads {
		wg.Go(func() {
			for i := 0; ; i++ {
				a, err := p.propose(context.Background(), zodb.Oid(1+thread*1_000_000+i), 10+i%7*size, func() {})
				mu.Lock()
				if err != nil {
					errs = append(errs, err)
					mu.Unlock()
					return
				}
				all = append(all, a)
				mu.Unlock()
				each(a)
			}
		})
	}
	wg.Wait()
	return all, errs
}

func TestACloseUnderCommitsEndsThemAll(t *testing.T) {
	for _, threads := range []int{1, 2, 8} {
		for round := range 10 {
			fs := vfs.NewMem()
			p := open(t, fs, true)
			var n atomic.Int64
			under := make(chan struct{})
			closed := make(chan error)
			go func() {
				<-under
				closed <- p.Close()
			}()
			all, errs := p.committers(threads, 3000, func(told) {
				if n.Add(1) == int64(1+round*3) {
					close(under)
				}
			})
			if err := errors.Join(<-closed, p.store.Close()); err != nil {
				t.Fatal(err)
			}
			for _, err := range errs {
				if !errors.Is(err, replica.ErrClosed) {
					t.Errorf("%d threads, round %d: %v", threads, round, err)
				}
			}
			p = open(t, fs, false)
			p.holds(t, all)
			p.close(t)
		}
	}
}

func isLogSync(op errorfs.Op) bool {
	sync := op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo
	return sync && strings.HasSuffix(filepath.Base(op.Path), ".log")
}

// A sync that fails poisons the replica for everybody; a crash then keeps all that was acknowledged.
func TestASyncThatFailsLosesNothingAcknowledged(t *testing.T) {
	for _, threads := range []int{1, 3} {
		for at := range int64(12) {
			mem := vfs.NewCrashableMem()
			var counting atomic.Bool
			var n atomic.Int64
			p := open(t, errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
				if counting.Load() && isLogSync(op) && n.Add(1) > at {
					return syscall.EIO
				}
				return nil
			})), true)
			p.elect(t)
			counting.Store(true)
			all, errs := p.committers(threads, 0, func(told) {}) // so small that no log is full: see TestMain
			for _, err := range errs {
				var broken *replica.Broken
				if !errors.As(err, &broken) || !errors.Is(err, syscall.EIO) {
					t.Errorf("%d threads, sync %d: %v", threads, at, err)
				}
			}
			crashed := mem.CrashClone(vfs.CrashCloneCfg{})
			if err := p.Close(); err != nil {
				t.Error(err)
			}
			_ = p.store.Close() // it may well fail: the disk did
			p = open(t, crashed, false)
			p.holds(t, all)
			// A sync that fails beside the Apply of what the one before made durable leaves that in doubt: it is there, then.
			kept := len(all)
			for _, err := range errs {
				var doubt *replica.InDoubt
				if !errors.As(err, &doubt) {
					continue
				}
				if o, ok, err := p.Outcome(context.Background(), doubt.Txn); err != nil {
					t.Error(err)
				} else if ok && o.Verdict == index.Committed {
					kept++
				}
			}
			if kept < int(at) {
				t.Errorf("%d threads: %d commits with %d syncs", threads, kept, at)
			}
			p.close(t)
		}
	}
}

// hangingOnce is a disk whose next sync of a log, once holding is set, closes inside and hangs until release is closed.
func hangingOnce(holding *atomic.Bool, inside chan<- struct{}, release <-chan struct{}) vfs.FS {
	return errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if isLogSync(op) && holding.CompareAndSwap(true, false) {
			close(inside)
			<-release
		}
		return nil
	}))
}

// What the driver works on is not taken from under it: Close of a replica that somebody else broke waits for it.
func TestACloseWaitsForTheDriverOfABrokenReplica(t *testing.T) {
	var holding, released atomic.Bool
	inside, release := make(chan struct{}), make(chan struct{})
	p := open(t, hangingOnce(&holding, inside, release), true)
	p.elect(t)
	holding.Store(true)
	finished := make(chan error)
	go func() {
		_, err := p.propose(context.Background(), 1, 10, func() {})
		finished <- err
	}()
	<-inside
	p.Poison(errors.New("by somebody else"))
	closed := make(chan bool)
	go func() {
		err := p.Close()
		closed <- err == nil && released.Load()
	}()
	for range 100_000 {
		runtime.Gosched() // a Close that does not wait would be through
	}
	released.Store(true)
	close(release)
	var broken *replica.Broken
	if err := <-finished; !errors.As(err, &broken) {
		t.Errorf("a commit was acknowledged after the poison, or: %v", err)
	}
	if !<-closed {
		t.Error("Close did not wait")
	}
	_ = p.store.Close()
}

// A disk that hangs: whoever waits is told after FinishTimeout, in doubt if his entry may be on its way, else that nothing was
// written; the late outcome is then found by the transaction's id.
func TestAHangingDiskLeavesNobodyWaiting(t *testing.T) {
	var holding atomic.Bool
	inside, release := make(chan struct{}), make(chan struct{})
	p := open(t, hangingOnce(&holding, inside, release), true, func(cfg *replica.Config) {
		cfg.Tick, cfg.FinishTimeout = time.Millisecond, 50*time.Millisecond
	})
	type end struct {
		outcome index.Outcome
		err     error
	}
	start := func(oid zodb.Oid) (zodb.TxnID, chan end) {
		x := txn(write(oid, 0, "data"))
		if stale, err := p.Vote(context.Background(), x); err != nil || stale != nil {
			t.Fatal(stale, err)
		}
		ends := make(chan end, 2) // it would show a second one
		p.StartFinish(x.ID, func(o index.Outcome, err error) { ends <- end{o, err} })
		return x.ID, ends
	}
	p.elect(t)
	holding.Store(true)
	first, firstEnds := start(1)
	<-inside
	second, secondEnds := start(2)
	var doubt *replica.InDoubt
	if e := <-firstEnds; !errors.As(e.err, &doubt) || doubt.Txn != first || !errors.Is(e.err, replica.ErrUnavailable) {
		t.Errorf("what hangs in the disk ended with %v", e.err)
	}
	doubt = nil
	if e := <-secondEnds; errors.As(e.err, &doubt) || !errors.Is(e.err, replica.ErrUnavailable) {
		t.Errorf("what was never written ended with %v", e.err)
	}
	if e := replica.ErrUnavailable.Error(); strings.Contains(e, "majority") {
		t.Error("there is a majority:", e)
	}
	if n := p.Status().Reservations; n != 1 {
		t.Errorf("%d reservations, not that of the one in doubt", n)
	}
	close(release)
	if o, ok, err := p.Outcome(context.Background(), first); err != nil || !ok || o.Verdict != index.Committed {
		t.Error("the one in doubt:", o, ok, err)
	}
	x := txn(write(2, 0, "again")) // nothing of the second is left, nor ever comes
	if tid := p.commit(t, x); tid == 0 {
		t.Error("no tid")
	}
	if _, ok, err := p.Outcome(context.Background(), second); ok || err != nil {
		t.Error("the second has an outcome", err)
	}
	p.close(t)
	if len(firstEnds)+len(secondEnds) > 0 {
		t.Error("somebody was told twice")
	}
}
