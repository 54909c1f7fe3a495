package index_test

import (
	"bytes"
	"errors"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/zodb-dht/zodb_dht/internal/index"
)

// zeroing is a file system that asks before zeros are written ahead of a log, with a number: 1 are the first, in the way of the first commit.
func zeroing(fs vfs.FS, ask func(time int64) error) vfs.FS {
	var times atomic.Int64
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileWriteAt && strings.HasSuffix(op.Path, ".log") {
			return ask(times.Add(1))
		}
		return nil
	}))
}

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
	var asked atomic.Int64
	s := openZeroing(t, zeroing(mem, func(time int64) error {
		if asked.Store(time); time == 2 {
			close(inside)
			<-release
		}
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
	long := n
	n++
	done := make(chan error, 1)
	go func() { done <- put(s, long, 100_000) }()
	for range 300_000 { // time enough to get there, if it did not wait
		runtime.Gosched()
	}
	close(release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for ; asked.Load() < 8; n++ { // so that those are written
		if err := put(s, n, 1000); err != nil {
			t.Fatal(err)
		}
	}
	killed := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))}) // which draws nothing at 100
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openZeroing(t, killed, func(err error) { t.Error(err) })
	for i := range n {
		if i == long {
			held(t, s, i, 100_000)
		} else {
			held(t, s, i, 1000)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// A disk that fails there has failed.
func TestZerosThatCanNotBeWrittenBreakTheStore(t *testing.T) {
	broken, last := make(chan error, 10), make(chan struct{})
	s := openZeroing(t, zeroing(vfs.NewMem(), func(time int64) error {
		if time > 1 {
			<-last // a commit after it would stay where it is until the store is closed
			return errorfs.ErrInjected
		}
		return nil
	}), func(err error) { broken <- err })
	for n := range 40 {
		if err := put(s, n, 1000); err != nil {
			t.Fatal(err)
		}
	}
	close(last)
	if err := <-broken; !errors.Is(err, errorfs.ErrInjected) {
		t.Errorf("broken by %v", err)
	}
	for n := range 40 {
		held(t, s, n, 1000)
	}
	_ = s.Close() // of a broken store
}

// Zeros take no room that a commit would need.
func TestAFullDiskHasNoZeros(t *testing.T) {
	mem := vfs.NewCrashableMem()
	s := openZeroing(t, zeroing(mem, func(int64) error { return syscall.ENOSPC }), func(err error) { t.Error(err) })
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
