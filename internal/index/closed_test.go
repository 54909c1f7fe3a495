package index_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

const noteName = "db/closed"

func commitOne(t *testing.T, s *index.Store, oid zodb.Oid) {
	t.Helper()
	at := s.Stats().Applied + 1
	data := pickled(uint64(at), 0, 1, 2) // all that there is
	txn := &zodb.Txn{ID: zodb.TxnID{byte(at)}, Tid: zodb.Tid(at) * 10, Restore: true, Status: ' ', Writes: []zodb.Write{
		{Oid: oid, Kind: zodb.WriteData, Hash: block.Sum(data), Data: data},
	}}
	if _, err := s.Apply(at, index.AppendCommit(nil, txn)); err != nil {
		t.Fatal(err)
	}
}

// leaveWith closes the store, whose log left something.
func leaveWith(t *testing.T, s *index.Store, log string) {
	t.Helper()
	s.Leave([]byte(log))
	shut(t, s)
}

func readFile(t *testing.T, fs vfs.FS, name string) []byte {
	t.Helper()
	f, err := fs.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	raw, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func writeFile(t *testing.T, fs vfs.FS, name string, raw []byte) {
	t.Helper()
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(bytes.Clone(raw)); err != nil { // under the race detector Pebble's file in memory spoils what it is given
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func noted(t *testing.T, fs vfs.FS) bool {
	t.Helper()
	for _, name := range list(t, fs) {
		if name == "closed" {
			return true
		}
	}
	return false
}

// What an open takes from the closing note is what it would have read, and it stays until something is written.
func TestAnOpenByTheClosingNoteKnowsWhatTheRowsSay(t *testing.T) {
	mem := vfs.NewMem()
	s := openOn(t, mem)
	if s.Left() != nil {
		t.Error("a new store was left something")
	}
	for i := range 4 {
		commitOne(t, s, zodb.Oid(i%2))
	}
	packAll(t, s, 40) // leaves a sweep row
	leaveWith(t, s, "the log")
	var want index.Stats
	note := readFile(t, mem, noteName)
	for range 3 {
		s = openOn(t, mem)
		if string(s.Left()) != "the log" {
			t.Errorf("%q was left", s.Left())
		}
		if want = s.Stats(); want.Records != 2 {
			t.Errorf("%d records", want.Records)
		}
		leaveWith(t, s, "the log")
		if now := readFile(t, mem, noteName); !bytes.Equal(now, note) {
			t.Error("an open that wrote nothing changed the note")
		}
	}
	if err := mem.Remove(noteName); err != nil {
		t.Fatal(err)
	}
	s = openOn(t, mem)
	if s.Left() != nil || s.Stats() != want {
		t.Errorf("by the rows %+v, by the note %+v", s.Stats(), want)
	}
	commitOne(t, s, 7)
	leaveWith(t, s, "later")
	if s = openOn(t, mem); string(s.Left()) != "later" || s.Stats().Records != 3 {
		t.Errorf("%q, %+v", s.Left(), s.Stats())
	}
	shut(t, s)
}

// The note is gone, for good, before anything that was written behind it lasts.
func TestTheFirstWriteTakesTheClosingNoteAway(t *testing.T) {
	mem := vfs.NewCrashableMem()
	s := openOn(t, mem)
	commitOne(t, s, 1)
	leaveWith(t, s, "x")
	dir, err := mem.OpenDir("db")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil { // as if time had passed: nothing syncs the note itself
		t.Fatal(err)
	}
	s = openOn(t, mem)
	if !noted(t, mem.CrashClone(vfs.CrashCloneCfg{})) {
		t.Fatal("the test's own crash lost the note")
	}
	if err := s.DB().Set([]byte("/a"), nil, pebble.Sync); err != nil {
		t.Fatal(err)
	}
	crashed := mem.CrashClone(vfs.CrashCloneCfg{})
	if noted(t, crashed) {
		t.Error("a crash behind a synced write brought the note back")
	}
	shut(t, s)
	s = openOn(t, crashed)
	if s.Left() != nil {
		t.Errorf("%q was left", s.Left())
	}
	shut(t, s)
}

func TestANoteThatCanNotBeTakenAwayBreaksTheStore(t *testing.T) {
	mem := vfs.NewCrashableMem()
	s := openOn(t, mem)
	commitOne(t, s, 1)
	leaveWith(t, s, "x")
	failed := errors.New("no")
	broken := make(chan error, 9)
	s, err := index.Open(index.Config{Dir: "db", Logger: slog.New(slog.DiscardHandler), Broken: func(err error) { broken <- err },
		FS: errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind == errorfs.OpRemove && op.Path == noteName {
				return failed
			}
			return nil
		}))})
	if err != nil {
		t.Fatal(err)
	}
	b := s.DB().NewBatch()
	if err := errors.Join(b.Set([]byte("/a"), nil, nil), s.DB().ApplyNoSyncWait(b, pebble.Sync)); err != nil {
		t.Fatal(err)
	}
	if err := b.SyncWait(); err == nil {
		t.Error("the write was acknowledged")
	}
	if err := <-broken; !errors.Is(err, failed) {
		t.Error(err)
	}
	_ = s.Close()
	s = openOn(t, mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))}))
	if st := s.Stats(); st.Records != 1 {
		t.Errorf("%+v", st)
	}
	shut(t, s)
}

