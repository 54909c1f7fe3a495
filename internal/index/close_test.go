package index_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// heldReads is a file system whose first read of a table after `armed` waits until release is closed.
func heldReads(fs vfs.FS, armed *atomic.Bool, inside chan<- struct{}, release <-chan struct{}) vfs.FS {
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileReadAt && strings.HasSuffix(op.Path, ".sst") && armed.CompareAndSwap(true, false) {
			close(inside)
			<-release
		}
		return nil
	}))
}

// A compaction that is under way when a store is closed reads no further.
func TestACloseEndsTheCompactionThatRuns(t *testing.T) {
	mem := vfs.NewMem()
	var armed atomic.Bool
	inside, release := make(chan struct{}), make(chan struct{})
	s, err := index.Open(index.Config{
		Dir: "db", FS: heldReads(mem, &armed, inside, release), Create: true, CacheBytes: 1, // blocks don't stay: each read is the file's
		Logger: slog.New(slog.DiscardHandler), Broken: func(err error) { t.Error(err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	draw := rand.New(rand.NewPCG(2, 5))
	for i := range 3 {
		for k := range 100 {
			b := make([]byte, 10_000)
			for j := range b {
				b[j] = byte(draw.Uint32())
			}
			if err := s.DB().Set([]byte{'/', byte(k), byte(i)}, b, pebble.NoSync); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.DB().Flush(); err != nil {
			t.Fatal(err)
		}
	}
	before := tableBytes(t, mem)
	armed.Store(true)
	ctx, cancel := context.WithCancel(context.Background())
	compacted := make(chan error)
	go func() { compacted <- s.DB().Compact(ctx, []byte{'/'}, []byte{'0'}, false) }()
	<-inside
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	for !s.Leaving() {
		runtime.Gosched()
	}
	close(release)
	if err := <-closed; err != nil {
		t.Error(err)
	}
	cancel() // Pebble would do it later
	if err := <-compacted; !errors.Is(err, context.Canceled) {
		t.Errorf("the compaction ended with %v", err)
	}
	if after := tableBytes(t, mem); after != before { // a table that it had ended would be of another size
		t.Errorf("%d bytes of tables before, %d after", before, after)
	}
}

// Stores that are closed while they compact, again and again: nothing is lost, nothing is called broken, and the tables of
// compactions that were given up do not stay.
func TestACloseGivesCompactionsUp(t *testing.T) {
	fs := vfs.NewCrashableMem()
	const oids, size = 300, 2000
	next := zodb.Tid(10)
	data, bases := map[zodb.Oid][]byte{}, map[zodb.Oid]zodb.Tid{}
	draw := rand.New(rand.NewPCG(1, 5))
	for round := range 10 {
		s, err := index.Open(index.Config{
			Dir: "db", FS: fs, Create: true, MemTableBytes: 128 << 10, Logger: slog.New(slog.DiscardHandler),
			Broken: func(err error) { t.Errorf("round %d: %v", round, err) },
		})
		if err != nil {
			t.Fatal(err)
		}
		for range 12 {
			txn := &zodb.Txn{ID: zodb.TxnID{1, byte(next), byte(next >> 8)}, Tid: next, Status: ' '}
			for oid := range zodb.Oid(oids) {
				if draw.IntN(4) != 0 {
					continue
				}
				b := make([]byte, size)
				for i := range b {
					b[i] = byte(draw.Uint32())
				}
				txn.Writes = append(txn.Writes, zodb.Write{Oid: oid, Base: bases[oid], Kind: zodb.WriteData, Data: b, Hash: block.Sum(b)})
				data[oid], bases[oid] = b, next
			}
			if _, err := s.Apply(s.Stats().Applied+1, index.AppendCommit(nil, txn)); err != nil {
				t.Fatal(err)
			}
			next++
		}
		for oid, want := range data {
			if rev, err := s.Load(oid, zodb.MaxTid); err != nil || !bytes.Equal(rev.Data, want) {
				t.Fatalf("round %d, oid %s: %d bytes, %v", round, oid, len(rev.Data), err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s := openAt(t, fs, false)
	r, err := s.Verify(t.Context(), nil)
	if err != nil || len(r.Damaged) > 0 {
		t.Error(err, r.Damaged)
	}
	if err := s.Compact(t.Context()); err != nil {
		t.Error(err)
	}
	known := s.DiskSize()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if there := tableBytes(t, fs); there > known {
		t.Errorf("%d bytes of tables are there, %d are known", there, known)
	}
}

// A compaction that is given up while it waits for its turn: Pebble would panic when that comes.
func TestACompactionMayBeGivenUpBeforeItBegins(t *testing.T) {
	mem := vfs.NewMem()
	open := func(rest bool) *index.Store {
		s, err := index.Open(index.Config{Dir: "db", FS: mem, Create: true, Resting: rest, Logger: slog.New(slog.DiscardHandler), Broken: func(err error) { t.Error(err) }})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open(false)
	for i := range 3 {
		data := bytes.Repeat([]byte{byte(i)}, 1000)
		txn := &zodb.Txn{ID: zodb.TxnID{1, byte(i)}, Tid: zodb.Tid(10 + i), Status: ' '}
		txn.Writes = append(txn.Writes, zodb.Write{Oid: zodb.Oid(i), Kind: zodb.WriteData, Data: data, Hash: block.Sum(data)})
		if _, err := s.Apply(s.Stats().Applied+1, index.AppendCommit(nil, txn)); err != nil {
			t.Fatal(err)
		}
		if err := s.DB().Flush(); err != nil {
			t.Fatal(err)
		}
	}
	shut(t, s)
	s = open(true)
	given, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Compact(given); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	s.Settle()
	if err := s.Compact(context.Background()); err != nil {
		t.Error(err)
	}
	shut(t, s)
}

func tableBytes(t *testing.T, fs vfs.FS) (size uint64) {
	t.Helper()
	names, err := fs.List("db")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if !strings.HasSuffix(name, ".sst") {
			continue
		}
		info, err := fs.Stat(fs.PathJoin("db", name))
		if err != nil {
			t.Fatal(fmt.Errorf("stat %s: %w", name, err))
		}
		size += uint64(info.Size())
	}
	return size
}

// A flush or a compaction that fails is not repeated: that took a processor from the application for as long as the process lived.
func TestWhatFailsInTheBackgroundIsNotRepeated(t *testing.T) {
	for _, what := range []string{"flush", "compaction"} {
		var full atomic.Bool
		disk := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
			if full.Load() && strings.HasSuffix(op.Path, ".sst") && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
				return syscall.ENOSPC
			}
			return nil
		}))
		var told atomic.Int64
		broken := make(chan struct{}, 1)
		s, err := index.Open(index.Config{Dir: "db", FS: disk, Create: true, Resting: true, Logger: slog.New(slog.DiscardHandler), Broken: func(error) {
			told.Add(1)
			select {
			case broken <- struct{}{}:
			default:
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		data := []byte("data")
		base := zodb.Tid(0)
		for i := range 9 { // one more than are compacted by themselves
			txn := &zodb.Txn{ID: zodb.TxnID{1, byte(i)}, Tid: zodb.Tid(10 + i), Status: ' '}
			txn.Writes = []zodb.Write{{Base: base, Kind: zodb.WriteData, Data: data, Hash: block.Sum(data)}}
			if _, err := s.Apply(s.Stats().Applied+1, index.AppendCommit(nil, txn)); err != nil {
				t.Fatal(err)
			}
			base = txn.Tid
			if what == "flush" {
				break
			}
			if err := s.DB().Flush(); err != nil {
				t.Fatal(err)
			}
		}
		full.Store(true)
		if what == "flush" {
			_, err = s.DB().AsyncFlush()
		} else if err = s.Compact(t.Context()); errors.Is(err, index.ErrBroken) || errors.Is(err, syscall.ENOSPC) {
			err = nil
		}
		if err != nil {
			t.Fatal(err)
		}
		<-broken
		b := make([]byte, 1<<20)
		for range 100 { // takes a while, and no longer on a slower disk
			block.Sum(b)
		}
		if n := told.Load(); n > 4 {
			t.Errorf("a %s: %d failures told", what, n)
		}
		if rev, err := s.Load(0, zodb.MaxTid); err != nil || !bytes.Equal(rev.Data, data) {
			t.Errorf("%q, %v", rev.Data, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
