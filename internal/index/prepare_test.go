package index_test

import (
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Prepare changes nothing: its Apply, or that of another entry in its place, makes the rows of an Apply alone.
func TestPreparedOrNotTheRowsAreTheSame(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		plain, ahead := openAt(t, vfs.NewMem(), true), openAt(t, vfs.NewMem(), true)
		defer plain.Close()
		defer ahead.Close()
		for i, e := range entries(rt) {
			pos := index.Position(i + 1)
			data := []byte{'n', 'e', 'v', 'e', 'r', byte(i)}
			other := index.AppendCommit(nil, &zodb.Txn{ID: zodb.TxnID{0xff, byte(i)}, Status: ' ', Writes: []zodb.Write{
				{Oid: 1000 + zodb.Oid(i), Kind: zodb.WriteData, Hash: block.Sum(data), Data: data}}})
			switch rapid.IntRange(0, 3).Draw(rt, "prepare") {
			case 1:
				ahead.Prepare(pos, e, false)
			case 2:
				ahead.Prepare(pos, other, false)
				if _, err := ahead.Find(block.Sum(data)); !errors.Is(err, index.ErrNotFound) {
					rt.Fatal("a record is found that nobody committed:", err)
				}
			case 3:
				ahead.Prepare(pos, e, true)
				verified(rt, ahead)
			}
			want, err := plain.Apply(pos, e)
			got, err2 := ahead.Apply(pos, e)
			if err := errors.Join(err, err2); err != nil {
				rt.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" {
				rt.Fatal(d)
			}
		}
		if d := cmp.Diff(rows(t, plain), rows(t, ahead)); d != "" {
			rt.Fatal(d)
		}
		verified(rt, ahead)
	})
}

