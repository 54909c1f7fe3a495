package crash

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/node"
	"github.com/zodb-dht/zodb_dht/internal/replica"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// failing fails the operation that changes the disk with this number, counted from 0: it alone (a loose cable), or all from then on
// (a full or dead disk).
type failing struct {
	at     int64
	stays  bool
	n      atomic.Int64
	failed atomic.Pointer[errorfs.Op] // the first
	after  atomic.Int64               // operations that change the disk and were not refused, since then
}

func (f *failing) String() string { return fmt.Sprintf("operation %d, stays %t", f.at, f.stays) }

func (f *failing) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() == errorfs.OpIsRead || op.Kind == errorfs.OpLock {
		return nil
	}
	n := f.n.Add(1) - 1
	if n == f.at {
		f.failed.Store(&op)
	}
	if n == f.at || f.stays && n > f.at {
		return syscall.EIO
	}
	if n > f.at {
		f.after.Add(1)
	}
	return nil
}

// promised says whether the failed operation is one that a commit relies on.
func promised(op *errorfs.Op) bool {
	if op == nil {
		return false
	}
	switch op.Kind {
	case errorfs.OpFileWrite, errorfs.OpFileWriteAt, errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
		return strings.HasSuffix(op.Path, ".log") || filepath.Base(op.Path) == "mark"
	default:
		return false
	}
}

// acked is a commit whose client was told.
type acked struct {
	tid    zodb.Tid
	writes []zodb.Write
}

const (
	failThreads = 2
	failCommits = 9 // of each thread: enough to fill a few of Pebble's first memtables
	failObjects = 2 // of each of them, but for one in the midst, whose entry the log holds in parts
	failMany    = 80
)

