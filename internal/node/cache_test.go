package node

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/replica"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// content is what the model of the test stores for an object at a tid: nothing else has these bytes.
func content(oid zodb.Oid, tid zodb.Tid, size int) []byte {
	data := make([]byte, size)
	draw := rand.New(rand.NewPCG(uint64(oid), uint64(tid)))
	for i := range data {
		data[i] = byte(draw.Uint32())
	}
	return data
}

func TestTheCacheServesWhatItWasGivenWithinItsBounds(t *testing.T) {
	const oids = 3000
	for _, limit := range []int64{3 << 20, 8 << 20} { // the first is the smallest that a configuration allows
		for seed := range uint64(3) {
			draw := rand.New(rand.NewPCG(seed, uint64(limit)))
			c := newRecordCache(limit)
			newest := make([]zodb.Tid, oids)
			sizes := make([]int, oids)
			buf := make([]byte, maxCached)
			served := 0
			for tid := zodb.Tid(1); tid < 40_000; tid++ {
				oid := zodb.Oid(draw.IntN(oids))
				if draw.IntN(3) == 0 {
					sizes[oid], newest[oid] = draw.IntN(1<<draw.IntN(16)+1), tid
					c.applied(tid, []zodb.Oid{oid})
					if draw.IntN(4) > 0 { // else a copy
						c.keep(tid, []zodb.Write{{Oid: oid, Kind: zodb.WriteData, Data: content(oid, tid, sizes[oid])}})
					}
					continue
				}
				size, got, ok := c.get(oid, tid, buf)
				if ok && (got != newest[oid] || !bytes.Equal(buf[:size], content(oid, got, sizes[oid]))) {
					t.Fatalf("limit %d, seed %d: oid %s at %s: %d bytes of %s, want %d of %s", limit, seed, oid, tid, size, got, sizes[oid], newest[oid])
				}
				if ok {
					served++
				} else if newest[oid] != 0 {
					rev := index.Revision{Oid: oid, Tid: newest[oid], Data: content(oid, newest[oid], sizes[oid])}
					c.fill(&rev, c.begin(oid))
				}
			}
			if records, held := held(c); int64(held) > limit || records == 0 || served == 0 {
				t.Errorf("limit %d, seed %d: %d records of %d bytes, %d served", limit, seed, records, held, served)
			}
			pieces := len(c.arena.free)
			for i := range c.shards {
				pieces += len(c.shards[i].log.pieces)
			}
			if most := c.limit + 2*c.arena.piece; pieces*c.arena.piece > cacheShards*most {
				t.Errorf("limit %d, seed %d: %d pieces of %d bytes were taken", limit, seed, pieces, c.arena.piece)
			}
			c.close()
		}
	}
}

func TestWhatIsUsedStaysInTheCache(t *testing.T) {
	c := newRecordCache(3 << 20)
	defer c.close()
	buf := make([]byte, 1000)
	fill := func(oid zodb.Oid) {
		rev := index.Revision{Oid: oid, Tid: 1, Data: content(oid, 1, 1000)}
		c.fill(&rev, c.begin(oid))
	}
	fill(0)
	for oid := zodb.Oid(1); oid < 50_000; oid++ {
		fill(oid)
		if size, _, ok := c.get(0, 2, buf); !ok || !bytes.Equal(buf[:size], content(0, 1, 1000)) {
			t.Fatalf("after %d records, the one that is always used is there: %t", oid, ok)
		}
	}
	if _, _, ok := c.get(1, 2, buf); ok {
		t.Error("what nobody used stayed")
	}
}

func TestAClosedCacheHasNothing(t *testing.T) {
	c := newRecordCache(8 << 20)
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			buf := make([]byte, 100)
			for oid := range zodb.Oid(20_000) {
				if size, _, ok := c.tryGet(oid%100, 2, buf); ok && !bytes.Equal(buf[:size], content(oid%100, 1, 100)) {
					t.Error("other bytes")
				}
				rev := index.Revision{Oid: oid % 100, Tid: 1, Data: content(oid%100, 1, 100)}
				c.fill(&rev, c.begin(oid%100))
			}
		})
	}
	c.close()
	readers.Wait()
	if _, _, ok := c.get(1, 2, make([]byte, 100)); ok {
		t.Error("a closed cache serves")
	}
}

func TestATransactionThatIsTooOldIsSaidToBe(t *testing.T) {
	if err := verdict(index.Outcome{Verdict: index.TooOld}); !errors.Is(err, ErrTooOld) || !errors.Is(err, replica.ErrVoteLost) {
		t.Error(err)
	}
}

// The rows of a transaction may be read ahead before it is applied.
func TestWhatWasReadAheadOfItsApplyIsKept(t *testing.T) {
	c := newRecordCache(8 << 20)
	defer c.close()
	data := content(1, 5, 100)
	begun := c.beginAll()
	c.fillAhead(&index.Revision{Oid: 1, Tid: 5, Data: data}, &begun)
	buf := make([]byte, 100)
	if _, _, ok := c.get(1, 4, buf); ok {
		t.Error("a reader from before the transaction sees it")
	}
	c.applied(5, []zodb.Oid{1})
	c.keep(5, []zodb.Write{{Oid: 1, Kind: zodb.WriteData, Data: data}})
	if size, tid, ok := c.get(1, 5, buf); !ok || tid != 5 || !bytes.Equal(buf[:size], data) {
		t.Error("what a transaction wrote is not kept", size, tid, ok)
	}
}

// Large tables lie outside of Go's heap: the race detector does not look there, this does.
func TestLargeTablesHoldWhatSmallOnesDo(t *testing.T) {
	const records = cacheShards * leastMapped
	c := newRecordCache(256 << 20)
	fill := func(first, end zodb.Oid) {
		for oid := first; oid < end; oid++ {
			rev := index.Revision{Oid: oid, Tid: 1, Data: content(oid, 1, 8)}
			c.fill(&rev, c.begin(oid))
		}
	}
	buf := make([]byte, 8)
	holds := func(end zodb.Oid) {
		t.Helper()
		for oid := range end {
			if size, _, ok := c.get(oid, 2, buf); !ok || !bytes.Equal(buf[:size], content(oid, 1, 8)) {
				t.Fatalf("oid %s of %d: %t", oid, end, ok)
			}
		}
	}
	fill(0, 1000)
	c.expect(records / 2) // from the heap to a mapping
	fill(1000, records/2)
	holds(records / 2)
	for i := range c.shards {
		if runtime.GOOS == "linux" && c.shards[i].mapped == nil {
			t.Fatal("no mapping")
		}
	}
	fill(records/2, records) // from mapping to mapping, as they fill up
	holds(records)
	var readers sync.WaitGroup
	for n := range 3 {
		readers.Go(func() {
			buf := make([]byte, 8)
			for oid := zodb.Oid(n); oid < records; oid += 7 {
				if size, _, ok := c.tryGet(oid, 2, buf); ok && !bytes.Equal(buf[:size], content(oid, 1, 8)) {
					t.Error("other bytes")
				}
				c.drop([]zodb.Oid{oid})
			}
		})
	}
	c.expect(2 * records)
	c.close()
	readers.Wait()
}
