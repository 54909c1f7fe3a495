// Package indextest is the suite that every index.State passes: what callers may rely on, a fresh state for each promise.
package indextest

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Open makes a fresh state that lives as long as the test.
type Open func(t testing.TB) index.State

// Run holds open's states to every promise.
func Run(t *testing.T, open Open) {
	for _, p := range []struct {
		name string
		run  func(t *testing.T, d *driver)
	}{
		{"a fresh state is empty and gives oids from 1", fresh},
		{"a committed record is what a load at its tid and later returns", loads},
		{"an older position sees the older revision and its successor", revisions},
		{"a deep history is found at each of its tids", deepHistory},
		{"a deletion hides the object from there on", deletion},
		{"a stale write changes nothing but the outcome", staleWrite},
		{"a stale read changes nothing but the outcome", staleRead},
		{"a tid that does not rise is lifted above the last", tidsRise},
		{"a restored tid is kept, or refused where it does not rise", restore},
		{"the same transaction twice is applied once", once},
		{"the first of commit and tombstone wins", tombstone},
		{"oid ranges do not overlap and stay above every oid written", oids},
		{"a gap in the positions is refused", gap},
		{"bytes that are no entry are refused", garbage},
		{"transactions come in order, within both bounds", transactions},
		{"transactions come newest first, within both bounds", backwards},
		{"what exists comes in order of oid, once, without what is deleted", current},
		{"a record tells which older one it repeats", repeats},
		{"a record is found by its hash", find},
		{"the digests chain", chain},
		{"a horizon hides what was superseded at or before it", horizonHides},
		{"a horizon only rises, and not beyond the last transaction", horizonRises},
		{"a deletion at the horizon takes the whole object along", horizonDeletion},
		{"packed transactions have status p, and vanish without records", horizonTransactions},
		{"the chain can be followed from the horizon's digest on", horizonDigest},
		{"a snapshot from before a pack reads on until the sweep", pinned},
		{"a garbage list removes whole objects", garbageGoes},
		{"a garbage list that a transaction overtook asks for a rescan", garbageOvertaken},
		{"a fenced list is overtaken only by undeclared snapshots", garbageFenced},
		{"a snapshot from before the fence is refused", behind},
		{"an object that went as garbage can be written anew", rebirth},
		{"a blob's file is named by its revision, and found by its root", blobs},
	} {
		t.Run(p.name, func(t *testing.T) { p.run(t, &driver{t: t, s: open(t)}) })
	}
}

// driver applies entries at the next position.
type driver struct {
	t  testing.TB
	s  index.State
	id byte
}

func (d *driver) apply(entry []byte) index.Outcome {
	d.t.Helper()
	o, err := d.s.Apply(d.s.Stats().Applied+1, entry)
	if err != nil {
		d.t.Fatal(err)
	}
	return o
}

func (d *driver) txn(tid zodb.Tid, writes ...zodb.Write) *zodb.Txn {
	d.id++
	return &zodb.Txn{ID: zodb.TxnID{d.id}, Floor: uint64(d.s.Stats().Applied), Tid: tid, Status: ' ', Writes: writes}
}

func (d *driver) commit(tid zodb.Tid, writes ...zodb.Write) index.Outcome {
	d.t.Helper()
	return d.apply(index.AppendCommit(nil, d.txn(tid, writes...)))
}

func write(oid zodb.Oid, base zodb.Tid, data string) zodb.Write {
	return zodb.Write{Oid: oid, Base: base, Kind: zodb.WriteData, Hash: block.Sum([]byte(data)), Data: []byte(data)}
}

func (d *driver) wantLoad(oid zodb.Oid, at zodb.Tid, data string, tid, next zodb.Tid) {
	d.t.Helper()
	rev, err := d.s.Load(oid, at)
	if err != nil {
		d.t.Fatalf("load %s at %s: %v", oid, at, err)
	}
	want := index.Revision{Oid: oid, Tid: tid, Next: next, Kind: zodb.WriteData, Size: len(data), Data: []byte(data)}
	if diff := cmp.Diff(want, rev); diff != "" {
		d.t.Fatalf("load %s at %s: %s", oid, at, diff)
	}
}

