package indextest

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

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
