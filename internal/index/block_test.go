package index_test

import (
	"bytes"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	ds "github.com/ipfs/go-ds-pebble"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/block/blocktest"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Records on disk, joined with go-datastore in the same Pebble, pass the suite that the memory store passes.
func TestRecordsAreServedAsBlocks(t *testing.T) {
	blocktest.Run(t, func(t *testing.T) blocktest.Store {
		s := openAt(t, vfs.NewMem(), true)
		t.Cleanup(func() { _ = s.Close() })
		others, err := ds.NewDatastore("", ds.WithPebbleDB(s.DB()), ds.WithPebbleWriteOptions(pebble.Sync))
		if err != nil {
			t.Fatal(err)
		}
		return blocktest.Store{
			Blockstore: block.NewView(s, block.NewOthers(others)),
			Keep: func(data []byte) {
				st := s.Stats()
				txn := &zodb.Txn{ID: zodb.TxnID{byte(st.Applied)}, Floor: uint64(st.Applied), Tid: st.LastTid + 1, Writes: []zodb.Write{
					{Oid: st.NextOid, Kind: zodb.WriteData, Hash: block.Sum(data), Data: data}}}
				if o, err := s.Apply(st.Applied+1, index.AppendCommit(nil, txn)); err != nil || o.Verdict != index.Committed {
					t.Fatal(o, err)
				}
			},
			Damage: func(data []byte) {
				for k, v := range rows(t, s) {
					if k[0] == 'r' && bytes.Contains([]byte(v), data) {
						v = v[:len(v)-1] + "?"
						if err := s.DB().Set([]byte(k), []byte(v), pebble.Sync); err != nil {
							t.Fatal(err)
						}
					}
				}
			},
		}
	})
}
