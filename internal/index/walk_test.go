package index_test

import (
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// A sweep that deletes rows while a walk is under way brings back nothing that a garbage list removed before it; an object that was
// written again since has its new revision.
func TestAWalkLeavesOutGarbageThatIsSweptMeanwhile(t *testing.T) {
	type row struct {
		oid zodb.Oid
		tid zodb.Tid
	}
	all := []row{{0, 10}, {3, 20}, {4, 10}}
	for name, c := range map[string]struct {
		walk func(*index.Store, func(index.Revision) bool) error
		want []row
	}{
		"Newest": {
			func(s *index.Store, yield func(index.Revision) bool) error { return s.Newest(0, 9, yield) },
			[]row{{0, 10}, {4, 10}}, // it may leave out what was garbage once
		},
		"Current": {
			func(s *index.Store, yield func(index.Revision) bool) error { return s.Current(0, zodb.MaxTid, yield) },
			all,
		},
		"Records": {
			func(s *index.Store, yield func(index.Revision) bool) error {
				return s.Records(func(rev index.Revision, err error) bool { return err == nil && yield(rev) })
			},
			all,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := openAt(t, vfs.NewMem(), true)
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
			commit := func(id byte, tid zodb.Tid, oids ...zodb.Oid) {
				txn := &zodb.Txn{ID: zodb.TxnID{id}, Tid: tid, Status: ' '}
				for _, oid := range oids {
					txn.Writes = append(txn.Writes, zodb.Write{Oid: oid, Kind: zodb.WriteData, Data: []byte("x"), Hash: block.Sum([]byte("x"))})
				}
				apply(index.AppendCommit(nil, txn))
			}
			commit(1, 10, 0, 1, 2, 3, 4)
			apply(index.AppendHorizon(nil, zodb.TxnID{2}, 10, true))
			apply(index.AppendGarbage(nil, zodb.TxnID{3}, &index.Garbage{Horizon: 10, Scanned: 10, Objects: []index.Change{{Oid: 1, Tid: 10}, {Oid: 2, Tid: 10}, {Oid: 3, Tid: 10}}}))
			commit(4, 20, 3)
			var met []row
			if err := c.walk(s, func(rev index.Revision) bool {
				if rev.Oid == 0 {
					if err := s.Sweep(t.Context(), nil, nil); err != nil {
						t.Error(err)
					}
				}
				met = append(met, row{rev.Oid, rev.Tid})
				return true
			}); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(met, c.want) {
				t.Errorf("met %v, want %v", met, c.want)
			}
		})
	}
}