func (d *driver) wantErr(err, want error) {
	d.t.Helper()
	if !errors.Is(err, want) {
		d.t.Fatalf("got %v, want %v", err, want)
	}
}

func fresh(t *testing.T, d *driver) {
	if diff := cmp.Diff(index.Stats{NextOid: 1}, d.s.Stats()); diff != "" {
		t.Fatal(diff)
	}
	_, err := d.s.Load(1, zodb.MaxTid)
	d.wantErr(err, index.ErrNotFound)
	_, err = d.s.History(1, 1)
	d.wantErr(err, index.ErrNotFound)
	if h, err := d.s.Head(1); h != 0 || err != nil {
		t.Fatal(h, err)
	}
}

func loads(t *testing.T, d *driver) {
	d.commit(5, write(7, 0, "seven"), write(8, 0, ""))
	d.wantLoad(7, 5, "seven", 5, 0)
	d.wantLoad(7, zodb.MaxTid, "seven", 5, 0)
	d.wantLoad(8, 5, "", 5, 0)
	_, err := d.s.Load(7, 4)
	d.wantErr(err, index.ErrNoRevision)
	_, err = d.s.Load(6, 5)
	d.wantErr(err, index.ErrNotFound)
	_, err = d.s.LoadSerial(7, 4)
	d.wantErr(err, index.ErrNotFound)
	if rev, err := d.s.LoadSerial(7, 5); err != nil || string(rev.Data) != "seven" {
		t.Fatal(rev, err)
	}
}

func revisions(_ *testing.T, d *driver) {
	d.commit(10, write(1, 0, "a"))
	d.commit(20, write(1, 10, "b"), write(2, 0, "x"))
	d.commit(30, write(1, 20, "c"))
	d.wantLoad(1, 10, "a", 10, 20)
	d.wantLoad(1, 19, "a", 10, 20)
	d.wantLoad(1, 20, "b", 20, 30)
	d.wantLoad(1, 31, "c", 30, 0)
	d.wantLoad(2, 30, "x", 20, 0)
	revs, err := d.s.History(1, 2)
	if err != nil || len(revs) != 2 || revs[0].Tid != 30 || revs[1].Tid != 20 || revs[1].Next != 30 || revs[0].Data != nil {
		d.t.Fatal(revs, err)
	}
}

func deepHistory(_ *testing.T, d *driver) {
	d.commit(1, write(4, 0, "other"))
	for i := range 40 {
		d.commit(zodb.Tid(100+10*i), write(5, d.headOf(5), fmt.Sprint(i)))
	}
	for i := range 40 {
		next := zodb.Tid(110 + 10*i)
		if i == 39 {
			next = 0
		}
		for _, at := range []zodb.Tid{0, 1, 9} {
			d.wantLoad(5, zodb.Tid(100+10*i)+at, fmt.Sprint(i), zodb.Tid(100+10*i), next)
		}
	}
	_, err := d.s.Load(5, 99)
	d.wantErr(err, index.ErrNoRevision)
}

func (d *driver) headOf(oid zodb.Oid) zodb.Tid {
	h, err := d.s.Head(oid)
	if err != nil {
		d.t.Fatal(err)
	}
	return h
}

func deletion(t *testing.T, d *driver) {
	d.commit(1, write(3, 0, "a"))
	o := d.commit(2, zodb.Write{Oid: 3, Base: 1, Kind: zodb.WriteDelete})
	if o.Verdict != index.Committed || d.headOf(3) != 0 || d.s.Stats().Objects != 0 || d.s.Stats().Records != 2 {
		t.Fatal(o, d.s.Stats())
	}
	_, err := d.s.Load(3, 2)
	d.wantErr(err, index.ErrNotFound)
	_, err = d.s.LoadSerial(3, 2)
	d.wantErr(err, index.ErrNotFound)
	d.wantLoad(3, 1, "a", 1, 2)
	if o := d.commit(3, write(3, 0, "again")); o.Verdict != index.Committed {
		t.Fatal(o)
	}
	d.wantLoad(3, 3, "again", 3, 0)
}