// What Prepare writes of an entry that is sure to come is nobody's head and no damage, before a crash and after it; and the same entry,
// applied by the next open, commits.
func TestACrashBetweenPrepareAndApplyLeavesTheEntryToBeApplied(t *testing.T) {
	fs, calm := vfs.NewCrashableMem(), openAt(t, vfs.NewMem(), true)
	defer calm.Close()
	s := openAt(t, fs, true)
	var base zodb.Tid
	for i := range 12 {
		pos, data := index.Position(i+1), []byte{'v', byte(i)}
		txn := zodb.Txn{ID: zodb.TxnID{byte(i + 1)}, Tid: zodb.Tid(10 * (i + 1)), Status: ' ', Reads: []zodb.Read{{Oid: 2, Serial: base}},
			Writes: []zodb.Write{{Oid: 1, Base: base, Kind: zodb.WriteData, Hash: block.Sum(data), Data: data}, {Oid: 2, Base: base, Kind: zodb.WriteData, Hash: block.Sum(data), Data: data}}}
		entry := index.AppendCommit(nil, &txn)
		for _, crash := range []bool{false, true, true} {
			if crash { // all that was written stays, though nothing of it was synced but by this
				if err := s.DB().LogData([]byte("sync"), pebble.Sync); err != nil {
					t.Fatal(err)
				}
				clone := fs.CrashClone(vfs.CrashCloneCfg{})
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				fs, s = clone, openAt(t, clone, false)
			} else {
				s.Prepare(pos, entry, true)
			}
			if head, err := s.Head(1); err != nil || head != base {
				t.Fatalf("entry %d, after a crash %t: the head is %s, want %s; %v", i, crash, head, base, err)
			}
			if r, err := s.Verify(t.Context(), nil); err != nil || len(r.Damaged) > 0 {
				t.Fatal(err, r.Damaged)
			}
			if crash && i%2 == 0 {
				s.Prepare(pos, entry, true)
			}
		}
		want, err := calm.Apply(pos, entry)
		got, err2 := s.Apply(pos, entry)
		if err := errors.Join(err, err2); err != nil || got.Verdict != index.Committed {
			t.Fatal(got, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
		base = txn.Tid
	}
	if d := cmp.Diff(rows(t, calm), rows(t, s)); d != "" {
		t.Fatal(d)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// A large transaction's revisions are written before it, in pieces. Whenever a crash comes, all of it is there or nothing is seen of it, and
// the same entry, applied by the next open, makes the same rows.
func TestACrashWithinALargeTransactionLeavesItWholeOrToBeApplied(t *testing.T) {
	draw := rand.New(rand.NewPCG(1, 2))
	txn := zodb.Txn{ID: zodb.TxnID{2}, Tid: 20, Status: ' ', Writes: make([]zodb.Write, 40)}
	for i := range txn.Writes {
		data := make([]byte, 64<<10)
		for n := range data {
			data[n] = byte(draw.Uint32())
		}
		txn.Writes[i] = zodb.Write{Oid: zodb.Oid(40 - i), Kind: zodb.WriteData, Hash: block.Sum(data), Data: data}
	}
	txn.Writes[39].Base = 10 // oid 1
	small := index.AppendCommit(nil, &zodb.Txn{ID: zodb.TxnID{1}, Tid: 10, Status: ' ', Writes: []zodb.Write{
		{Oid: 1, Kind: zodb.WriteData, Hash: block.Sum([]byte("v")), Data: []byte("v")}}})
	large := index.AppendCommit(nil, &txn)
	both := func(s *index.Store) {
		for n, entry := range [][]byte{small, large} {
			if s.Stats().Applied > index.Position(n) {
				continue
			}
			if o, err := s.Apply(index.Position(n+1), entry); err != nil || o.Verdict != index.Committed {
				t.Fatal(o, err)
			}
		}
	}
	calm := openAt(t, vfs.NewMem(), true)
	defer calm.Close()
	both(calm)
	want := rows(t, calm)
	for _, how := range []string{"alone", "prepared", "prepared for sure"} {
		var counting atomic.Bool
		var writes atomic.Int32
		fs, within := vfs.NewCrashableMem(), 0
		var mu sync.Mutex
		var crashes []vfs.FS
		s := openAt(t, errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind == errorfs.OpFileWrite && strings.HasSuffix(op.Path, ".log") && counting.Load() && writes.Add(1)%8 == 0 {
				clone := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(3, 4))})
				mu.Lock()
				defer mu.Unlock()
				crashes = append(crashes, clone)
			}
			return nil
		})), true)
		if _, err := s.Apply(1, small); err != nil {
			t.Fatal(err)
		}
		counting.Store(true)
		if how != "alone" {
			s.Prepare(2, large, how == "prepared for sure")
		}
		both(s)
		counting.Store(false)
		if d := cmp.Diff(want, rows(t, s)); d != "" {
			t.Fatal(how, d)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		for _, crash := range crashes {
			s := openAt(t, crash, false)
			if s.Stats().Applied == 1 {
				within++
			}
			verified(t, s)
			if head, err := s.Head(1); err != nil || head != s.Stats().LastTid {
				t.Error(how, head, err)
			}
			both(s)
			if d := cmp.Diff(want, rows(t, s)); d != "" {
				t.Error(how, d)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
		if within < 3 {
			t.Errorf("%s: %d of %d crashes came within the transaction", how, within, len(crashes))
		}
	}
}

// Another entry in the place of one that was sure is an error: its rows are there.
func TestAnotherEntryThanTheSureOneIsRefused(t *testing.T) {
	s := openAt(t, vfs.NewMem(), true)
	defer s.Close()
	entry := func(id byte) []byte {
		return index.AppendCommit(nil, &zodb.Txn{ID: zodb.TxnID{id}, Tid: 10, Status: ' ', Writes: []zodb.Write{
			{Oid: 1, Kind: zodb.WriteData, Hash: block.Sum([]byte{id}), Data: []byte{id}}}})
	}
	s.Prepare(1, entry(1), true)
	if o, err := s.Apply(1, entry(2)); err == nil {
		t.Error("it was applied:", o)
	}
}
