package indextest

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

func sweep(t interface{ Fatal(args ...any) }, s index.State) {
	if err := s.Sweep(context.Background(), nil, nil); err != nil {
		t.Fatal(err)
	}
}

// twice runs a check before the sweep and after it: no answer depends on it.
func (d *driver) twice(check func()) {
	d.t.Helper()
	check()
	sweep(d.t, d.s)
	check()
}

func (d *driver) horizon(to zodb.Tid, fence bool) index.Outcome {
	d.t.Helper()
	o := d.apply(index.AppendHorizon(nil, zodb.TxnID{200}, to, fence))
	if o.Verdict != index.Packed {
		d.t.Fatal(o)
	}
	return o
}

func (d *driver) garbage(g index.Garbage) index.Outcome {
	d.t.Helper()
	return d.apply(index.AppendGarbage(nil, zodb.TxnID{201}, &g))
}

func (d *driver) transactions(from zodb.Tid) (tids []zodb.Tid, packed int) {
	d.t.Helper()
	if err := d.s.Transactions(from, zodb.MaxTid, func(h index.Header) bool {
		tids = append(tids, h.Tid)
		if h.Status == 'p' {
			packed++
		}
		return true
	}); err != nil {
		d.t.Fatal(err)
	}
	return tids, packed
}

func horizonHides(t *testing.T, d *driver) {
	d.commit(10, write(1, 0, "a"), write(2, 0, "x"))
	d.commit(20, write(1, 10, "b"))
	d.commit(30, write(1, 20, "c"))
	d.commit(40, write(1, 30, "d"))
	if o := d.horizon(35, false); o.Tid != 35 {
		t.Fatal(o)
	}
	d.twice(func() {
		for _, at := range []zodb.Tid{10, 20, 29} {
			_, err := d.s.Load(1, at)
			d.wantErr(err, index.ErrNoRevision)
		}
		for _, tid := range []zodb.Tid{10, 20} {
			rev, err := d.s.LoadSerial(1, tid)
			d.wantErr(err, index.ErrNotFound)
			if rev.Data != nil {
				t.Fatalf("the bytes of another revision, %q, beside an error", rev.Data)
			}
		}
		_, err := d.s.Find(block.Sum([]byte("b")))
		d.wantErr(err, index.ErrNotFound)
		d.wantLoad(1, 30, "c", 30, 40)
		d.wantLoad(1, zodb.MaxTid, "d", 40, 0)
		d.wantLoad(2, 10, "x", 10, 0)
		if rev, err := d.s.LoadSerial(1, 30); err != nil || string(rev.Data) != "c" {
			t.Fatal(rev, err)
		}
		revs, err := d.s.History(1, 9)
		if err != nil || len(revs) != 2 || revs[1].Tid != 30 {
			t.Fatal(revs, err)
		}
		n := 0
		if err := d.s.Records(func(index.Revision, error) bool { n++; return true }); err != nil || n != 3 {
			t.Fatal(n, err)
		}
	})
	if st := d.s.Stats(); st.Records != 3 || st.DataSize != 3 || st.Objects != 2 {
		t.Fatal(st)
	}
}

func horizonRises(t *testing.T, d *driver) {
	d.commit(10, write(1, 0, "a"))
	d.commit(20, write(1, 10, "b"))
	if o := d.horizon(99, false); o.Tid != 20 || d.s.Stats().Horizon != 20 {
		t.Fatal(o)
	}
	if o := d.horizon(10, false); o.Tid != 20 || d.s.Stats().Horizon != 20 {
		t.Fatal(o)
	}
	d.commit(30, write(1, 20, "c"))
	d.wantLoad(1, 29, "b", 20, 30)
}

func horizonDeletion(t *testing.T, d *driver) {
	gone := zodb.Write{Oid: 1, Base: 10, Kind: zodb.WriteDelete}
	d.commit(10, write(1, 0, "a"), write(2, 0, "x"))
	d.commit(20, gone)
	gone.Oid = 2
	d.commit(30, gone)
	d.commit(40, write(2, 0, "again"))
	d.horizon(35, false)
	d.twice(func() {
		for _, at := range []zodb.Tid{10, 20, 40} {
			_, err := d.s.Load(1, at)
			d.wantErr(err, index.ErrNotFound)
		}
		_, err := d.s.History(1, 9)
		d.wantErr(err, index.ErrNotFound)
		for _, at := range []zodb.Tid{10, 30, 39} {
			_, err := d.s.Load(2, at)
			d.wantErr(err, index.ErrNoRevision)
		}
		d.wantLoad(2, 40, "again", 40, 0)
		if tids, _ := d.transactions(0); len(tids) != 1 {
			t.Fatal(tids)
		}
	})
	if st := d.s.Stats(); st.Records != 1 || st.Objects != 1 {
		t.Fatal(st)
	}
}