func staleWrite(t *testing.T, d *driver) {
	d.commit(1, write(3, 0, "a"))
	d.commit(2, write(3, 1, "b"))
	before := d.s.Stats()
	o := d.commit(3, write(4, 0, "new"), write(3, 1, "late"))
	if o.Verdict != index.Stale || o.StaleOid != 3 || o.Serial != 2 || o.Oids != nil {
		t.Fatal(o)
	}
	before.Applied++
	if diff := cmp.Diff(before, d.s.Stats()); diff != "" {
		t.Fatal(diff)
	}
	_, err := d.s.Load(4, zodb.MaxTid)
	d.wantErr(err, index.ErrNotFound)
}

func staleRead(t *testing.T, d *driver) {
	d.commit(1, write(3, 0, "a"))
	txn := d.txn(2, write(4, 0, "x"))
	txn.Reads = []zodb.Read{{Oid: 3, Serial: 1}, {Oid: 5, Serial: 1}}
	if o := d.apply(index.AppendCommit(nil, txn)); o.Verdict != index.Stale || o.StaleOid != 5 || o.Serial != 0 {
		t.Fatal(o)
	}
	txn = d.txn(2, write(4, 0, "x"))
	txn.Reads = []zodb.Read{{Oid: 3, Serial: 1}}
	if o := d.apply(index.AppendCommit(nil, txn)); o.Verdict != index.Committed {
		t.Fatal(o)
	}
}

func tidsRise(t *testing.T, d *driver) {
	d.commit(50, write(1, 0, "a"))
	if o := d.commit(50, write(2, 0, "b")); o.Tid != 51 {
		t.Fatal(o)
	}
	if o := d.commit(7, write(3, 0, "c")); o.Tid != 52 {
		t.Fatal(o)
	}
	for _, tid := range []zodb.Tid{zodb.MaxTid, zodb.MaxTid + 1} {
		if o := d.commit(tid, write(4, 0, "c")); o.Verdict != index.Regressed {
			t.Fatal(tid, o)
		}
	}
}

func restore(t *testing.T, d *driver) {
	txn := d.txn(9, write(1, 77, "no serial is checked"))
	txn.Restore, txn.Status = true, 'p'
	if o := d.apply(index.AppendCommit(nil, txn)); o.Verdict != index.Committed || o.Tid != 9 {
		t.Fatal(o)
	}
	txn = d.txn(9, write(2, 0, "x"))
	txn.Restore = true
	if o := d.apply(index.AppendCommit(nil, txn)); o.Verdict != index.Regressed || o.Tid != 0 {
		t.Fatal(o)
	}
	if d.s.Stats().LastTid != 9 {
		t.Fatal(d.s.Stats())
	}
}

func once(t *testing.T, d *driver) {
	entry := index.AppendCommit(nil, d.txn(5, write(1, 0, "a")))
	first := d.apply(entry)
	d.commit(6, write(1, 5, "b"))
	again := d.apply(entry)
	if !again.Repeated || again.Verdict != index.Committed || again.Tid != first.Tid || again.Position != first.Position {
		t.Fatal(first, again)
	}
	d.wantLoad(1, zodb.MaxTid, "b", 6, 0)
	o, ok, err := d.s.Outcome(first.TxnID)
	if err != nil || !ok || o.Tid != 5 || o.Verdict != index.Committed {
		t.Fatal(o, ok, err)
	}
	if _, ok, err := d.s.Outcome(zodb.TxnID{255}); ok || err != nil {
		t.Fatal(ok, err)
	}
}

func tombstone(t *testing.T, d *driver) {
	txn := d.txn(5, write(1, 0, "a"))
	if o := d.apply(index.AppendTombstone(nil, txn.ID)); o.Verdict != index.Aborted {
		t.Fatal(o)
	}
	if o := d.apply(index.AppendCommit(nil, txn)); o.Verdict != index.Aborted || !o.Repeated {
		t.Fatal(o)
	}
	txn = d.txn(5, write(1, 0, "a"))
	d.apply(index.AppendCommit(nil, txn))
	if o := d.apply(index.AppendTombstone(nil, txn.ID)); o.Verdict != index.Committed || !o.Repeated {
		t.Fatal(o)
	}
	d.wantLoad(1, 5, "a", 5, 0)
}

