package index_test

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/index/indextest"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openMemory(testing.TB) index.State { return index.NewMemory() }

func openStore(t testing.TB) index.State {
	s := openAt(t, vfs.NewMem(), true)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func openAt(t testing.TB, fs vfs.FS, create bool) *index.Store {
	t.Helper()
	s, err := index.Open(index.Config{Dir: "db", FS: fs, Create: create, CacheBytes: 1 << 20, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMemory(t *testing.T) { indextest.Run(t, openMemory) }

func TestStore(t *testing.T) { indextest.Run(t, openStore) }

func TestStoreAndMemoryAnswerAlike(t *testing.T) {
	indextest.Alike(t, func(t testing.TB) index.State { return openAt(t, vfs.NewMem(), true) }, openMemory)
}

func entries(rt *rapid.T) [][]byte {
	var out [][]byte
	for i := range rapid.IntRange(1, 40).Draw(rt, "entries") {
		switch rapid.IntRange(0, 9).Draw(rt, "kind") {
		case 0:
			out = append(out, index.AppendHorizon(nil, zodb.TxnID{byte(i)}, zodb.Tid(rapid.IntRange(0, i+1).Draw(rt, "horizon")), true))
			continue
		case 1:
			out = append(out, index.AppendGarbage(nil, zodb.TxnID{byte(i)}, &index.Garbage{Scanned: zodb.MaxTid, Horizon: zodb.Tid(i / 2),
				Objects: []index.Change{{Oid: zodb.Oid(rapid.IntRange(0, 5).Draw(rt, "garbage")), Tid: zodb.Tid(rapid.IntRange(1, i+1).Draw(rt, "head"))}}}))
			continue
		}
		data := rapid.SliceOf(rapid.Byte()).Draw(rt, "data")
		txn := &zodb.Txn{ID: zodb.TxnID{byte(i)}, Tid: zodb.Tid(i + 1), Restore: true, Status: ' ', Writes: []zodb.Write{
			{Oid: zodb.Oid(rapid.IntRange(0, 5).Draw(rt, "oid")), Kind: zodb.WriteData, Hash: block.Sum(data), Data: data}}}
		out = append(out, index.AppendCommit(nil, txn))
	}
	return out
}

func rows(t testing.TB, s *index.Store) map[string]string {
	t.Helper()
	it, err := s.DB().NewIter(&pebble.IterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	out := make(map[string]string)
	for ok := it.First(); ok; ok = it.Next() {
		out[string(it.Key())] = string(it.Value())
	}
	return out
}

func sweepAll(rt *rapid.T, s *index.Store) {
	if err := s.Sweep(context.Background(), nil, nil); err != nil {
		rt.Fatal(err)
	}
	if err := s.Compact(context.Background()); err != nil {
		rt.Fatal(err)
	}
	if sweep, compact := s.Unswept(); sweep || compact {
		rt.Fatal("something is left to sweep")
	}
}

func verified(t interface{ Fatal(...any) }, s *index.Store) {
	r, err := s.Verify(context.Background(), nil)
	if err != nil || len(r.Damaged) > 0 {
		t.Fatal(err, r.Damaged)
	}
}

// A sweep that a crash cut short is whole batches, and the next one makes the same rows as one that went through.
func TestASweepThatACrashCutsShortIsFinishedByTheNext(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		log := append(entries(rt), index.AppendHorizon(nil, zodb.TxnID{99}, zodb.MaxTid, true))
		fs := vfs.NewCrashableMem()
		s := openAt(t, fs, true)
		defer s.Close()
		for i, e := range log {
			if _, err := s.Apply(index.Position(i+1), e); err != nil {
				rt.Fatal(err)
			}
		}
		if err := s.DB().Flush(); err != nil { // what was applied is durable, as the log makes it
			rt.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var clone *vfs.MemFS
		_ = s.Sweep(ctx, nil, func(done, total uint64) {
			if clone == nil {
				clone = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rapid.IntRange(0, 100).Draw(rt, "unsynced"), RNG: rand.New(rand.NewPCG(1, uint64(len(log))))})
			}
		})
		cancel()
		if clone == nil {
			clone = fs.CrashClone(vfs.CrashCloneCfg{})
		}
		after := openAt(t, clone, false)
		defer after.Close()
		verified(rt, after)
		sweepAll(rt, s)
		sweepAll(rt, after)
		verified(rt, after)
		if diff := cmp.Diff(rows(t, s), rows(t, after)); diff != "" {
			rt.Fatal(diff)
		}
	})
}

// G1: replicas that apply the same log hold the same bytes, whatever restarts lie between.
func TestTheSameLogMakesTheSameBytes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		log := entries(rt)
		whole := openAt(t, vfs.NewMem(), true)
		defer whole.Close()
		fs := vfs.NewMem()
		broken := openAt(t, fs, true)
		for i, e := range log {
			for _, s := range []*index.Store{whole, broken} {
				if _, err := s.Apply(index.Position(i+1), e); err != nil {
					rt.Fatal(err)
				}
			}
			if rapid.IntRange(0, 5).Draw(rt, "restart") == 0 {
				if err := broken.Close(); err != nil {
					rt.Fatal(err)
				}
				broken = openAt(t, fs, false)
			}
		}
		defer broken.Close()
		if diff := cmp.Diff(rows(t, whole), rows(t, broken)); diff != "" {
			rt.Fatal(diff)
		}
		sweepAll(rt, whole)
		verified(rt, broken)
		sweepAll(rt, broken)
		verified(rt, broken)
		if diff := cmp.Diff(rows(t, whole), rows(t, broken)); diff != "" {
			rt.Fatalf("after the sweep: %s", diff)
		}
	})
}

// A crash keeps a prefix of the applied entries: each whole or not at all, and Applied says which.
func TestACrashKeepsAPrefixOfTheEntries(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		log := entries(rt)
		fs := vfs.NewCrashableMem()
		s := openAt(t, fs, true)
		clone := fs
		at := rapid.IntRange(0, len(log)-1).Draw(rt, "crash after")
		for i, e := range log {
			if _, err := s.Apply(index.Position(i+1), e); err != nil {
				rt.Fatal(err)
			}
			if i == at {
				clone = fs.CrashClone(vfs.CrashCloneCfg{})
			}
		}
		defer s.Close()
		after := openAt(t, clone, false)
		defer after.Close()
		applied := int(after.Stats().Applied)
		if applied > at+1 {
			rt.Fatalf("%d entries after a crash behind %d", applied, at+1)
		}
		oracle := openAt(t, vfs.NewMem(), true)
		defer oracle.Close()
		for i, e := range log[:applied] {
			if _, err := oracle.Apply(index.Position(i+1), e); err != nil {
				rt.Fatal(err)
			}
		}
		if diff := cmp.Diff(rows(t, oracle), rows(t, after)); diff != "" {
			rt.Fatal(diff)
		}
	})
}
