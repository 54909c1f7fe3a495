package index_test

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/zodb-dht/zodb_dht/internal/index"
)

// journal writes down what a file system is asked to sync, create and rename.
type journal struct {
	mu  sync.Mutex
	ops []string
}

func (j *journal) MaybeError(op errorfs.Op) error {
	var what string
	switch op.Kind {
	case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
		what = "sync"
	case errorfs.OpCreate, errorfs.OpReuseForWrite:
		what = "create"
	case errorfs.OpRename:
		what = "rename"
	default:
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.ops = append(j.ops, what+" "+filepath.Base(op.Path))
	return nil
}

func (j *journal) String() string { return "journal" }

// take returns what is written down and begins anew.
func (j *journal) take() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	ops := j.ops
	j.ops = nil
	return ops
}

func count(ops []string, what string) (n int) {
	for _, op := range ops {
		if strings.HasPrefix(op, what) {
			n++
		}
	}
	return n
}

func openOn(t *testing.T, fs vfs.FS) *index.Store {
	t.Helper()
	s, err := index.Open(index.Config{Dir: "db", FS: fs, Create: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func set(t *testing.T, s *index.Store, key, value string) {
	t.Helper()
	if err := s.DB().Set([]byte(key), []byte(value), pebble.Sync); err != nil {
		t.Fatal(err)
	}
}

func shut(t *testing.T, s *index.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func list(t *testing.T, fs vfs.FS) []string {
	t.Helper()
	names, err := fs.List("db")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return slices.DeleteFunc(names, func(name string) bool { return strings.HasPrefix(name, "OPTIONS-") })
}

// An open and a close that write nothing sync nothing, and leave the directory as it was.
func TestWhoWritesNothingSyncsNothing(t *testing.T) {
	var j journal
	fs := errorfs.Wrap(vfs.NewMem(), &j)
	s := openOn(t, fs)
	set(t, s, "/a", "1")
	shut(t, s)
	before := list(t, fs)
	for range 3 {
		j.take()
		s = openOn(t, fs)
		shut(t, s)
		if ops := j.take(); count(ops, "sync") > 0 {
			t.Errorf("synced: %q", ops)
		}
		if after := list(t, fs); !slices.Equal(before, after) {
			t.Errorf("left %q, before %q", after, before)
		}
	}
}

// What waited is durable before the first log that is synced: the directory's names, and those above it.
func TestTheFirstSyncOfALogMakesItsNameDurable(t *testing.T) {
	mem := vfs.NewCrashableMem()
	var j journal
	fs := errorfs.Wrap(mem, &j)
	s := openOn(t, fs)
	set(t, s, "/a", "1")
	shut(t, s)
	s = openOn(t, fs)
	j.take()
	set(t, s, "/b", "2")
	ops := j.take()
	if dir, log := slices.Index(ops, "sync db"), slices.IndexFunc(ops, func(op string) bool { return strings.HasSuffix(op, ".log") }); dir < 0 || log < dir {
		t.Errorf("the first synced write asked for %q", ops)
	}
	set(t, s, "/c", "3")
	if ops := j.take(); count(ops, "sync") != 1 {
		t.Errorf("the second one asked for %q", ops)
	}
	crashed := openOn(t, mem.CrashClone(vfs.CrashCloneCfg{}))
	for key, want := range map[string]string{"/a": "1", "/b": "2", "/c": "3"} {
		v, closer, err := crashed.DB().Get([]byte(key))
		if err != nil || string(v) != want {
			t.Fatalf("after a crash %s is %q: %v", key, v, err)
		}
		_ = closer.Close()
	}
	shut(t, crashed)
	shut(t, s)
}

// Options that changed are written and synced before they get their name; those that did not are the file that was there.
func TestOptionsAreWrittenOnlyWhenTheyChange(t *testing.T) {
	var j journal
	fs := errorfs.Wrap(vfs.NewMem(), &j)
	for i, cacheMB := range []int64{64, 64, 32, 32} {
		j.take()
		s, err := index.Open(index.Config{Dir: "db", FS: fs, Create: true, CacheBytes: cacheMB << 20, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ops := j.take()
		draft := slices.IndexFunc(ops, func(op string) bool { return strings.HasPrefix(op, "sync") && strings.HasSuffix(op, ".dbtmp") })
		if changed := i%2 == 0; changed != (draft >= 0) {
			t.Errorf("open %d: %q", i, ops)
		}
		shut(t, s)
		names, err := fs.List("db")
		if err != nil {
			t.Fatal(err)
		}
		if n := len(slices.DeleteFunc(names, func(name string) bool {
			return !strings.HasPrefix(name, "OPTIONS-") && !strings.HasSuffix(name, ".dbtmp")
		})); n != 1 {
			t.Errorf("open %d left %d files of options", i, n)
		}
	}
}

// What a crash left is flushed by the open; it does not wait for the compaction that this makes due.
func TestAnOpenDoesNotWaitForACompaction(t *testing.T) {
	mem := vfs.NewCrashableMem()
	held := 0
	for i := range 12 {
		var tables atomic.Int64
		release := make(chan struct{})
		fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ".sst") && tables.Add(1) > 1 { // the first one is the flush's
				<-release
			}
			return nil
		}))
		opened := make(chan *index.Store)
		go func() {
			s, err := index.Open(index.Config{Dir: "db", FS: fs, Create: true, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Error(err)
			}
			opened <- s
		}()
		var s *index.Store
		select {
		case s = <-opened:
		case <-time.After(20 * time.Second): // only if it fails
			t.Errorf("open %d waits for a compaction", i)
			close(release)
			<-opened
			return
		}
		close(release)
		for k := range 50 {
			set(t, s, fmt.Sprintf("/%d", k), fmt.Sprint(i))
		}
		held += int(s.DB().Metrics().Levels[0].TablesCount)
		next := mem.CrashClone(vfs.CrashCloneCfg{})
		shut(t, s)
		mem = next
	}
	if held == 0 {
		t.Error("no open found a table that a compaction could take")
	}
}

// What an open reads of the manifest does not grow with all that was ever flushed and compacted.
func TestAManifestStaysSmall(t *testing.T) {
	fs := vfs.NewMem()
	s := openOn(t, fs)
	value := strings.Repeat("v", 100)
	for i := range 1500 {
		for k := range 2 {
			if err := s.DB().Set(fmt.Appendf(nil, "/%s%d", value, k), []byte(fmt.Sprint(i)), pebble.NoSync); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.DB().Flush(); err != nil {
			t.Fatal(err)
		}
	}
	shut(t, s)
	for _, name := range list(t, fs) {
		if info, err := fs.Stat("db/" + name); err != nil || strings.HasPrefix(name, "MANIFEST-") && info.Size() > 128<<10 {
			t.Errorf("%s: %d bytes: %v", name, info.Size(), err)
		}
	}
}

// Compactions that are due at a resting open are held back until Settle.
func TestCompactionsRestUntilTheyMayRun(t *testing.T) {
	mem := vfs.NewCrashableMem()
	var s *index.Store
	const opens = 12 // each leaves what the next one flushes
	for i := range opens {
		var err error
		if s, err = index.Open(index.Config{Dir: "db", FS: mem, Create: true, Resting: true, Logger: slog.New(slog.DiscardHandler)}); err != nil {
			t.Fatal(err)
		}
		if i == opens-1 {
			break
		}
		for k := range 50 {
			set(t, s, fmt.Sprintf("/%d", k), fmt.Sprint(i))
		}
		next := mem.CrashClone(vfs.CrashCloneCfg{})
		shut(t, s)
		mem = next
	}
	defer shut(t, s)
	tables := func() int64 { return s.DB().Metrics().Levels[0].TablesCount }
	if n := tables(); n != opens-1 {
		t.Errorf("%d tables in level 0 instead of %d: something was compacted", n, opens-1)
	}
	s.Settle()
	for late := time.After(20 * time.Second); tables() == opens-1; {
		select {
		case <-late: // only if it fails
			t.Fatal("nothing is compacted after Settle")
		default:
			runtime.Gosched()
		}
	}
}