// What does not fit is not used; what is damaged is told; nothing keeps the store from opening.
func TestAClosingNoteIsUsedOnlyWhereItFits(t *testing.T) {
	mem := vfs.NewMem()
	s := openOn(t, mem)
	commitOne(t, s, 1)
	leaveWith(t, s, "first")
	first := readFile(t, mem, noteName)
	s = openOn(t, mem)
	commitOne(t, s, 2)
	leaveWith(t, s, "second")
	second := readFile(t, mem, noteName)

	try := func(note []byte) (left, told bool) {
		writeFile(t, mem, noteName, note)
		var out strings.Builder
		s, err := index.Open(index.Config{Dir: "db", FS: mem, Logger: slog.New(slog.NewTextHandler(&out, nil))})
		if err != nil {
			t.Fatal(err)
		}
		defer shut(t, s)
		if st := s.Stats(); st.Records != 2 || st.LastTid != 20 {
			t.Errorf("%+v", st)
		}
		r, err := s.Verify(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		told = len(r.Damaged) == 1 && r.Damaged[0].File == noteName && strings.Contains(out.String(), noteName)
		if len(r.Damaged) > 0 && !told {
			t.Errorf("%v, %s", r.Damaged, out.String())
		}
		return s.Left() != nil, told
	}
	newer := index.SealNote(append([]byte{2}, second[1:len(second)-4]...))
	for name, c := range map[string]struct {
		note       []byte
		left, told bool
	}{
		"as it was written":   {second, true, false},
		"of an earlier state": {first, false, false},
		"empty":               {nil, false, false},
		"short":               {second[:100], false, false},
		"zeros":               {make([]byte, len(second)), false, false},
		"a newer program's":   {newer, false, false},
		"cut":                 {second[:len(second)-1], false, true},
		"too long":            {index.SealNote(make([]byte, 1<<17)), false, true},
		"version 0":           {index.SealNote(append([]byte{0}, second[1:len(second)-4]...)), false, true},
		"a damaged sweep row": {index.SealNote(append(bytes.Clone(second[:160]), make([]byte, 40)...)), false, true},
	} {
		if left, told := try(c.note); left != c.left || told != c.told {
			t.Errorf("%s: used %t, told %t", name, left, told)
		}
	}
	for i := range second {
		for _, bit := range []byte{1, 0x80} {
			b := bytes.Clone(second)
			b[i] ^= bit
			if left, told := try(b); left || !told {
				t.Errorf("byte %d: used %t, told %t", i, left, told)
			}
		}
	}
	try(second)
	writeFile(t, mem, "db/000001.log", []byte{0})
	if left, _ := try(second); left {
		t.Error("used beside a log with a byte")
	}
}

// There is no note where an open has to look for more than it says.
func TestNoClosingNoteBesideGarbage(t *testing.T) {
	mem := vfs.NewMem()
	s := openOn(t, mem)
	commitOne(t, s, 1)
	commitOne(t, s, 2)
	at := s.Stats().Applied + 1
	list := index.AppendGarbage(nil, zodb.TxnID{9}, &index.Garbage{Scanned: 20, Horizon: 20, Objects: []index.Change{{Oid: 2, Tid: 20}}})
	if _, err := s.Apply(at, index.AppendHorizon(nil, zodb.TxnID{8}, 20, true)); err != nil {
		t.Fatal(err)
	}
	if o, err := s.Apply(at+1, list); err != nil || o.Verdict != index.Collected {
		t.Fatal(o, err)
	}
	leaveWith(t, s, "x")
	if noted(t, mem) {
		t.Fatal("there is one")
	}
	s = openOn(t, mem)
	if last, err := s.Gone(2); err != nil || last != 20 {
		t.Error(last, err)
	}
	shut(t, s)
}