func oids(t *testing.T, d *driver) {
	if o := d.apply(index.AppendOids(nil, 10, zodb.TxnID{1})); o.Verdict != index.OidsGiven || o.FirstOid != 1 || o.Count != 10 {
		t.Fatal(o)
	}
	d.id = 1
	d.commit(5, write(100, 0, "not from a range"))
	if o := d.apply(index.AppendOids(nil, 2, zodb.TxnID{9})); o.FirstOid != 101 {
		t.Fatal(o)
	}
}

func gap(t *testing.T, d *driver) {
	for _, pos := range []index.Position{0, 2} {
		if _, err := d.s.Apply(pos, nil); err == nil {
			t.Fatalf("position %d was taken by an empty state", pos)
		}
	}
}

func garbage(_ *testing.T, d *driver) {
	good := index.AppendCommit(nil, d.txn(5, write(1, 0, "a")))
	for _, bad := range [][]byte{good[:5], good[:len(good)-1], append(bytes.Clone(good), 0), append([]byte{9}, good[1:]...)} {
		_, err := d.s.Apply(1, bad)
		d.wantErr(err, index.ErrEntry)
	}
	d.apply(good)
}

func transactions(t *testing.T, d *driver) {
	for i := range 5 {
		txn := d.txn(zodb.Tid(10*(i+1)), write(zodb.Oid(i), 0, "x"))
		txn.User, txn.Description, txn.Extension = []byte("u"), []byte(fmt.Sprint(i)), []byte{0x80}
		d.apply(index.AppendCommit(nil, txn))
	}
	for _, c := range []struct {
		from, to zodb.Tid
		want     []zodb.Tid
	}{{0, zodb.MaxTid, []zodb.Tid{10, 20, 30, 40, 50}}, {20, 40, []zodb.Tid{20, 30, 40}}, {21, 39, []zodb.Tid{30}}, {51, 60, nil}} {
		var got []zodb.Tid
		if err := d.s.Transactions(c.from, c.to, func(h index.Header) bool { got = append(got, h.Tid); return true }); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(c.from, c.to, diff)
		}
	}
	for _, c := range []struct {
		to   zodb.Tid
		n    int
		want []zodb.Tid
	}{{zodb.MaxTid, 9, []zodb.Tid{50, 40, 30, 20, 10}}, {49, 2, []zodb.Tid{40, 30}}, {30, 1, []zodb.Tid{30}}, {9, 9, nil}} {
		var got []zodb.Tid
		if err := d.s.TransactionsBackwards(0, c.to, func(h index.Header) bool { got = append(got, h.Tid); return len(got) < c.n }); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(c.to, diff)
		}
	}
	n := 0
	if err := d.s.Transactions(0, 50, func(h index.Header) bool {
		n++
		return string(h.User) == "u" && string(h.Description) == "0" && h.Extension[0] == 0x80 && h.Status == ' ' && h.Oids[0] == 0
	}); err != nil || n != 2 {
		t.Fatal(n, err)
	}
}

func find(t *testing.T, d *driver) {
	d.commit(5, write(1, 0, "a"), write(2, 0, "b"))
	rev, err := d.s.Find(block.Sum([]byte("b")))
	if err != nil || rev.Oid != 2 || string(rev.Data) != "b" {
		t.Fatal(rev, err)
	}
	_, err = d.s.Find(block.Sum([]byte("c")))
	d.wantErr(err, index.ErrNotFound)
}

