package index_test

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// pickled is a record that zodb.Scanner knows: an instance of no class whose state is a list of references.
func pickled(salt uint64, oids ...zodb.Oid) []byte {
	data := []byte("\x80\x03N.\x80\x03](\x8a\x08")
	data = binary.BigEndian.AppendUint64(data, salt)
	for _, oid := range oids {
		data = append(binary.BigEndian.AppendUint64(append(data, "C\x08"...), uint64(oid)), 'Q')
	}
	return append(data, "e."...)
}

// TestAPackOfManyObjectsAndLongHistories has more objects and packed revisions than a round, a batch and a long history have, so that
// each part is done by several goroutines, several times.
func TestAPackOfManyObjectsAndLongHistories(t *testing.T) {
	const objects, versions, long = 6000, 20, 2500
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	draw := rand.New(rand.NewPCG(seed, 0))
	s := openAt(t, vfs.NewMem(), true)
	defer s.Close()
	tid, refs := zodb.Tid(0), make([][]zodb.Oid, objects)
	commit := func(oids []zodb.Oid) {
		tid += 10
		txn := &zodb.Txn{ID: zodb.TxnID{byte(tid), byte(tid >> 8), byte(tid >> 16)}, Tid: tid, Restore: true, Status: ' '}
		for _, oid := range oids {
			refs[oid] = nil
			for range draw.IntN(4) {
				refs[oid] = append(refs[oid], zodb.Oid(draw.IntN(objects*5/4))) // a fifth leads nowhere
			}
			data := pickled(draw.Uint64(), refs[oid]...)
			txn.Writes = append(txn.Writes, zodb.Write{Oid: oid, Kind: zodb.WriteData, Hash: block.Sum(data), Data: data})
		}
		if _, err := s.Apply(s.Stats().Applied+1, index.AppendCommit(nil, txn)); err != nil {
			t.Fatal(err)
		}
	}
	all := make([]zodb.Oid, objects)
	for i := range all {
		all[i] = zodb.Oid(i)
	}
	for range versions {
		commit(all)
	}
	for range long {
		commit([]zodb.Oid{0, 5, 1000, objects - 1})
	}
	reached := map[zodb.Oid]bool{}
	for todo := []zodb.Oid{0}; len(todo) > 0; {
		oid := todo[len(todo)-1]
		if todo = todo[:len(todo)-1]; oid < objects && !reached[oid] {
			reached[oid] = true
			todo = append(todo, refs[oid]...)
		}
	}

	removed := packAll(t, s, tid)
	if want := objects - len(reached); removed != want {
		t.Errorf("%d objects were listed as garbage, want %d", removed, want)
	}
	st := s.Stats()
	if st.Records != uint64(len(reached)) || st.Objects != uint64(len(reached)) {
		t.Errorf("%d records of %d objects are left, want %d of each", st.Records, st.Objects, len(reached))
	}
	rows := 0
	if err := s.Records(func(rev index.Revision, err error) bool {
		if err != nil || !reached[rev.Oid] || rev.Next != 0 {
			t.Error(rev.Oid, rev.Tid, err)
		}
		rows++
		return !t.Failed()
	}); err != nil || rows != len(reached) {
		t.Error(rows, err)
	}
	report, err := s.Verify(context.Background(), nil)
	if err != nil || len(report.Damaged) > 0 || report.Records != st.Records {
		t.Error(report, err)
	}
}

// Verify runs beside a pack, whose lists take objects away that it has not counted so far.
func TestAGarbageListBesideAVerifyIsNoDamage(t *testing.T) {
	s := openAt(t, vfs.NewMem(), true)
	defer s.Close()
	apply := func(entry []byte) {
		if _, err := s.Apply(s.Stats().Applied+1, entry); err != nil {
			t.Fatal(err)
		}
	}
	txn := &zodb.Txn{ID: zodb.TxnID{1}, Tid: 10, Restore: true, Status: ' '}
	for oid := range zodb.Oid(5000) { // more than Verify reads before it tells how far it is
		data := pickled(uint64(oid))
		txn.Writes = append(txn.Writes, zodb.Write{Oid: oid, Kind: zodb.WriteData, Hash: block.Sum(data), Data: data})
	}
	apply(index.AppendCommit(nil, txn))
	apply(index.AppendHorizon(nil, zodb.TxnID{2}, 10, true))
	lists := 0
	report, err := s.Verify(context.Background(), func(uint64, uint64) {
		if lists++; lists == 1 {
			apply(index.AppendGarbage(nil, zodb.TxnID{3}, &index.Garbage{Horizon: 10, Scanned: 10, Objects: []index.Change{{Oid: 4999, Tid: 10}}}))
		}
	})
	if err != nil || len(report.Damaged) > 0 || s.Stats().Objects != 4999 {
		t.Error(report.Damaged, err, s.Stats().Objects)
	}
	if report, err := s.Verify(context.Background(), nil); err != nil || len(report.Damaged) > 0 || report.Objects != 4999 {
		t.Error(report, err)
	}
}

// packAll packs to a position with garbage collection, to the end, and returns how many objects went.
func packAll(t *testing.T, s *index.Store, to zodb.Tid) (removed int) {
	ctx := context.Background()
	survey := s.NewSurvey(to)
	for done := false; !done; {
		var err error
		if done, err = survey.Scan(ctx, 10_000); err != nil {
			t.Fatal(err)
		}
	}
	marks, err := s.NewMarks(survey)
	if err != nil {
		t.Fatal(err)
	}
	marks.Search()
	for done := false; !done; {
		var batch []index.Revision
		if batch, done, err = marks.Next(ctx, 1<<14); err != nil || len(batch) > 0 {
			t.Fatal(batch, err)
		}
	}
	apply := func(entry []byte) index.Outcome {
		o, err := s.Apply(s.Stats().Applied+1, entry)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	apply(index.AppendHorizon(nil, zodb.TxnID{200}, to, true))
	for from := zodb.Oid(0); ; {
		list, next, err := marks.Garbage(from)
		if err != nil {
			t.Fatal(err)
		}
		if len(list.Objects) == 0 {
			break
		}
		o := apply(index.AppendGarbage(nil, zodb.TxnID{201}, &list))
		if o.Verdict != index.Collected {
			t.Fatal(o)
		}
		removed += len(o.Oids)
		from = next
	}
	if err := s.Sweep(ctx, survey, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Compact(ctx); err != nil {
		t.Fatal(err)
	}
	return removed
}
