package index_test

import (
	"log/slog"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// A sweep that deletes rows while Newest is under way brings back nothing that a garbage list removed before it.
func TestNewestLeavesOutGarbageThatIsSweptMeanwhile(t *testing.T) {
	s, err := index.Open(index.Config{Dir: "db", FS: vfs.NewMem(), Create: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	apply := func(entry []byte) {
		t.Helper()
		if _, err := s.Apply(s.Stats().Applied+1, entry); err != nil {
			t.Fatal(err)
		}
	}
	txn := &zodb.Txn{ID: zodb.TxnID{1}, Tid: 10, Status: ' '}
	for oid := range zodb.Oid(4) {
		txn.Writes = append(txn.Writes, zodb.Write{Oid: oid, Kind: zodb.WriteData, Data: []byte("x"), Hash: block.Sum([]byte("x"))})
	}
	apply(index.AppendCommit(nil, txn))
	apply(index.AppendHorizon(nil, zodb.TxnID{2}, 10, true))
	apply(index.AppendGarbage(nil, zodb.TxnID{3}, &index.Garbage{Horizon: 10, Scanned: 10, Objects: []index.Change{{Oid: 1, Tid: 10}, {Oid: 2, Tid: 10}}}))
	var got []zodb.Oid
	if err := s.Newest(0, 9, func(rev index.Revision) bool {
		if rev.Oid == 0 {
			if err := s.Sweep(t.Context(), nil, nil); err != nil {
				t.Error(err)
			}
		}
		got = append(got, rev.Oid)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0] != 0 || got[1] != 3 {
		t.Errorf("%v", got)
	}
}
