package index_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// One table with everything that is compressed in a way of its own: what compresses and what does not, superseded revisions, the
// table's own blocks, and a record of more than MinLZ takes. Pebble panicked in its compaction, which ends the process, and the next
// open's.
func TestATableHoldsRecordsOfEverySizeAndKind(t *testing.T) {
	mem := vfs.NewMem()
	s := openOn(t, mem)
	draw := rand.NewPCG(1, 3)
	next, bases, want := zodb.Tid(1), map[zodb.Oid]zodb.Tid{}, map[zodb.Oid][]byte{}
	commit := func(records map[zodb.Oid][]byte) {
		t.Helper()
		txn := &zodb.Txn{ID: zodb.TxnID{byte(next)}, Status: ' ', Tid: next}
		for oid, data := range records {
			txn.Writes = append(txn.Writes, zodb.Write{Oid: oid, Base: bases[oid], Kind: zodb.WriteData, Data: data, Hash: block.Sum(data)})
			bases[oid], want[oid] = next, data
		}
		if _, err := s.Apply(s.Stats().Applied+1, index.AppendCommit(nil, txn)); err != nil {
			t.Fatal(err)
		}
		next++
	}
	for round := range 4 {
		records := map[zodb.Oid][]byte{}
		for n := range 400 {
			text := fmt.Sprintf("an object's state, number %d of round %d; ", n, round)
			records[zodb.Oid(n+1)] = bytes.Repeat([]byte(text), 20)
			noise := make([]byte, 700)
			for i := range noise {
				noise[i] = byte(draw.Uint64())
			}
			records[zodb.Oid(10_000+n)] = noise
		}
		commit(records)
	}
	for _, size := range []int{8<<20 - 100, 8 << 20, 9 << 20, 33 << 20} {
		commit(map[zodb.Oid][]byte{zodb.Oid(20_000 + size): bytes.Repeat([]byte("0123456789abcdef"), size/16)})
	}
	if err := s.Compact(context.Background()); err != nil {
		t.Fatal(err)
	}
	shut(t, s)
	s = openOn(t, mem)
	defer shut(t, s)
	for oid, data := range want {
		if rev, err := s.Load(oid, zodb.MaxTid); err != nil || !bytes.Equal(rev.Data, data) {
			t.Fatalf("oid %s: %d bytes, want %d, %v", oid, len(rev.Data), len(data), err)
		}
	}
	if r, err := s.Verify(t.Context(), nil); err != nil || len(r.Damaged) > 0 {
		t.Error(err, r.Damaged)
	}
}