func horizonTransactions(t *testing.T, d *driver) {
	d.commit(10, write(1, 0, "a"), write(2, 0, "x"))
	d.commit(20, write(1, 10, "b"))
	d.commit(25) // wrote nothing
	d.commit(30, write(1, 20, "c"))
	d.commit(40, write(1, 30, "d"))
	d.commit(50)
	d.horizon(30, false)
	d.twice(func() {
		tids, packed := d.transactions(0)
		if diff := cmp.Diff([]zodb.Tid{10, 30, 40, 50}, tids); diff != "" || packed != 2 {
			t.Fatal(diff, packed)
		}
		_ = d.s.Transactions(10, 10, func(h index.Header) bool {
			if diff := cmp.Diff([]zodb.Oid{2}, h.Oids); diff != "" {
				t.Fatal(diff)
			}
			return true
		})
	})
}

func horizonDigest(t *testing.T, d *driver) {
	d.commit(10, write(1, 0, "a"))
	d.commit(20, write(1, 10, "b"))
	d.commit(30, write(1, 20, "c"))
	d.horizon(25, false)
	d.twice(func() {
		_ = d.s.Transactions(26, zodb.MaxTid, func(h index.Header) bool {
			if h.Prev != d.s.Stats().HorizonDigest || h.Prev == (zodb.Hash{}) {
				t.Fatal(h.Prev, d.s.Stats().HorizonDigest)
			}
			return true
		})
	})
	before := d.s.Stats().HorizonDigest
	d.horizon(29, false) // no transaction between
	if d.s.Stats().HorizonDigest != before {
		t.Fatal("the digest of the last transaction up to the horizon changed")
	}
	d.horizon(30, false)
	if st := d.s.Stats(); st.HorizonDigest != st.Digest {
		t.Fatal(st)
	}
}

func pinned(t *testing.T, d *driver) {
	d.commit(10, write(1, 0, "a"), write(2, 0, "x"))
	d.commit(20, write(1, 10, "b"))
	d.horizon(20, true)
	if o := d.garbage(index.Garbage{Horizon: 20, Scanned: 20, Objects: []index.Change{{Oid: 2, Tid: 10}}}); o.Verdict != index.Collected {
		t.Fatal(o)
	}
	for oid, want := range map[zodb.Oid]string{1: "a", 2: "x"} {
		if rev, err := d.s.LoadPinned(oid, 15); err != nil || string(rev.Data) != want {
			t.Fatal(rev, err)
		}
	}
	sweep(t, d.s)
	_, err := d.s.LoadPinned(1, 15)
	d.wantErr(err, index.ErrNoRevision)
	_, err = d.s.LoadPinned(2, 15)
	d.wantErr(err, index.ErrNotFound)
}

func garbageGoes(t *testing.T, d *driver) {
	d.commit(10, write(1, 0, "a"), write(2, 0, "x"), write(3, 0, "kept"))
	d.commit(20, write(1, 10, "b"))
	d.horizon(20, true)
	list := index.Garbage{Horizon: 20, Scanned: 20, Objects: []index.Change{{Oid: 1, Tid: 20}, {Oid: 2, Tid: 10}, {Oid: 3, Tid: 9}, {Oid: 4, Tid: 9}}}
	o := d.garbage(list)
	if diff := cmp.Diff([]zodb.Oid{1, 2}, o.Oids); o.Verdict != index.Collected || diff != "" {
		t.Fatal(o, diff)
	}
	if o := d.garbage(list); o.Verdict != index.Collected || len(o.Oids) != 0 { // a repetition finds nothing left
		t.Fatal(o)
	}
	d.twice(func() {
		for _, oid := range []zodb.Oid{1, 2} {
			_, err := d.s.Load(oid, zodb.MaxTid)
			d.wantErr(err, index.ErrNotFound)
			_, err = d.s.LoadSerial(oid, 20)
			d.wantErr(err, index.ErrNotFound)
			_, err = d.s.History(oid, 9)
			d.wantErr(err, index.ErrNotFound)
			if h, err := d.s.Head(oid); h != 0 || err != nil {
				t.Fatal(h, err)
			}
		}
		_, err := d.s.Find(block.Sum([]byte("x")))
		d.wantErr(err, index.ErrNotFound)
		d.wantLoad(3, 20, "kept", 10, 0)
		if tids, _ := d.transactions(0); len(tids) != 1 || d.s.Stats().Objects != 1 {
			t.Fatal(tids, d.s.Stats())
		}
	})
	if st := d.s.Stats(); st.Records != 1 || st.DataSize != 4 {
		t.Fatal(st)
	}
}

