package replica

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/zodb-dht/zodb_dht/internal/index"
)

// rowStore is a log on a database of its own, below no raft.
type rowStore struct {
	*logStore
	t       *testing.T
	fs      *vfs.MemFS
	shut    func()
	applied uint64 // by whoever opens it next
}

func newRowStore(t *testing.T, fs *vfs.MemFS, applied uint64) *rowStore {
	t.Helper()
	db, err := pebble.Open("db", &pebble.Options{FS: fs, Logger: quiet{t}})
	if err != nil {
		t.Fatal(err)
	}
	shut := sync.OnceFunc(func() { _ = db.Close() }) // what is looked at was read before
	t.Cleanup(shut)
	l, err := openLog(db, applied)
	if err != nil {
		t.Fatal(err)
	}
	return &rowStore{l, t, fs, shut, applied}
}

type quiet struct{ t *testing.T }

func (quiet) Infof(string, ...any)             {}
func (quiet) Errorf(string, ...any)            {}
func (q quiet) Fatalf(format string, a ...any) { q.t.Errorf(format, a...) }

// entryOf is one whose bytes nothing else has.
func entryOf(i, term uint64, size int) *raftpb.Entry {
	draw := rand.NewChaCha8([32]byte{byte(i), byte(term)})
	data := make([]byte, size)
	_, _ = draw.Read(data) // never fails
	return &raftpb.Entry{Index: proto.Uint64(i), Term: proto.Uint64(term), Type: raftpb.EntryNormal.Enum(), Data: data}
}

