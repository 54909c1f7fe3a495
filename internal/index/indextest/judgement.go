package indextest

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

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
