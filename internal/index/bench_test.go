package index_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// BenchmarkApply is what a commit of 500 B records waits for behind its sync: Prepare ran beside that. Reported: the median.
func BenchmarkApply(b *testing.B) {
	for _, each := range []int{1, 10, 100} {
		b.Run(fmt.Sprint(each), func(b *testing.B) {
			s, err := index.Open(index.Config{Dir: b.TempDir(), FS: vfs.Default, Create: true})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			draw := rand.New(rand.NewPCG(1, 1))
			heads := map[zodb.Oid]zodb.Tid{}
			took := make([]time.Duration, 0, b.N)
			pos := index.Position(0)
			for i := range b.N {
				txn := zodb.Txn{ID: zodb.TxnID{byte(i), byte(i >> 8), byte(i >> 16)}, Status: ' ', Tid: zodb.Tid(1000 + i)}
				for k := range each {
					data := make([]byte, 500)
					for j := range data {
						data[j] = byte(draw.Uint32())
					}
					oid := zodb.Oid((i*each + k) % 2000)
					txn.Writes = append(txn.Writes, zodb.Write{Oid: oid, Base: heads[oid], Kind: zodb.WriteData, Hash: block.Sum(data), Data: data})
					heads[oid] = txn.Tid
				}
				entry := index.AppendCommit(nil, &txn)
				pos++
				s.Prepare(pos, entry, true)
				start := time.Now()
				o, err := s.Apply(pos, entry)
				took = append(took, time.Since(start))
				if err != nil || o.Verdict != index.Committed {
					b.Fatal(o, err)
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "p50-µs")
		})
	}
}
