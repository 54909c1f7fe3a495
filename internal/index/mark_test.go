package index_test

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Records of these tests are lists of the oids that they refer to.
func refers(oids ...zodb.Oid) []byte {
	data := []byte{}
	for _, o := range oids {
		data = binary.BigEndian.AppendUint64(data, uint64(o))
	}
	return data
}

func references(data []byte) (oids []zodb.Oid) {
	for ; len(data) >= 8; data = data[8:] {
		oids = append(oids, zodb.Oid(binary.BigEndian.Uint64(data)))
	}
	return oids
}

type graph struct {
	rt   *rapid.T
	s    *index.Store
	tid  zodb.Tid
	refs map[zodb.Tid]map[zodb.Oid][]zodb.Oid
}

func (g *graph) commit(writes map[zodb.Oid][]zodb.Oid) {
	g.tid += 10
	txn := &zodb.Txn{ID: zodb.TxnID{byte(g.tid), byte(g.tid >> 8)}, Tid: g.tid, Restore: true, Status: ' '}
	for oid := range zodb.Oid(64) {
		if to, ok := writes[oid]; ok {
			data := refers(to...)
			txn.Writes = append(txn.Writes, zodb.Write{Oid: oid, Kind: zodb.WriteData, Hash: block.Sum(data), Data: data})
		}
	}
	if _, err := g.s.Apply(g.s.Stats().Applied+1, index.AppendCommit(nil, txn)); err != nil {
		g.rt.Fatal(err)
	}
	g.refs[g.tid] = writes
}

func (g *graph) draw(what string) map[zodb.Oid][]zodb.Oid {
	return rapid.MapOfN(rapid.Map(rapid.IntRange(0, 30), func(n int) zodb.Oid { return zodb.Oid(n) }),
		rapid.SliceOfN(rapid.Map(rapid.IntRange(0, 35), func(n int) zodb.Oid { return zodb.Oid(n) }), 0, 3), 0, 6).Draw(g.rt, what)
}

// reachable is the plain way: from the root at `to`, and everything that was written after it.
func (g *graph) reachable(to zodb.Tid) map[zodb.Oid]bool {
	at := map[zodb.Oid][]zodb.Oid{}
	reached := map[zodb.Oid]bool{}
	todo := []zodb.Oid{0}
	for tid := zodb.Tid(10); tid <= g.tid; tid += 10 {
		for oid, refs := range g.refs[tid] {
			if tid <= to {
				at[oid] = refs
			} else {
				todo = append(append(todo, oid), refs...)
			}
		}
	}
	for len(todo) > 0 {
		oid := todo[len(todo)-1]
		if todo = todo[:len(todo)-1]; !reached[oid] {
			reached[oid] = true
			todo = append(todo, at[oid]...)
		}
	}
	return reached
}

func TestGarbageIsExactlyWhatIsNotReached(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		g := &graph{rt: rt, s: openAt(t, vfs.NewMem(), true), refs: map[zodb.Tid]map[zodb.Oid][]zodb.Oid{}}
		defer g.s.Close()
		g.commit(map[zodb.Oid][]zodb.Oid{0: {1, 2}, 1: {3}, 2: {}, 3: {}, 4: {5}, 5: {4}})
		for range rapid.IntRange(0, 12).Draw(rt, "before") {
			g.commit(g.draw("writes"))
		}
		to := g.tid
		for range rapid.IntRange(0, 4).Draw(rt, "after") {
			g.commit(g.draw("later writes"))
		}
		garbage := g.collect(to, rapid.IntRange(0, 3).Draw(rt, "meanwhile"))
		reached := g.reachable(to)
		for oid := range zodb.Oid(40) {
			head, err := g.s.Head(oid)
			if err != nil {
				rt.Fatal(err)
			}
			if garbage[oid] == reached[oid] && head != 0 && head <= to || garbage[oid] && head > to {
				rt.Fatalf("oid %s: garbage %v, reached %v", oid, garbage[oid], reached[oid])
			}
		}
	})
}

// collect marks, with commits meanwhile, and returns what it lists.
func (g *graph) collect(to zodb.Tid, meanwhile int) map[zodb.Oid]bool {
	ctx := context.Background()
	survey := g.s.NewSurvey(to)
	for done := false; !done; {
		var err error
		if done, err = survey.Scan(ctx, 3); err != nil {
			g.rt.Fatal(err)
		}
	}
	marks, err := g.s.NewMarks(survey)
	if err != nil {
		g.rt.Fatal(err)
	}
	for {
		batch, done, err := marks.Next(ctx, 1)
		if err != nil {
			g.rt.Fatal(err)
		}
		for _, rev := range batch {
			marks.Refer(references(rev.Data))
		}
		if meanwhile > 0 {
			meanwhile--
			g.commit(g.draw("writes meanwhile"))
		}
		if !done || len(batch) > 0 {
			continue
		}
		if last := g.s.Stats().LastTid; last > marks.Scanned() {
			if err := marks.Follow(last); err != nil {
				g.rt.Fatal(err)
			}
			continue
		}
		break
	}
	out := map[zodb.Oid]bool{}
	for from := zodb.Oid(0); ; {
		list, next, err := marks.Garbage(from)
		if err != nil {
			g.rt.Fatal(err)
		}
		if len(list.Objects) == 0 {
			return out
		}
		for _, o := range list.Objects {
			out[o.Oid] = true
		}
		from = next
	}
}

func TestAMarkingWithoutARootIsRefused(t *testing.T) {
	s := openAt(t, vfs.NewMem(), true)
	defer s.Close()
	txn := &zodb.Txn{Tid: 5, Restore: true, Status: ' ', Writes: []zodb.Write{{Oid: 7, Kind: zodb.WriteData, Hash: block.Sum(nil)}}}
	if _, err := s.Apply(1, index.AppendCommit(nil, txn)); err != nil {
		t.Fatal(err)
	}
	survey := s.NewSurvey(5)
	if _, err := s.NewMarks(survey); err == nil {
		t.Fatal("an unfinished survey was taken")
	}
	if done, err := survey.Scan(context.Background(), 10); err != nil || !done {
		t.Fatal(done, err)
	}
	if _, err := s.NewMarks(survey); !errors.Is(err, index.ErrNotFound) {
		t.Fatal(err)
	}
}
