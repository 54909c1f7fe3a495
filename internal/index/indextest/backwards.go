package indextest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

func remove(oid zodb.Oid, base zodb.Tid) zodb.Write {
	return zodb.Write{Oid: oid, Base: base, Kind: zodb.WriteDelete}
}

func backwards(t *testing.T, d *driver) {
	for i := range 5 {
		d.commit(zodb.Tid(10*(i+1)), write(zodb.Oid(i), 0, "x"))
	}
	for _, c := range []struct {
		from, to zodb.Tid
		want     []zodb.Tid
	}{{0, zodb.MaxTid, []zodb.Tid{50, 40, 30, 20, 10}}, {20, 40, []zodb.Tid{40, 30, 20}}, {21, 39, []zodb.Tid{30}}, {51, 60, nil}} {
		var got []zodb.Tid
		if err := d.s.TransactionsBackwards(c.from, c.to, func(h index.Header) bool { got = append(got, h.Tid); return true }); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(c.from, c.to, diff)
		}
	}
	n := 0
	if err := d.s.TransactionsBackwards(0, 50, func(index.Header) bool { n++; return n < 2 }); err != nil || n != 2 {
		t.Fatal(n, err)
	}
}

func current(t *testing.T, d *driver) {
	d.commit(10, write(1, 0, "1a"), write(2, 0, "2a"), write(^zodb.Oid(0), 0, "last"))
	d.commit(20, write(1, 10, "1b"), write(5, 0, "5a"))
	d.commit(30, remove(2, 10), write(7, 0, "7a"))
	for _, c := range []struct {
		from zodb.Oid
		at   zodb.Tid
		want string
	}{
		{0, zodb.MaxTid, "1b 5a 7a last "},
		{0, 29, "1b 2a 5a last "},
		{0, 19, "1a 2a last "},
		{2, 19, "2a last "},
		{2, zodb.MaxTid, "5a 7a last "},
		{8, zodb.MaxTid, "last "},
		{0, 9, ""},
	} {
		got := ""
		if err := d.s.Current(c.from, c.at, func(r index.Revision) bool { got += string(r.Data) + " "; return true }); err != nil || got != c.want {
			t.Errorf("from %s at %s: %q, %v; want %q", c.from, c.at, got, err, c.want)
		}
	}
	n := 0
	if err := d.s.Current(0, 30, func(index.Revision) bool { n++; return n < 2 }); err != nil || n != 2 {
		t.Fatal(n, err)
	}
}

func repeats(t *testing.T, d *driver) {
	d.commit(10, write(1, 0, "a"), write(2, 0, "b"))
	d.commit(20, write(1, 10, "b"))
	d.commit(30, write(1, 20, "a"))
	d.commit(40, remove(1, 30))
	d.commit(50, write(1, 0, "a"))
	for i := range 20 {
		d.commit(zodb.Tid(100+i), write(1, d.headOf(1), fmt.Sprint("between ", i)))
	}
	d.commit(200, write(1, 119, "b"))
	d.commit(210, write(1, 200, "new"))
	for tid, want := range map[zodb.Tid]zodb.Tid{10: 0, 20: 0, 30: 10, 40: 0, 50: 30, 119: 0, 200: 20, 210: 0} {
		if got, err := d.s.Repeats(1, tid); got != want || err != nil {
			t.Errorf("%s repeats %s, %v; want %s", tid, got, err, want)
		}
	}
	_, err := d.s.Repeats(2, 20)
	d.wantErr(err, index.ErrNotFound)
}

// sameBackwards is the part of same for this file's questions.
func sameBackwards(s index.State) (hs []index.Header, revs []index.Revision, repeated []zodb.Tid, err error) {
	err = s.TransactionsBackwards(0, zodb.MaxTid, func(h index.Header) bool { hs = append(hs, h); return true })
	for at := zodb.Tid(0); at < 400; at += 40 {
		err = errors.Join(err, s.Current(zodb.Oid(at/80), at, func(r index.Revision) bool { revs = append(revs, r); return true }))
	}
	for _, h := range hs {
		for _, oid := range h.Oids {
			tid, e := s.Repeats(oid, h.Tid)
			repeated, err = append(repeated, tid), errors.Join(err, e)
		}
	}
	return hs, revs, repeated, err
}
