package node_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

func TestRevisionsAreReadInAnyOrderAndMissingOnesAreTold(t *testing.T) {
	n := open(t, t.TempDir())
	first := commit(t, n, write(1, 0, "one"), write(2, 0, "two"))
	second := commit(t, n, write(1, first, "one again"))
	third := commit(t, n, write(1, second, "one"))
	keys := []index.RevisionKey{
		{Oid: 1, Tid: second}, {Oid: 2, Tid: first}, {Oid: 2, Tid: second}, {Oid: 1, Tid: first}, {Oid: 9, Tid: first}, {Oid: 1, Tid: third},
	}
	for _, repeats := range []bool{false, true} {
		revs, older, err := n.LoadRevisions(ctx, keys, 1<<20, repeats)
		if err != nil || len(revs) != len(keys) {
			t.Fatal(len(revs), err)
		}
		for i, want := range []string{"one again", "two", "", "one", "", "one"} {
			if got := revs[i]; string(got.Data) != want || (want == "") != (got.Kind == 0) {
				t.Errorf("%v: %+v, want %q", keys[i], got, want)
			}
		}
		if repeats != slices.Equal(older, []zodb.Tid{0, 0, 0, 0, 0, first}) {
			t.Error(repeats, older)
		}
	}
}

func TestRevisionsOverTheLimitComeAsAPrefix(t *testing.T) {
	n := open(t, t.TempDir())
	var writes []zodb.Write
	for oid := range zodb.Oid(100) {
		writes = append(writes, write(oid+1, 0, strings.Repeat("x", 1000)))
	}
	tid := commit(t, n, writes...)
	keys := make([]index.RevisionKey, len(writes))
	for i := range writes {
		keys[i] = index.RevisionKey{Oid: writes[i].Oid, Tid: tid}
	}
	for _, c := range []struct{ limit, least, most int }{{1 << 20, 100, 100}, {100_000, 100, 100}, {99_999, 12, 99}, {2500, 1, 2}, {10, 1, 1}, {0, 1, 1}} {
		revs, _, err := n.LoadRevisions(ctx, keys, c.limit, false)
		if err != nil || len(revs) < c.least || len(revs) > c.most {
			t.Fatalf("limit %d: %d revisions, %v", c.limit, len(revs), err)
		}
		for i := range revs {
			if revs[i].Oid != keys[i].Oid || len(revs[i].Data) != 1000 {
				t.Fatalf("limit %d: revision %d is %s with %d bytes", c.limit, i, revs[i].Oid, len(revs[i].Data))
			}
		}
	}
	if _, _, err := n.LoadRevisions(ctx, nil, 0, false); err != nil {
		t.Error(err)
	}
	_ = n.Close()
	if _, _, err := n.LoadRevisions(ctx, keys, 0, false); !errors.Is(err, index.ErrClosed) {
		t.Error(err)
	}
}

func TestRecentHidesWhatIsHeld(t *testing.T) {
	n := open(t, t.TempDir())
	first := commit(t, n, write(1, 0, "one"))
	x := txn(write(1, first, "two"))
	vote(t, n, x)
	tid, err := n.Finish(ctx, x.ID, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]zodb.Tid{{first}, {tid, first}} {
		hs, err := n.TransactionsBackwards(ctx, 0, zodb.MaxTid, 9)
		if err != nil || len(hs) != len(want) || hs[0].Tid != want[0] {
			t.Fatal(hs, want, err)
		}
		n.Publish(tid)
	}
}