func blobs(t *testing.T, d *driver) {
	file := func(oid zodb.Oid, base zodb.Tid, name string, size int64) zodb.Write {
		w := write(oid, base, "record of "+name)
		w.Blob = zodb.Blob{Root: block.Sum([]byte(name)), Size: size}
		return w
	}
	d.commit(5, file(1, 0, "a", 0), write(2, 0, "no file"))
	d.commit(6, file(1, 5, "b", 1<<40), file(3, 0, "a", 0))
	d.commit(7, write(1, 6, "no file any more"))
	for tid, want := range map[zodb.Tid]zodb.Blob{5: {Root: block.Sum([]byte("a"))}, 6: {Root: block.Sum([]byte("b")), Size: 1 << 40}, 7: {}} {
		rev, err := d.s.Load(1, tid)
		if err != nil || rev.Blob != want || rev.Size != len(rev.Data) {
			t.Errorf("at %s: %+v %v", tid, rev, err)
		}
		if revs, err := d.s.History(1, 9); err != nil || revs[7-tid].Blob != want {
			t.Errorf("in the history: %+v %v", revs, err)
		}
	}
	for name, want := range map[string]map[zodb.Oid]zodb.Tid{"a": {1: 5, 3: 6}, "b": {1: 6}, "c": {}} {
		got := make(map[zodb.Oid]zodb.Tid)
		if err := d.s.Blobs(block.Sum([]byte(name)), func(rev index.Revision, err error) bool {
			got[rev.Oid] = rev.Tid
			return err == nil
		}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	n := 0
	if err := d.s.Blobs(zodb.Hash{}, func(index.Revision, error) bool { n++; return n < 2 }); err != nil || n != 2 {
		t.Errorf("%d of all, then told to stop: %v", n, err)
	}
}

func chain(t *testing.T, d *driver) {
	d.commit(5, write(1, 0, "a"))
	d.commit(6, write(1, 5, "b"), zodb.Write{Oid: 9, Kind: zodb.WriteDelete})
	var prev zodb.Hash
	if err := d.s.Transactions(0, 9, func(h index.Header) bool {
		if h.Prev != prev {
			t.Errorf("%s follows %s, not %s", h.Tid, h.Prev, prev)
		}
		prev = h.Digest
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if prev != d.s.Stats().Digest || prev == (zodb.Hash{}) {
		t.Fatal(prev, d.s.Stats().Digest)
	}
}

// Alike runs drawn histories against two states and holds every answer of one against the other's.
func Alike(t *testing.T, open, oracle Open) {
	rapid.Check(t, func(rt *rapid.T) {
		a, b := open(t), oracle(t)
		defer func() { _, _ = a.Close(), b.Close() }()
		n := rapid.IntRange(1, 60).Draw(rt, "entries")
		for i := range n {
			entry := drawEntry(rt, i, a)
			pos := a.Stats().Applied + 1
			if rapid.IntRange(0, 9).Draw(rt, "sweep") == 0 { // no answer and no verdict depends on it
				sweep(rt, a)
			}
			oa, ea := a.Apply(pos, entry)
			ob, eb := b.Apply(pos, entry)
			if diff := cmp.Diff(oa, ob); diff != "" || ea != nil || eb != nil {
				rt.Fatalf("entry %d: %v %v %s", i, ea, eb, diff)
			}
		}
		same(rt, a, b)
		sweep(rt, a)
		same(rt, a, b)
		sweep(rt, b)
		same(rt, a, b)
		if diff := cmp.Diff(a.Stats(), b.Stats()); diff != "" {
			rt.Fatal(diff)
		}
	})
}

func drawEntry(rt *rapid.T, i int, s index.State) []byte {
	id := zodb.TxnID{byte(rapid.IntRange(0, 200).Draw(rt, "id"))}
	switch k := rapid.IntRange(0, 9).Draw(rt, "kind"); k {
	case 0:
		return index.AppendOids(nil, uint64(rapid.IntRange(1, 5).Draw(rt, "count")), id)
	case 1:
		return index.AppendTombstone(nil, id)
	case 2:
		return nil
	case 3:
		return index.AppendHorizon(nil, id, zodb.Tid(rapid.IntRange(1, 300).Draw(rt, "horizon")), rapid.Bool().Draw(rt, "fence"))
	case 4:
		return drawGarbage(rt, id, s)
	}
	txn := &zodb.Txn{
		ID: id, Floor: uint64(i), Status: ' ', User: []byte("u"), Description: []byte{}, Extension: []byte{}, Author: []byte{},
		Tid: zodb.Tid(rapid.IntRange(1, 300).Draw(rt, "tid")), Restore: rapid.IntRange(0, 4).Draw(rt, "restore") == 0,
	}
	if rapid.Bool().Draw(rt, "declared") {
		txn.Snapshot = zodb.Tid(rapid.IntRange(1, 300).Draw(rt, "snapshot"))
	}
	for _, oid := range rapid.SliceOfNDistinct(rapid.IntRange(0, 9), 0, 4, rapid.ID).Draw(rt, "oids") {
		w := write(zodb.Oid(oid), 0, rapid.StringN(0, 20, 40).Draw(rt, "data"))
		if rapid.IntRange(0, 5).Draw(rt, "right base") > 0 {
			w.Base, _ = s.Head(w.Oid)
		}
		if rapid.IntRange(0, 7).Draw(rt, "delete") == 0 {
			w.Kind, w.Data, w.Hash = zodb.WriteDelete, nil, zodb.Hash{}
		}
		if w.Kind == zodb.WriteData && rapid.IntRange(0, 3).Draw(rt, "blob") == 0 {
			w.Blob = zodb.Blob{Root: block.Sum(w.Data), Size: rapid.Int64Range(0, 1<<40).Draw(rt, "size")}
		}
		txn.Writes = append(txn.Writes, w)
	}
	return index.AppendCommit(nil, txn)
}

func same(rt *rapid.T, a, b index.State) {
	eq := func(what string, x, y any, ex, ey error, opts ...cmp.Option) {
		for _, target := range []error{index.ErrNotFound, index.ErrNoRevision, nil} {
			if target == nil && (ex == nil) != (ey == nil) || target != nil && errors.Is(ex, target) != errors.Is(ey, target) {
				rt.Fatalf("%s: %v, %v", what, ex, ey)
			}
		}
		if diff := cmp.Diff(x, y, append(opts, cmpopts.EquateEmpty())...); ex == nil && diff != "" {
			rt.Fatalf("%s: %s", what, diff)
		}
	}
	eq("stats", a.Stats(), b.Stats(), nil, nil, cmpopts.IgnoreFields(index.Stats{}, "Records", "DataSize"))
	all := func(s index.State) (hs []index.Header, revs []index.Revision) {
		if err := s.Transactions(0, zodb.MaxTid, func(h index.Header) bool { hs = append(hs, h); return true }); err != nil {
			rt.Fatal(err)
		}
		if err := s.Records(func(r index.Revision, err error) bool { revs = append(revs, r); return err == nil }); err != nil {
			rt.Fatal(err)
		}
		return hs, revs
	}
	ha, ra := all(a)
	hb, rb := all(b)
	eq("transactions", ha, hb, nil, nil, cmpopts.IgnoreFields(index.Header{}, "Packed"))
	eq("records", ra, rb, nil, nil)
	ba, ca, pa, ea := sameBackwards(a)
	bb, cb, pb, eb := sameBackwards(b)
	eq("transactions backwards", ba, bb, ea, eb, cmpopts.IgnoreFields(index.Header{}, "Packed"))
	eq("current records", ca, cb, nil, nil)
	eq("repeated records", pa, pb, nil, nil)
	eq("heads", heads(rt, a), heads(rt, b), nil, nil)
	for oid := range zodb.Oid(10) {
		xa, ea := a.History(oid, 50)
		xb, eb := b.History(oid, 50)
		eq("history", xa, xb, ea, eb)
		for at := zodb.Tid(0); at < 400; at += 7 {
			la, ea := a.Load(oid, at)
			lb, eb := b.Load(oid, at)
			eq(fmt.Sprintf("load %s at %s", oid, at), la, lb, ea, eb)
			sa, ea := a.LoadSerial(oid, at)
			sb, eb := b.LoadSerial(oid, at)
			eq(fmt.Sprintf("load serial %s at %s", oid, at), sa, sb, ea, eb)
		}
	}
}

// heads of the objects that same compares; all at once and one by one they are what a load finds.
func heads(rt *rapid.T, s index.State) (serials []zodb.Tid) {
	oids := []zodb.Oid{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
	if err := s.Heads(oids, func(i int, serial zodb.Tid) {
		if i != len(serials) {
			rt.Fatalf("head %d comes as the %dth", i, len(serials))
		}
		serials = append(serials, serial)
	}); err != nil {
		rt.Fatal(err)
	}
	for i, oid := range oids {
		rev, err := s.Load(oid, zodb.MaxTid)
		if err != nil && !errors.Is(err, index.ErrNotFound) {
			rt.Fatal(err)
		}
		if err != nil {
			rev.Tid = 0
		}
		if one, err := s.Head(oid); err != nil || one != serials[i] || one != rev.Tid {
			rt.Fatalf("oid %s: heads %s, head %s (%v), load %s", oid, serials[i], one, err, rev.Tid)
		}
	}
	return serials
}
