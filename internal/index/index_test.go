package index_test

import (
	"log/slog"
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
