package index_test

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// A tombstone that comes behind its transaction does not make it an aborted one, even where a new open lies between the two.
func TestATombstoneAfterAReopenLeavesACommitCommitted(t *testing.T) {
	fs := vfs.NewMem()
	s := openAt(t, fs, true)
	id, data := zodb.TxnID{7}, []byte("v")
	want, err := s.Apply(1, index.AppendCommit(nil, &zodb.Txn{ID: id, Tid: 10, Status: ' ', Writes: []zodb.Write{
		{Oid: 1, Kind: zodb.WriteData, Hash: block.Sum(data), Data: data}}}))
	if err != nil || want.Verdict != index.Committed {
		t.Fatal(want, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openAt(t, fs, false)
	defer s.Close()
	got, err := s.Apply(2, index.AppendTombstone(nil, id))
	if err != nil || got.Verdict != index.Committed || !got.Repeated || got.Tid != 10 {
		t.Errorf("the tombstone's outcome is %+v, %v", got, err)
	}
	got, ok, err := s.Outcome(id)
	if err != nil || !ok || got.Verdict != index.Committed || got.Tid != 10 {
		t.Errorf("the transaction's outcome is %+v, %t, %v", got, ok, err)
	}
}
