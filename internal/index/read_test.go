package index_test

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// What another load fetched, by the iterator that a load gets behind it, is not that load's.
func TestALoadIsToldOfTheBlockThatItFetched(t *testing.T) {
	disk := vfs.NewMem()
	s := openAt(t, disk, true)
	txn := &zodb.Txn{ID: zodb.TxnID{1}, Tid: 10, Restore: true, Status: ' '}
	for oid := range zodb.Oid(3000) { // several blocks
		data := pickled(uint64(oid))
		txn.Writes = append(txn.Writes, zodb.Write{Oid: oid, Kind: zodb.WriteData, Hash: block.Sum(data), Data: data})
	}
	if _, err := s.Apply(1, index.AppendCommit(nil, txn)); err != nil {
		t.Fatal(err)
	}
	for _, first := range []func(*index.Store, zodb.Oid) (bool, error){
		func(s *index.Store, oid zodb.Oid) (bool, error) {
			return s.ReadPinned(oid, 10, func(*index.Revision) {})
		},
		func(s *index.Store, oid zodb.Oid) (bool, error) { _, err := s.LoadPinned(oid, 10); return true, err },
	} {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = openAt(t, disk, false) // with nothing of them in memory
		if fetched, err := first(s, 1500); err != nil || !fetched {
			t.Error(fetched, err)
		}
		if fetched, err := s.ReadPinned(1501, 10, func(*index.Revision) {}); err != nil || fetched {
			t.Errorf("a block that was in memory is told as fetched: %t, %v", fetched, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