// write is what the driver does with entries: as many messages as arguments.
func (s *rowStore) write(messages ...[]*raftpb.Entry) {
	s.t.Helper()
	var all []*raftpb.Message
	for _, m := range messages {
		all = append(all, &raftpb.Message{
			Term: proto.Uint64(m[len(m)-1].GetTerm()), Vote: proto.Uint64(s.id), Commit: proto.Uint64(0),
			Entries: m, Responses: []*raftpb.Message{{}},
		})
	}
	b, err := s.begin(all)
	if err == nil {
		err = s.end(b)
	}
	for _, m := range messages {
		if err == nil {
			err = s.Append(m)
		}
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// keys are those of all entries' rows.
func (s *rowStore) keys() (keys [][]byte) {
	s.t.Helper()
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: entryKey(nil, 0), UpperBound: entryEnd})
	if err != nil {
		s.t.Fatal(err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		keys = append(keys, bytes.Clone(it.Key()))
	}
	if err := it.Close(); err != nil {
		s.t.Fatal(err)
	}
	return keys
}

// holds compares the entries, and what a crash leaves of them, and that there is no row that none of them needs.
func (s *rowStore) holds(entries ...*raftpb.Entry) {
	s.t.Helper()
	rows := 0
	for _, e := range entries {
		rows += shapeOf(e).rows()
	}
	if n := len(s.keys()); n != rows {
		s.t.Errorf("%d rows, want %d", n, rows)
	}
	crashed := newRowStore(s.t, s.fs.CrashClone(vfs.CrashCloneCfg{}), s.applied)
	defer crashed.shut()
	for which, l := range []*logStore{s.logStore, crashed.logStore} {
		first, _ := l.FirstIndex()
		last, _ := l.LastIndex()
		got, err := l.Entries(first, last+1, 1<<40)
		if err != nil {
			s.t.Fatal(err)
		}
		if !slices.EqualFunc(got, entries, func(a, b *raftpb.Entry) bool { return proto.Equal(a, b) }) {
			s.t.Errorf("%d: other entries", which)
		}
		if !slices.EqualFunc(l.shapes, entries, func(a shape, e *raftpb.Entry) bool { return a == shapeOf(e) }) {
			s.t.Errorf("%d: %v", which, l.shapes)
		}
		size := 0
		for _, e := range entries {
			size += len(e.GetData())
		}
		if l.size != size {
			s.t.Errorf("%d: %d bytes, want %d", which, l.size, size)
		}
	}
}

// sizes are around those at which the number of parts changes.
var entrySizes = []int{0, 1, partBytes + 1, wholeBytes - 1, wholeBytes, wholeBytes + 1, 50 * partBytes, 50*partBytes + 1, 3*wholeBytes + 12345}

func TestEntriesOfAnySizeAreTheSameAfterACrash(t *testing.T) {
	s := newRowStore(t, vfs.NewCrashableMem(), 0)
	var all []*raftpb.Entry
	for n, size := range entrySizes {
		all = append(all, entryOf(uint64(n+1), 1, size))
		s.write(all[n:])
		s.holds(all...)
	}
	one := newRowStore(t, vfs.NewCrashableMem(), 0)
	one.write(all[:3], all[3:])
	one.holds(all...)
}

func TestTruncationLeavesNoPartBehind(t *testing.T) {
	s := newRowStore(t, vfs.NewCrashableMem(), 0)
	var all []*raftpb.Entry
	for n, size := range append(entrySizes, 10, 20) {
		all = append(all, entryOf(uint64(n+1), 1, size))
	}
	s.write(all)
	s.applied = uint64(len(entrySizes))
	if err := s.truncate(s.applied); err != nil {
		t.Fatal(err)
	}
	s.write([]*raftpb.Entry{entryOf(uint64(len(all)+1), 1, 30)})
	s.holds(all[len(entrySizes)], all[len(entrySizes)+1], entryOf(uint64(len(all)+1), 1, 30))
}

// A leader's entries replace those of one before it, even of messages that the same round writes.
func TestAReplacedTailLeavesNothingBehind(t *testing.T) {
	for seed := range uint64(6) {
		draw := rand.New(rand.NewPCG(seed, 5))
		s := newRowStore(t, vfs.NewCrashableMem(), 0)
		var model []*raftpb.Entry
		for term := uint64(1); term < 9; {
			var messages [][]*raftpb.Entry
			for range 1 + draw.IntN(3) {
				term++ // within one, a leader replaces nothing
				from := draw.IntN(len(model) + 1)
				var m []*raftpb.Entry
				for n := range 1 + draw.IntN(3) {
					m = append(m, entryOf(uint64(from+n+1), term, entrySizes[draw.IntN(len(entrySizes)-1)]))
				}
				model = append(model[:from:from], m...)
				messages = append(messages, m)
			}
			s.write(messages...)
			s.holds(model...)
		}
		s.shut()
		if t.Failed() {
			t.Fatal("seed", seed)
		}
	}
}

// The mark does not promise more than the log holds, whenever a crash comes: with what was synced only, and with all that was written.
func TestAShorterTailLowersTheMarkFirst(t *testing.T) {
	s := newRowStore(t, vfs.NewCrashableMem(), 0)
	marked := func(s *rowStore) error { return s.openMark(Config{FS: s.fs, Dir: "db"}.withDefaults()) }
	if err := marked(s); err != nil {
		t.Fatal(err)
	}
	crashes := func(when string) {
		t.Helper()
		for _, unsynced := range []int{0, 100} {
			cfg := vfs.CrashCloneCfg{UnsyncedDataPercent: unsynced, RNG: rand.New(rand.NewPCG(1, 1))}
			crashed := newRowStore(t, s.fs.CrashClone(cfg), 0)
			if err := marked(crashed); err != nil {
				t.Errorf("%s, %d %% of what was not synced: %v", when, unsynced, err)
			}
			crashed.shut()
		}
	}
	s.write([]*raftpb.Entry{entryOf(1, 1, 10), entryOf(2, 1, 10), entryOf(3, 1, 10), entryOf(4, 1, 10)})
	if err := errors.Join(s.mark.promise(4), s.mark.file.Sync()); err != nil { // the system may write it at any time
		t.Fatal(err)
	}
	crashes("promised")
	large := entryOf(2, 2, 3*wholeBytes)
	b, err := s.begin([]*raftpb.Message{{
		Term: proto.Uint64(2), Vote: proto.Uint64(s.id), Commit: proto.Uint64(0), Entries: []*raftpb.Entry{large}, Responses: []*raftpb.Message{{}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	crashes("written")
	if err := errors.Join(s.end(b), s.Append([]*raftpb.Entry{large})); err != nil {
		t.Fatal(err)
	}
	crashes("synced")
	if err := s.mark.promise(2); err != nil {
		t.Fatal(err)
	}
	crashes("promised anew")
	s.holds(entryOf(1, 1, 10), large)
}

// What is cut off was applied: a state that does not have it is not this log's.
func TestALogThatBeginsBehindTheStateIsDamage(t *testing.T) {
	s := newRowStore(t, vfs.NewCrashableMem(), 0)
	s.write([]*raftpb.Entry{entryOf(1, 1, 10), entryOf(2, 1, 10), entryOf(3, 1, 10)})
	if err := s.cut(2, 2, 10); err != nil {
		t.Fatal(err)
	}
	for applied := range uint64(5) {
		_, err := openLog(s.db, applied)
		if damage := new(index.Corrupt); errors.As(err, &damage) != (applied < 2 || applied > 3) {
			t.Errorf("%d applied: %v", applied, err)
		}
	}
}

// Leaders that take turns bring an entry back that was replaced, while one sync lasts or later.
func TestAnEntryThatComesBackHasItsParts(t *testing.T) {
	one, large, other, last := entryOf(1, 1, 10), entryOf(2, 1, 3*wholeBytes), entryOf(2, 2, 10), entryOf(3, 3, 5)
	for what, rounds := range map[string][][][]*raftpb.Entry{
		"in one round":              {{{one}}, {{large}, {other}, {large, last}}},
		"in one round, durable":     {{{one, large}}, {{other}, {large, last}}},
		"in a later round":          {{{one, large}}, {{other}}, {{large, last}}},
		"the same twice":            {{{one, large}}, {{large}, {large, last}}},
		"with what is in front":     {{{one, large}}, {{other}, {one, large, last}}},
		"from the first on":         {{{entryOf(1, 4, 3*wholeBytes), large}, {one, large, last}}},
		"replaced by a smaller one": {{{one, large}}, {{large, entryOf(3, 1, 2*wholeBytes)}, {entryOf(3, 2, 2*wholeBytes)}, {last}}},
	} {
		s := newRowStore(t, vfs.NewCrashableMem(), 0)
		for _, messages := range rounds {
			s.write(messages...)
		}
		if s.holds(one, large, last); t.Failed() {
			t.Fatal(what)
		}
		s.shut()
	}
}

func TestPartsInFrontOfTheCutAreNotForgotten(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := newRowStore(t, fs, 0)
	var all []*raftpb.Entry
	for i := range uint64(4) {
		all = append(all, entryOf(i+1, 1, keepBytes))
	}
	s.write(all)
	if err := s.writeParts(entryOf(2, 2, 3*wholeBytes), 3); err != nil { // another leader's, and then the process is killed
		t.Fatal(err)
	}
	if err := s.db.LogData(nil, pebble.Sync); err != nil {
		t.Fatal(err)
	}
	s = newRowStore(t, fs.CrashClone(vfs.CrashCloneCfg{}), 0)
	if n := len(s.stray); n != 3 {
		t.Errorf("%d stray parts, want 3", n)
	}
	s.applied = 4 // what is there
	if err := s.truncate(s.applied); err != nil {
		t.Fatal(err)
	}
	s.write([]*raftpb.Entry{entryOf(5, 3, 10)})
	s.holds(entryOf(5, 3, 10))
}

func TestPartsWithoutTheirEntryAreNone(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := newRowStore(t, fs, 0)
	first, large := entryOf(1, 1, 100), entryOf(2, 1, 3*wholeBytes)
	s.write([]*raftpb.Entry{first})
	if err := s.writeParts(large, 2); err != nil { // and then the process is killed
		t.Fatal(err)
	}
	if err := s.db.LogData(nil, pebble.Sync); err != nil {
		t.Fatal(err)
	}
	for _, next := range []*raftpb.Entry{large, entryOf(2, 2, 3*wholeBytes), entryOf(2, 2, 7)} { // the same again, of a later term, a small one
		s := newRowStore(t, fs.CrashClone(vfs.CrashCloneCfg{}), 0)
		if n := len(s.stray); n != 2 {
			t.Errorf("%d stray parts, want 2", n)
		}
		if last, _ := s.LastIndex(); last != 1 {
			t.Fatalf("the last entry is %d", last)
		}
		s.write([]*raftpb.Entry{next})
		s.holds(first, next)
		s.shut()
	}
}

// A killed peer's log may have been written when a part had as much as an entry's own row.
func TestPartsOfAnotherLength(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := newRowStore(t, fs, 0)
	s.write([]*raftpb.Entry{entryOf(1, 1, 10)})
	large := entryOf(2, 1, 3*wholeBytes+7)
	b := s.db.NewBatch()
	for part := range 4 {
		key := partKey(nil, 2, 1, part)
		data := large.GetData()[part*wholeBytes:]
		if err := b.Set(key, seal(key, append([]byte{logVersion}, data[:min(len(data), wholeBytes)]...)), nil); err != nil {
			t.Fatal(err)
		}
	}
	setEntry(b, large)
	if err := b.Commit(pebble.Sync); err != nil {
		t.Fatal(err)
	}
	got, err := newRowStore(t, fs.CrashClone(vfs.CrashCloneCfg{}), 0).Entries(2, 3, 1<<40)
	if err != nil || len(got) != 1 || !proto.Equal(got[0], large) {
		t.Error(len(got), err)
	}
}

func TestDamagedRowsOfAnEntryInParts(t *testing.T) {
	whole := newRowStore(t, vfs.NewCrashableMem(), 0)
	whole.write([]*raftpb.Entry{entryOf(1, 1, 43*partBytes+5), entryOf(2, 1, 5)})
	keys := whole.keys()
	last := len(keys) - 2
	if len(keys) != 46 {
		t.Fatalf("%d rows", len(keys))
	}
	head := func(size uint64, version byte) []byte {
		v := append([]byte{version, 0}, make([]byte, 16)...)
		v[9] = 1
		binary.BigEndian.PutUint64(v[10:], size)
		return seal(keys[0], v)
	}
	part := func(key []byte, n int) []byte { return seal(key, append([]byte{logVersion}, make([]byte, n)...)) }
	set := func(key, v []byte) func(*pebble.Batch) error {
		return func(b *pebble.Batch) error { return b.Set(key, v, nil) }
	}
	remove := func(key []byte) func(*pebble.Batch) error {
		return func(b *pebble.Batch) error { return b.Delete(key, nil) }
	}
	newer := map[string]bool{"a part of a newer version": true, "an entry's row of a newer version": true}
	for what, damage := range map[string]func(*pebble.Batch) error{
		"the entry's row is gone":            remove(keys[0]),
		"the first part is gone":             remove(keys[1]),
		"a part within is gone":              remove(keys[2]),
		"the last part is gone":              remove(keys[last]),
		"a part's checksum":                  set(keys[2], part(keys[1], partBytes)),
		"the first part is too short":        set(keys[1], part(keys[1], partBytes-1)),
		"the first part is empty":            set(keys[1], part(keys[1], 0)),
		"a part is too short":                set(keys[2], part(keys[2], partBytes-1)),
		"a part is too long":                 set(keys[last], part(keys[last], 6)),
		"a part is empty":                    set(keys[last], nil),
		"a part of a newer version":          set(keys[last], seal(keys[last], []byte{logVersion + 1, 1, 2, 3, 4, 5})),
		"an entry's row of a newer version":  set(keys[0], head(43*partBytes+5, partedVersion+1)),
		"no version":                         set(keys[0], head(43*partBytes+5, 0)),
		"the size of an entry without parts": set(keys[0], head(wholeBytes, partedVersion)),
		"a size beyond all parts":            set(keys[0], head(1<<60, partedVersion)),
		"a larger size":                      set(keys[0], head(44*partBytes, partedVersion)),
		"a row too long for a size":          set(keys[0], seal(keys[0], append([]byte{partedVersion}, make([]byte, 18)...))),
		"a key of another length":            set(append(bytes.Clone(keys[0]), 1), part(keys[0], 1)),
	} {
		s := newRowStore(t, whole.fs.CrashClone(vfs.CrashCloneCfg{}), 0)
		b := s.db.NewBatch()
		if err := errors.Join(damage(b), b.Commit(pebble.Sync)); err != nil {
			t.Fatal(err)
		}
		_, err := openLog(s.db, 0)
		if newer[what] {
			if !errors.Is(err, index.ErrNewerFormat) {
				t.Errorf("%s: %v", what, err)
			}
		} else if c := (*index.Corrupt)(nil); !errors.As(err, &c) {
			t.Errorf("%s: %v", what, err)
		}
		s.shut()
	}
}
