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
