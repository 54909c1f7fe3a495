package index_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Stores that are closed while they compact, again and again: nothing is lost, nothing is called broken, and the tables of
// compactions that were given up do not stay.
func TestACloseGivesCompactionsUp(t *testing.T) {
	fs := vfs.NewCrashableMem()
	const oids, size = 300, 2000
	next := zodb.Tid(10)
	data, bases := map[zodb.Oid][]byte{}, map[zodb.Oid]zodb.Tid{}
	draw := rand.New(rand.NewPCG(1, 5))
	for round := range 10 {
		s, err := index.Open(index.Config{
			Dir: "db", FS: fs, Create: true, MemTableBytes: 128 << 10, Logger: slog.New(slog.DiscardHandler),
			Broken: func(err error) { t.Errorf("round %d: %v", round, err) },
		})
		if err != nil {
			t.Fatal(err)
		}
		for range 12 {
			txn := &zodb.Txn{ID: zodb.TxnID{1, byte(next), byte(next >> 8)}, Tid: next, Status: ' '}
			for oid := range zodb.Oid(oids) {
				if draw.IntN(4) != 0 {
					continue
				}
				b := make([]byte, size)
				for i := range b {
					b[i] = byte(draw.Uint32())
				}
				txn.Writes = append(txn.Writes, zodb.Write{Oid: oid, Base: bases[oid], Kind: zodb.WriteData, Data: b, Hash: block.Sum(b)})
				data[oid], bases[oid] = b, next
			}
			if _, err := s.Apply(s.Stats().Applied+1, index.AppendCommit(nil, txn)); err != nil {
				t.Fatal(err)
			}
			next++
		}
		for oid, want := range data {
			if rev, err := s.Load(oid, zodb.MaxTid); err != nil || !bytes.Equal(rev.Data, want) {
				t.Fatalf("round %d, oid %s: %d bytes, %v", round, oid, len(rev.Data), err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s := openAt(t, fs, false)
	r, err := s.Verify(t.Context(), nil)
	if err != nil || len(r.Damaged) > 0 {
		t.Error(err, r.Damaged)
	}
	if err := s.Compact(t.Context()); err != nil {
		t.Error(err)
	}
	known := s.DiskSize()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if there := tableBytes(t, fs); there > known {
		t.Errorf("%d bytes of tables are there, %d are known", there, known)
	}
}

func tableBytes(t *testing.T, fs vfs.FS) (size uint64) {
	t.Helper()
	names, err := fs.List("db")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if !strings.HasSuffix(name, ".sst") {
			continue
		}
		info, err := fs.Stat(fs.PathJoin("db", name))
		if err != nil {
			t.Fatal(fmt.Errorf("stat %s: %w", name, err))
		}
		size += uint64(info.Size())
	}
	return size
}