// work commits from several threads until each has done its share or met an error; told is all that was acknowledged.
func work(n *node.Node, f *failing, s uint64) (told []acked, errs []error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for thread := range failThreads {
		wg.Go(func() {
			draw := rand.New(rand.NewPCG(s, uint64(thread)))
			for i := range failCommits {
				x := zodb.Txn{ID: name{s, 0, thread, i}.id(), Status: ' '}
				objects := failObjects
				if thread == 1 && i == failCommits/2 {
					objects = failMany
				}
				for j := range objects {
					data := make([]byte, 12_000+draw.IntN(30_000))
					for k := 0; k+8 <= len(data); k += 8 {
						binary.LittleEndian.PutUint64(data[k:], draw.Uint64())
					}
					oid := zodb.Oid(1 + thread*1000 + i*failMany + j)
					x.Writes = append(x.Writes, zodb.Write{Oid: oid, Kind: zodb.WriteData, Data: data, Hash: block.Sum(data)})
				}
				op := f.failed.Load()
				before := promised(op)
				if before && op.Kind == errorfs.OpFileWriteAt && n.Broken() == nil {
					before = false // zeros ahead of the log: no commit waits for them, and their writer may be about to tell
				}
				tid, err := voteAndFinish(n, &x)
				mu.Lock()
				switch {
				case err != nil:
					errs = append(errs, err)
				case before:
					errs = append(errs, fmt.Errorf("GOES ON: tid %s was acknowledged after %+v had failed", tid, *f.failed.Load()))
				default:
					told = append(told, acked{tid, x.Writes})
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return told, errs
}

func voteAndFinish(n *node.Node, x *zodb.Txn) (zodb.Tid, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if stale, err := n.Vote(ctx, x); err != nil || len(stale) > 0 {
		return 0, fmt.Errorf("vote: %d stale: %w", len(stale), err)
	}
	return n.Finish(ctx, x.ID, false)
}

func holdsAll(n *node.Node, told []acked) error {
	for _, a := range told {
		for i := range a.writes {
			w := &a.writes[i]
			rev, err := n.LoadSerial(context.Background(), w.Oid, a.tid)
			if err != nil {
				return fmt.Errorf("LOST: oid %s at tid %s: %w", w.Oid, a.tid, err)
			}
			if !bytes.Equal(rev.Data, w.Data) {
				return fmt.Errorf("WRONG: oid %s at tid %s has other bytes", w.Oid, a.tid)
			}
		}
	}
	return nil
}

func openOn(dir string, on vfs.FS, log slog.Handler) (*node.Node, error) {
	return node.Open(context.Background(), node.Config{Path: dir, Create: true, CacheSize: 8 << 20, FS: on, Logger: slog.New(log)})
}

// ends calls f and reports whether it came back.
func ends(f func() error) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = f() // it may well fail: the disk did
	}()
	select {
	case <-done:
		return true
	case <-time.After(time.Minute):
		return false
	}
}

// Each operation that changes the disk fails once, alone or together with all that follow: while a peer opens, commits, writes its
// tables and closes. Whatever fails: what was acknowledged is there after a crash at that moment, nothing is acknowledged after a
// failed write or sync that a commit relies on, reads go on, and Close comes back.
func TestWhicheverWriteFailsNothingAcknowledgedIsLost(t *testing.T) {
	s := seed(t)
	step := int64(envInt(t, "ZODB_DHT_SOAK_STEP", 6)) // 1: each operation; CI takes others in each run
	for i, stays := range []bool{false, true} {
		t.Run(fmt.Sprintf("stays=%t", stays), func(t *testing.T) {
			poisoned, refused := 0, 0
			for at := (int64(s%1000) + int64(i)) % step; ; at += step {
				f := &failing{at: at, stays: stays}
				broken, opened, err := fail(t, f, s)
				if err != nil {
					t.Fatalf("seed %d, %s, %+v: %v", s, f, f.failed.Load(), err)
				}
				if f.failed.Load() == nil { // the work is over before it
					t.Logf("%d operations: %d made the peer refuse to open, %d poisoned it", at, refused, poisoned)
					break
				}
				if broken {
					poisoned++
				}
				if !opened {
					refused++
				}
			}
			if poisoned == 0 || refused == 0 {
				t.Errorf("%d were poisoned, %d did not open: does anything fail at all?", poisoned, refused)
			}
		})
	}
}

// fail runs one peer with one failure, and looks at what a crash right after its work, and one after its close, leave.
func fail(t *testing.T, f *failing, s uint64) (broken, opened bool, err error) {
	t.Helper()
	percents := []int{0}
	if f.at%4 == 0 {
		percents = append(percents, 100)
	}
	if f.at%32 == 0 {
		percents = append(percents, 50) // slow: Pebble looks for the flipped bit that would explain the rest
	}
	dir := filepath.Join(t.TempDir(), "peer")
	mem, err := memoryWith(dir)
	if err != nil {
		return false, false, err
	}
	n, err := openOn(dir, errorfs.Wrap(mem, f), slog.DiscardHandler)
	if err != nil {
		if f.failed.Load() == nil {
			return false, false, fmt.Errorf("open without a failure: %w", err)
		}
		return false, false, survives(t, dir, mem, nil, s, percents...)
	}
	told, errs := work(n, f, s)
	for _, e := range errs {
		var b *replica.Broken
		if !errors.As(e, &b) {
			err = errors.Join(err, fmt.Errorf("not a clear error: %w", e))
		}
	}
	err = errors.Join(err, holdsAll(n, told), survives(t, dir, mem, told, s, percents...))
	op := f.failed.Load()
	if !ends(n.Close) {
		return false, true, errors.Join(err, errors.New("Close does not come back"))
	}
	broken = n.Broken() != nil // the log tells its callers first
	switch {
	case len(errs) > 0 && !broken:
		err = errors.Join(err, fmt.Errorf("%d commits failed, but the peer is not broken: %w", len(errs), errs[0]))
	case promised(op) && !broken: // it may have come behind the last commit: then none failed
		err = errors.Join(err, errors.New("a write that commits rely on failed, and the peer is not broken"))
	}
	return broken, true, errors.Join(err, survives(t, dir, mem, told, s, 0))
}

// memoryWith is a file system in memory that has the database's directory, durably: node sees to that on the real one, where the
// files "lock" and "format" lie in this test, too.
func memoryWith(dir string) (*vfs.MemFS, error) {
	mem := vfs.NewCrashableMem()
	path := filepath.Join(dir, "db")
	if err := mem.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	for at := path; at != "/"; {
		at = filepath.Dir(at)
		d, err := mem.OpenDir(at)
		if err != nil {
			return nil, err
		}
		if err := errors.Join(d.Sync(), d.Close()); err != nil {
			return nil, err
		}
	}
	return mem, nil
}

// survives opens what a crash now would leave: with such a part of what was not synced.
func survives(t *testing.T, dir string, mem *vfs.MemFS, told []acked, s uint64, percents ...int) error {
	t.Helper()
	var errs []error
	for _, percent := range percents {
		clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(s, uint64(percent)))})
		to := t.TempDir()
		format, err := os.ReadFile(filepath.Join(dir, "format"))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, "format"), format, 0o600)
		} else if errors.Is(err, fs.ErrNotExist) {
			err = nil // it was not a peer yet
		}
		err = errors.Join(err, clone.MkdirAll(to, 0o700), clone.Rename(filepath.Join(dir, "db"), filepath.Join(to, "db")))
		if err == nil {
			err = reopened(to, clone, told)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("a crash that keeps %d %% of what was not synced: %w", percent, err))
		}
	}
	return errors.Join(errs...)
}

// reopened opens a file system, finds all that was acknowledged, each other transaction whole, and commits.
func reopened(dir string, on vfs.FS, told []acked) error {
	n, err := openOn(dir, on, slog.DiscardHandler)
	if err != nil {
		return fmt.Errorf("LOST: it does not open again: %w", err)
	}
	headers, err := n.Transactions(context.Background(), 1, zodb.MaxTid, 1000)
	for _, h := range headers {
		for _, oid := range h.Oids {
			if _, e := n.LoadSerial(context.Background(), oid, h.Tid); e != nil {
				err = errors.Join(err, fmt.Errorf("tid %s is there in part: oid %s: %w", h.Tid, oid, e))
			}
		}
	}
	x := zodb.Txn{ID: zodb.TxnID{1}, Status: ' ', Writes: []zodb.Write{{Oid: 9999, Kind: zodb.WriteData, Data: []byte("x"), Hash: block.Sum([]byte("x"))}}}
	_, e := voteAndFinish(n, &x)
	return errors.Join(err, holdsAll(n, told), e, n.Close())
}