func garbageOvertaken(t *testing.T, d *driver) {
	d.commit(10, write(1, 0, "a"))
	d.horizon(10, true)
	d.commit(20, write(2, 0, "refers to 1"))
	list := index.Garbage{Horizon: 10, Scanned: 10, Objects: []index.Change{{Oid: 1, Tid: 10}}}
	if o := d.garbage(list); o.Verdict != index.Rescan || o.Tid != 20 || o.Oids != nil {
		t.Fatal(o)
	}
	d.wantLoad(1, 20, "a", 10, 0)
	list.Horizon = 11 // of a pack whose horizon is not in the log
	list.Scanned = 20
	if o := d.garbage(list); o.Verdict != index.Rescan {
		t.Fatal(o)
	}
	list.Horizon = 10
	if o := d.garbage(list); o.Verdict != index.Collected || len(o.Oids) != 1 {
		t.Fatal(o)
	}
}

func garbageFenced(t *testing.T, d *driver) {
	d.commit(10, write(1, 0, "a"), write(2, 0, "b"))
	d.horizon(10, true)
	txn := d.txn(20, write(3, 0, "x"))
	txn.Snapshot = 10
	if o := d.apply(index.AppendCommit(nil, txn)); o.Verdict != index.Committed {
		t.Fatal(o)
	}
	list := index.Garbage{Horizon: 10, Scanned: 10, Fenced: true, Objects: []index.Change{{Oid: 1, Tid: 10}}}
	if o := d.garbage(list); o.Verdict != index.Collected {
		t.Fatal(o)
	}
	d.commit(30, write(4, 0, "declares no snapshot"))
	list.Objects[0].Oid = 2
	if o := d.garbage(list); o.Verdict != index.Rescan {
		t.Fatal(o)
	}
}

func behind(t *testing.T, d *driver) {
	d.commit(10, write(1, 0, "a"))
	d.commit(20, write(1, 10, "b"))
	commit := func(snapshot zodb.Tid) index.Outcome {
		txn := d.txn(30, write(2, d.headOf(2), "x"))
		txn.Snapshot = snapshot
		return d.apply(index.AppendCommit(nil, txn))
	}
	d.horizon(15, false)
	if o := commit(12); o.Verdict != index.Committed {
		t.Fatal(o)
	}
	d.horizon(18, true)
	o := commit(17)
	if o.Verdict != index.Behind || o.Tid != 18 {
		t.Fatal(o)
	}
	if again, ok, err := d.s.Outcome(o.TxnID); err != nil || !ok || again.Verdict != index.Behind {
		t.Fatal(again, ok, err)
	}
	if o := commit(18); o.Verdict != index.Committed {
		t.Fatal(o)
	}
}

func rebirth(t *testing.T, d *driver) {
	d.commit(10, write(1, 0, "a"))
	d.horizon(10, true)
	d.garbage(index.Garbage{Horizon: 10, Scanned: 10, Objects: []index.Change{{Oid: 1, Tid: 10}}})
	if o := d.commit(20, write(1, 10, "onto what is gone")); o.Verdict != index.Stale || o.Serial != 0 {
		t.Fatal(o)
	}
	if o := d.commit(20, write(1, 0, "anew")); o.Verdict != index.Committed {
		t.Fatal(o)
	}
	d.twice(func() {
		d.wantLoad(1, zodb.MaxTid, "anew", 20, 0)
		_, err := d.s.Load(1, 15)
		d.wantErr(err, index.ErrNoRevision)
		if revs, err := d.s.History(1, 9); err != nil || len(revs) != 1 {
			t.Fatal(revs, err)
		}
	})
	if st := d.s.Stats(); st.Records != 1 || st.Objects != 1 {
		t.Fatal(st)
	}
}

// drawGarbage draws a list whose objects are mostly at the heads it names.
func drawGarbage(rt *rapid.T, id zodb.TxnID, s index.State) []byte {
	st := s.Stats()
	g := index.Garbage{Horizon: st.Horizon, Scanned: st.LastTid, Fenced: rapid.Bool().Draw(rt, "fenced")}
	if rapid.IntRange(0, 3).Draw(rt, "overtaken") == 0 {
		g.Scanned = zodb.Tid(rapid.IntRange(0, 300).Draw(rt, "scanned"))
	}
	for oid := range zodb.Oid(10) {
		if !rapid.Bool().Draw(rt, "garbage") {
			continue
		}
		head, _ := s.Head(oid)
		g.Objects = append(g.Objects, index.Change{Oid: oid, Tid: head})
	}
	return index.AppendGarbage(nil, id, &g)
}
