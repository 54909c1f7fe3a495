package index

import (
	"log/slog"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Apply and a vote ask for many heads through one iterator, which keeps seeing what a sweep deletes and forgets beside it: the verdict must not
// depend on how far that is.
func TestAHeadIsNoGarbageThatIsSweptBesideIt(t *testing.T) {
	for _, who := range []string{"Apply", "Heads"} {
		s, err := Open(Config{Dir: "db", FS: vfs.NewMem(), Create: true, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		apply := func(entry []byte) {
			t.Helper()
			if _, err := s.Apply(s.Stats().Applied+1, entry); err != nil {
				t.Fatal(err)
			}
		}
		txn := &zodb.Txn{ID: zodb.TxnID{1}, Tid: 10, Status: ' '}
		for oid := range zodb.Oid(3) {
			txn.Writes = append(txn.Writes, zodb.Write{Oid: oid, Kind: zodb.WriteData, Data: []byte("x"), Hash: block.Sum([]byte("x"))})
		}
		apply(AppendCommit(nil, txn))
		apply(AppendHorizon(nil, zodb.TxnID{2}, 10, true))
		apply(AppendGarbage(nil, zodb.TxnID{3}, &Garbage{Horizon: 10, Scanned: 10, Objects: []Change{{Oid: 2, Tid: 10}}}))
		s.heads = newRecent[zodb.Oid, head](headCache) // as behind so many other objects
		sweep := func() {
			if err := s.Sweep(t.Context(), nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		var got [2]zodb.Tid
		if who == "Heads" {
			err = s.Heads([]zodb.Oid{0, 2}, func(i int, serial zodb.Tid) {
				got[i] = serial
				if i == 0 {
					sweep()
				}
			})
		} else {
			m := applyReader{s: s} // as in decide
			for i, oid := range []zodb.Oid{0, 2} {
				var h head
				if h, err = m.head(oid); err != nil {
					break
				}
				if got[i] = h.serial(); i == 0 {
					sweep()
				}
			}
			if err := m.close(); err != nil {
				t.Error(err)
			}
		}
		if err != nil || got != [2]zodb.Tid{10, 0} {
			t.Errorf("%s: %v, want 10 and 0; %v", who, got, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
