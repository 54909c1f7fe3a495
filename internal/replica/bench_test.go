package replica_test

import (
	"context"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/replica"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// countingFS counts the syncs of write-ahead logs.
type countingFS struct {
	vfs.FS
	syncs atomic.Int64
}

type countingFile struct {
	vfs.File
	syncs *atomic.Int64
}

func (f countingFile) Sync() error     { f.syncs.Add(1); return f.File.Sync() }
func (f countingFile) SyncData() error { f.syncs.Add(1); return f.File.SyncData() }
func (f countingFile) SyncTo(n int64) (bool, error) {
	full, err := f.File.SyncTo(n)
	if full {
		f.syncs.Add(1)
	}
	return full, err
}

func (c *countingFS) wrap(name string, f vfs.File, err error) (vfs.File, error) {
	if err != nil || len(name) < 4 || name[len(name)-4:] != ".log" {
		return f, err
	}
	return countingFile{f, &c.syncs}, nil
}

func (c *countingFS) Create(name string, cat vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := c.FS.Create(name, cat)
	return c.wrap(name, f, err)
}

func (c *countingFS) ReuseForWrite(old, name string, cat vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := c.FS.ReuseForWrite(old, name, cat)
	return c.wrap(name, f, err)
}

// BenchmarkCommit takes 500 B through Vote and Finish beside the floor: one synced Pebble batch of that size in the same
// instance. Reported: the median, and syncs of the write-ahead log a commit. On a quiet 2-core machine: see docs/adr/0002.
func BenchmarkCommit(b *testing.B) {
	for _, size := range []int{500, 5000, 64 << 10} {
		data := string(make([]byte, size))
		b.Run("floor/"+sizeName(size), func(b *testing.B) {
			p, fs := benchPeer(b)
			v := make([]byte, size+130)
			measure(b, fs, func(i int) {
				batch := p.store.DB().NewBatch()
				if err := batch.Set([]byte{'/', byte(i), byte(i >> 8), byte(i >> 16)}, v, nil); err != nil {
					b.Fatal(err)
				}
				if err := batch.Commit(pebble.Sync); err != nil {
					b.Fatal(err)
				}
			})
		})
		b.Run("1writer/"+sizeName(size), func(b *testing.B) {
			p, fs := benchPeer(b)
			var base zodb.Tid
			measure(b, fs, func(int) { base = p.commit(b, txn(write(7, base, data))) })
		})
	}
	for _, writers := range []int{4, 16, 64} {
		b.Run("writers/"+sizeName(writers), func(b *testing.B) {
			p, fs := benchPeer(b)
			data := string(make([]byte, 500))
			b.SetParallelism(writers / 2)
			before, begun := fs.syncs.Load(), time.Now()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				oid, err := p.NewOids(context.Background(), 1)
				if err != nil {
					b.Error(err)
				}
				var base zodb.Tid
				for pb.Next() {
					base = p.commit(b, txn(write(oid, base, data)))
				}
			})
			b.ReportMetric(float64(b.N)/time.Since(begun).Seconds(), "commits/s")
			b.ReportMetric(float64(fs.syncs.Load()-before)/float64(b.N), "syncs/op")
		})
	}
}

func sizeName(n int) string { return strconv.Itoa(n) }

func benchPeer(b *testing.B) (*peer, *countingFS) {
	b.Helper()
	fs := &countingFS{FS: vfs.Default}
	s, err := index.Open(index.Config{Dir: b.TempDir(), FS: fs, Create: true, Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	r, err := replica.Open(context.Background(), replica.Config{DB: s.DB(), State: s, Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	p := &peer{r, s}
	b.Cleanup(func() { p.close(b) })
	return p, fs
}

func measure(b *testing.B, fs *countingFS, commit func(i int)) {
	b.Helper()
	took := make([]time.Duration, 0, b.N)
	before := fs.syncs.Load()
	b.ResetTimer()
	for i := range b.N {
		begun := time.Now()
		commit(i)
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "p99-µs")
	b.ReportMetric(float64(fs.syncs.Load()-before)/float64(b.N), "syncs/op")
}
