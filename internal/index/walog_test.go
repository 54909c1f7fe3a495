package index_test

import (
	"bytes"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/zodb-dht/zodb_dht/internal/index"
)

// zeroing is a file system that asks `zeros` before the second and each further time zeros are written ahead of a log: the first are
// written in the way of the first commit. synced is asked before each sync of a log.
func zeroing(fs vfs.FS, zeros, synced func() error) vfs.FS {
	var times atomic.Int64
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch {
		case !strings.HasSuffix(op.Path, ".log"):
		case op.Kind == errorfs.OpFileWriteAt && times.Add(1) > 1:
			return zeros()
		case op.Kind == errorfs.OpFileSyncData:
			return synced()
		}
		return nil
	}))
}

func never() error { return nil }

func openZeroing(t *testing.T, fs vfs.FS, broken func(error)) *index.Store {
	t.Helper()
	s, err := index.Open(index.Config{Dir: "db", FS: fs, Create: true, Logger: slog.New(slog.DiscardHandler), Broken: broken})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(s *index.Store, n, size int) error {
	return s.DB().Set([]byte{'/', byte(n >> 8), byte(n)}, bytes.Repeat([]byte{byte(n)}, size), pebble.Sync)
}

func held(t *testing.T, s *index.Store, n, size int) {
	t.Helper()
	got, closer, err := s.DB().Get([]byte{'/', byte(n >> 8), byte(n)})
	if err != nil || !bytes.Equal(got, bytes.Repeat([]byte{byte(n)}, size)) {
		t.Fatalf("write %d: %d bytes, %v", n, len(got), err)
	}
	if err := closer.Close(); err != nil {
		t.Fatal(err)
	}
}

// A commit that fits does not wait while zeros are written ahead of it; one that does not fit waits, or they would come behind it.
func TestZerosAreWrittenBetweenCommits(t *testing.T) {
	mem := vfs.NewCrashableMem()
	inside, release := make(chan struct{}), make(chan struct{})
	var first atomic.Bool
	var syncs atomic.Int64
	s := openZeroing(t, zeroing(mem, func() error {
		if first.CompareAndSwap(false, true) {
			close(inside)
			<-release
		}
		return nil
	}, func() error {
		syncs.Add(1)
		return nil
	}), func(err error) { t.Error(err) })
	n := 0
	for ; n < 40; n++ { // half of the first zeros are used up
		if err := put(s, n, 1000); err != nil {
			t.Fatal(err)
		}
	}
	<-inside
	for ; n < 50; n++ {
		if err := put(s, n, 1000); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan error, 1)
	go func() { done <- put(s, n, 100_000) }()
	for range 30_000 { // time enough to get there, if it did not wait
		runtime.Gosched()
	}
	close(release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for syncs.Load() < int64(n)+2 { // each commit's and that of the zeros
		runtime.Gosched()
	}
	killed := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openZeroing(t, killed, func(err error) { t.Error(err) })
	for i := range n {
		held(t, s, i, 1000)
	}
	held(t, s, n, 100_000)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// The zeros' sync may be told of a commit's bytes that did not reach the disk.
func TestAFailedSyncOfZerosBreaksTheStore(t *testing.T) {
	inside, broken := make(chan struct{}), make(chan error, 10)
	var once sync.Once
	var failing atomic.Bool
	s := openZeroing(t, zeroing(vfs.NewCrashableMem(), func() error {
		once.Do(func() { close(inside) })
		for !failing.Load() { // until the last commit has returned
			runtime.Gosched()
		}
		return nil
	}, func() error {
		if failing.Load() {
			return errorfs.ErrInjected
		}
		return nil
	}), func(err error) { broken <- err })
	const most = 40
	for n := range most {
		if err := put(s, n, 1000); err != nil {
			t.Fatal(err)
		}
	}
	<-inside
	failing.Store(true)
	if err := <-broken; !errors.Is(err, errorfs.ErrInjected) {
		t.Errorf("broken by %v", err)
	}
	for n := range most {
		held(t, s, n, 1000)
	}
	_ = s.Close() // says that it is broken
}

// Zeros take no room that a commit would need.
func TestAFullDiskHasNoZeros(t *testing.T) {
	mem := vfs.NewCrashableMem()
	s := openZeroing(t, zeroing(mem, func() error { return syscall.ENOSPC }, never), func(err error) { t.Error(err) })
	const most = 300
	for n := range most {
		if err := put(s, n, 1000); err != nil {
			t.Fatal(err)
		}
	}
	killed := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openZeroing(t, killed, func(err error) { t.Error(err) })
	for n := range most {
		held(t, s, n, 1000)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
