package index_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/zodb-dht/zodb_dht/internal/index"
)

// A process that ends in an open after a crash, before its files have their names, leaves drafts: the next open removes them.
func TestTheDraftsOfAnOpenThatCrashedAreRemoved(t *testing.T) {
	s, killed, free := openBeforeItsSyncs(t)
	again := killed.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
	close(free)
	shut(t, s)
	if n := len(drafts(t, again)); n != 2 {
		t.Fatalf("the crash left %d drafts, want those of the marker and of the log: %q", n, list(t, again))
	}
	s = openOn(t, again)
	shut(t, s)
	if left := drafts(t, again); len(left) > 0 {
		t.Errorf("left %q", left)
	}
}

// openBeforeItsSyncs opens what a killed process left, and holds every sync back until free is closed. "/a" is "1" there.
func openBeforeItsSyncs(t *testing.T) (s *index.Store, killed *vfs.MemFS, free chan struct{}) {
	t.Helper()
	mem := vfs.NewCrashableMem()
	s = openOn(t, mem)
	set(t, s, "/a", "1")
	killed = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
	shut(t, s)
	free = make(chan struct{})
	return openOn(t, errorfs.Wrap(killed, errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpFileSync, errorfs.OpFileSyncData:
			<-free
		default:
		}
		return nil
	}))), killed, free
}

func drafts(t *testing.T, fs vfs.FS) []string {
	t.Helper()
	return slices.DeleteFunc(list(t, fs), func(name string) bool { return !strings.HasSuffix(name, ".dbtmp") })
}

// crasher keeps what a crash before each write would leave: of the process (all that was written) and of the machine.
type crasher struct {
	mem *vfs.MemFS
	rng *rand.Rand

	mu    sync.Mutex
	acked []string // keys whose write was acknowledged
	taken []crash
}

type crash struct {
	fs    *vfs.MemFS
	acked []string
	at    string
}

func (c *crasher) String() string { return "crasher" }

func (c *crasher) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, unsynced := range []int{0, 50, 100} {
		fs := c.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: unsynced, RNG: c.rng})
		c.taken = append(c.taken, crash{fs, c.acked, op.Path})
	}
	return nil
}

func (c *crasher) ack(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acked = append(c.acked[:len(c.acked):len(c.acked)], key)
}

// Whenever a crash comes, in an open after another one, while that is made durable, or behind it: what was acknowledged is there.
func TestACrashInAnOpenAfterACrashLosesNothing(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	mem := vfs.NewCrashableMem()
	s := openOn(t, mem)
	set(t, s, "/a", "1")
	set(t, s, "/b", "1")
	killed := mem.CrashClone(vfs.CrashCloneCfg{})
	shut(t, s)

	c := &crasher{mem: killed, rng: rand.New(rand.NewPCG(seed, 0)), acked: []string{"/a", "/b"}}
	s = openOn(t, errorfs.Wrap(killed, c))
	for _, key := range []string{"/c", "/d"} {
		set(t, s, key, "1")
		c.ack(key)
	}
	if err := s.DB().Flush(); err != nil {
		t.Fatal(err)
	}
	shut(t, s)
	for i, crash := range c.taken {
		again := openOn(t, crash.fs)
		for _, key := range crash.acked {
			_, closer, err := again.DB().Get([]byte(key))
			if err != nil {
				t.Fatalf("after crash %d of %d, before a write to %s, %s: %v", i, len(c.taken), crash.at, key, err)
			}
			_ = closer.Close()
		}
		shut(t, again)
		twice := openOn(t, crash.fs)
		shut(t, twice)
	}
	t.Logf("%d crashes", len(c.taken))
}

// An open after a crash waits for no sync; a close, which does, leaves what any other leaves.
func TestAnOpenAfterACrashSyncsNothing(t *testing.T) {
	s, killed, free := openBeforeItsSyncs(t)
	_, closer, err := s.DB().Get([]byte("/a"))
	if err != nil {
		t.Fatal(err)
	}
	_ = closer.Close()
	close(free)
	shut(t, s)
	if left := drafts(t, killed); len(left) > 0 {
		t.Errorf("left %q", left)
	}
}
