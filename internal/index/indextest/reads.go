package indextest

import (
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
