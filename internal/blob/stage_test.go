package blob_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/zodb-dht/zodb_dht/internal/blob"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

func TestWhatIsDiscardedLeavesNothing(t *testing.T) {
	p := newPeer(t)
	p.stage(1, 1, random(1, many))
	p.stage(1, 1, random(2, many)) // stored twice: the second counts
	p.stage(1, 2, nil)
	p.seal(1)
	if len(p.keys()) == 0 {
		t.Fatal("nothing was sealed")
	}
	p.stage(2, 3, random(3, 10)) // never sealed
	for id := range byte(3) {
		if err := p.Discard(zodb.TxnID{id}); err != nil {
			t.Error(err)
		}
	}
	if left := p.tree(); len(left) != 0 {
		t.Error(left)
	}
	if keys := p.keys(); len(keys) != 0 {
		t.Error(len(keys), "references are left")
	}
}

func TestWithKeepTheSourceStaysAsItIs(t *testing.T) {
	p := newPeer(t)
	source := filepath.Join(t.TempDir(), "source.blob")
	for n, mode := range []fs.FileMode{0o444, 0o640} {
		linked := mode&0o222 == 0
		if err := os.WriteFile(source, []byte("content"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(source, mode); err != nil {
			t.Fatal(err)
		}
		before, err := os.Stat(source)
		if err != nil {
			t.Fatal(err)
		}
		id, tid := zodb.TxnID{byte(n)}, zodb.Tid(n+1)
		if err := p.Stage(ctx, id, 1, source, true); err != nil {
			t.Fatal(err)
		}
		p.apply(byte(n), tid, p.seal(byte(n)))
		if err := p.Commit(id, tid); err != nil {
			t.Fatal(err)
		}
		after, err := os.Stat(source)
		mine, err2 := os.Stat(p.Path(1, tid))
		if err != nil || err2 != nil || after.Mode() != before.Mode() || !os.SameFile(before, after) {
			t.Error(mode, after, err, err2)
		}
		if os.SameFile(after, mine) != linked {
			t.Errorf("a source of mode %o: linked %v", mode, !linked)
		}
		if err := os.Remove(source); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhatWasProposedIsForgottenByItsOutcomeOnly(t *testing.T) {
	p := newPeer(t)
	p.stage(1, 1, []byte("a"))
	blobs := p.seal(1)
	p.Propose(zodb.TxnID{1})
	if err := p.Forget(zodb.TxnID{1}); err != nil {
		t.Fatal(err)
	}
	p.apply(1, 3, blobs)
	if err := p.Commit(zodb.TxnID{1}, 3); err != nil {
		t.Fatal(err)
	}
	if err := p.Check(ctx, 1, 3, blobs[1]); err != nil {
		t.Error(err)
	}
	p.stage(2, 2, []byte("b"))
	p.Propose(zodb.TxnID{2})
	p.Withdraw(zodb.TxnID{2})
	if err := p.Forget(zodb.TxnID{2}); err != nil || len(p.seal(2)) != 0 {
		t.Error("a withdrawn file is kept", err)
	}
}

func TestAFileThatDoesNotReadIsRefusedBySeal(t *testing.T) {
	p := newPeer(t)
	if err := p.Stage(ctx, zodb.TxnID{1}, 1, filepath.Join(p.Temp(), "nothing"), false); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	dir := filepath.Join(p.Temp(), "directory")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := p.Stage(ctx, zodb.TxnID{1}, 1, dir, true); err == nil {
		_, err = p.Seal(ctx, zodb.TxnID{1})
		if err == nil {
			t.Error("a directory was sealed")
		}
	}
	if left, err := os.ReadDir(filepath.Join(p.path, "staged")); err != nil || len(left) != 0 {
		t.Error(left, err)
	}
}

// A vote that keeps Python's lock asks with a context that has ended.
func TestWhatIsReadyIsSealedWithoutWaiting(t *testing.T) {
	p := newPeer(t)
	ended, cancel := context.WithCancel(ctx)
	cancel()
	p.stage(1, 1, random(1, 200_000))
	p.stage(1, 2, random(2, 300_000))
	for {
		if _, err := p.Seal(ended, zodb.TxnID{1}); err == nil {
			break
		} else if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		runtime.Gosched()
	}
	for range 100 {
		if blobs, err := p.Seal(ended, zodb.TxnID{1}); err != nil || len(blobs) != 2 {
			t.Fatal(blobs, err)
		}
	}
}

// Small files wait for Seal to sync them, at most 64 of a transaction with a descriptor each.
func TestSmallFilesAreSyncedTogether(t *testing.T) {
	p := newPeer(t)
	ended, cancel := context.WithCancel(ctx)
	cancel()
	waiting := func() (n int) {
		t.Helper()
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil && runtime.GOOS == "linux" {
			t.Fatal(err)
		}
		for _, fd := range fds {
			if to, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(to, filepath.Join(p.path, "staged")) {
				n++
			}
		}
		return n
	}
	want := make(map[zodb.Oid]int64)
	for n := range 150 {
		size := []int{0, 1, 5000, 128 << 10}[n%4]
		p.stage(1, zodb.Oid(n+1), random(uint64(n), size))
		want[zodb.Oid(n+1)] = int64(size)
		if n := waiting(); n > 64 {
			t.Fatal(n, "descriptors")
		}
	}
	if n := waiting(); n == 0 && runtime.GOOS == "linux" {
		t.Error("none waits")
	}
	if _, err := p.Seal(ended, zodb.TxnID{1}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for _, at := range []context.Context{ctx, ended} { // what is synced is ready
		blobs, err := p.Seal(at, zodb.TxnID{1})
		if err != nil || len(blobs) != len(want) {
			t.Fatal(len(blobs), err)
		}
		for oid, b := range blobs {
			if b.Size != want[oid] {
				t.Error(oid, b)
			}
		}
		if n := waiting(); n != 0 {
			t.Error(n, "descriptors")
		}
	}
	p.stage(2, 1, random(1, 10))
	if err := p.Discard(zodb.TxnID{2}); err != nil || waiting() != 0 {
		t.Error(waiting(), err)
	}
	p.stage(3, 1, random(1, 10))
	p.close()
	if n := waiting(); n != 0 {
		t.Error(n, "descriptors")
	}
	p.open()
}

func TestAFileThatIsWrittenToAfterItWasHandedOverIsRefused(t *testing.T) {
	p := newPeer(t)
	for id, change := range map[byte]func(name string) error{
		1: func(name string) error { return os.WriteFile(name, random(2, 1000), 0o600) },
		2: func(name string) error { return os.Truncate(name, 999) },
		3: os.Remove,
	} {
		for _, sealed := range []bool{false, true} {
			p.stage(id, 1, random(1, 1000))
			if _, err := p.Seal(ctx, zodb.TxnID{id}); err != nil {
				t.Fatal(err)
			}
			name := filepath.Join(p.path, "staged", fmt.Sprintf("%s-%016x", zodb.TxnID{id}, 1))
			if err := errors.Join(os.Chmod(name, 0o600), p.Unchanged(zodb.TxnID{id}), change(name)); err != nil {
				t.Fatal(err)
			}
			err := p.Unchanged(zodb.TxnID{id})
			if !sealed {
				_, err = p.Seal(ctx, zodb.TxnID{id})
			}
			if !errors.Is(err, blob.ErrChanged) || !strings.Contains(err.Error(), name) {
				t.Error(id, err)
			}
			if err := p.Discard(zodb.TxnID{id}); err != nil {
				t.Error(err)
			}
		}
	}
}
