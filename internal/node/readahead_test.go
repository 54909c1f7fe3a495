package node

import (
	"log/slog"
	"runtime"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// grouped makes a state with `per` objects of size bytes at the beginning of each group.
func grouped(t *testing.T, groups, per, size int) *index.Store {
	t.Helper()
	s, err := index.Open(index.Config{Dir: "db", FS: vfs.NewMem(), Create: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	data := make([]byte, size)
	hash := block.Sum(data)
	for g := range groups {
		txn := &zodb.Txn{ID: zodb.TxnID{1, byte(g), byte(g >> 8)}, Tid: zodb.Tid(10 + g), Status: ' '}
		for i := range per {
			txn.Writes = append(txn.Writes, zodb.Write{Oid: zodb.Oid(g*aheadOids + i), Kind: zodb.WriteData, Data: data, Hash: hash})
		}
		if _, err := s.Apply(s.Stats().Applied+1, index.AppendCommit(nil, txn)); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// missedAll asks for each group and waits until the reader has taken the last ask; then closes it, which waits for what it reads.
func missedAll(a *readahead, groups int, each func(g int)) {
	for g := range groups {
		for len(a.asks) > 0 {
			runtime.Gosched()
		}
		a.missed(zodb.Oid(g*aheadOids+3), false)
		each(g)
	}
	for len(a.asks) > 0 {
		runtime.Gosched()
	}
	a.close()
}

func TestReadingAheadStopsWhereNobodyUsesIt(t *testing.T) {
	const groups, per = 1500, 3
	c := newRecordCache(64 << 20)
	missedAll(newReadahead(c, grouped(t, groups, per, 10), false), groups, func(int) {})
	records, _ := held(c)
	most := aheadCredit/aheadCost + groups/aheadProbe + 1
	if read := records / per; read > most || read < aheadCredit/aheadCost {
		t.Errorf("%d of %d groups were read, of which none was used", read, groups)
	}
}

func TestReadingAheadGoesOnWhereItIsUsed(t *testing.T) {
	const groups, per = 300, 12
	c := newRecordCache(64 << 20)
	missedAll(newReadahead(c, grouped(t, groups, per, 10), false), groups, func(g int) {
		for i := range per {
			for oid := zodb.Oid(g*aheadOids + i); ; runtime.Gosched() {
				if _, _, ok := c.get(oid, zodb.MaxTid-1, make([]byte, 10)); ok {
					break
				}
			}
		}
	})
	if records, _ := held(c); records != groups*per {
		t.Errorf("%d of %d records were read ahead", records, groups*per)
	}
}

func TestReadingAheadStaysWithinTheCache(t *testing.T) {
	const groups = 40
	for _, size := range []int{100, 3000, 20_000, 60_000} {
		c := newRecordCache(3 << 20)
		s := grouped(t, groups, 4, size)
		for _, warm := range []bool{false, true} {
			missedAll(newReadahead(c, s, warm), groups, func(g int) { _, _, _ = c.get(zodb.Oid(g*aheadOids), 1<<40, make([]byte, size)) })
			if _, bytes := held(c); bytes > 3<<20 {
				t.Errorf("records of %d bytes, warm %t: %d bytes are held", size, warm, bytes)
			}
		}
	}
}

// Loads that come before the reader read their groups in its place: each is read, whoever does it, also one that takes a load too long.
func TestLoadsHelpToReadEverything(t *testing.T) {
	for _, size := range []int{100, 30_000} {
		const groups, per = 60, 12
		s := grouped(t, groups, per, size)
		c := newRecordCache(256 << 20)
		a := newReadahead(c, s, true)
		var loads sync.WaitGroup
		for n := range 3 {
			loads.Go(func() {
				for g := range groups {
					a.help(zodb.Oid((g*7+n*20)%groups*aheadOids + 5))
				}
			})
		}
		loads.Wait()
		for a.warming.Load() {
			runtime.Gosched()
		}
		if records, _ := held(c); records != groups*per {
			t.Errorf("records of %d bytes: %d of %d are in memory", size, records, groups*per)
		}
		a.close()
	}
}

// A scattered load does not read the state for itself before it reads its group for all.
func TestAScatteredLoadReadsItsGroupInstead(t *testing.T) {
	const groups, per = 60, 12
	c := newRecordCache(64 << 20)
	a := newReadahead(c, grouped(t, groups, per, 100), false)
	defer a.close()
	const oid = 7*aheadOids + 5
	for !c.has(50*aheadOids, zodb.MaxTid-1) { // until the reader has begun, which forgets what was taken
		a.missed(50*aheadOids, false)
		runtime.Gosched()
	}
	a.warming.Store(true)
	if a.instead(oid) {
		t.Error("a load among neighbours helped")
	}
	a.scattered.Store(1)
	if !a.instead(oid) {
		t.Error("a scattered load did not help")
	}
	if n := a.scattered.Load(); n != 1+scatterCost {
		t.Errorf("it counts for %d loads that fetched a block", n-1)
	}
	for i := range zodb.Oid(per) {
		if !c.has(7*aheadOids+i, zodb.MaxTid-1) {
			t.Errorf("record %d of the group is not in memory", i)
		}
	}
	if a.instead(oid) {
		t.Error("a group was read twice")
	}
	a.warming.Store(false)
	if a.instead(9 * aheadOids) {
		t.Error("a load helped when everything had been read")
	}
}

func TestLoadsHelpOnlyWhileTheyAreScattered(t *testing.T) {
	c := newRecordCache(8 << 20)
	a := newReadahead(c, grouped(t, 1, 1, 10), false)
	defer a.close()
	helped := func(loads int, used int64) (n int) {
		for range loads {
			c.ahead.Add(used)
			if a.scatters() {
				n++
			}
		}
		return n
	}
	const slow = 2*mostScattered + 1
	for range 2 {
		if n := helped(1000, scatterCost+1); n > slow {
			t.Errorf("%d loads help among neighbours", n)
		}
		if n := helped(1000, scatterCost-1); n < 1000-slow {
			t.Errorf("%d of 1000 scattered loads help", n)
		}
	}
}

func TestADatabaseIsReadAtTheOpenIfItFits(t *testing.T) {
	s := grouped(t, 200, 2, 1000)
	c := newRecordCache(64 << 20)
	if runtime.GOMAXPROCS(0) > 1 && !c.fits(s.Stats()) || newRecordCache(1<<20).fits(index.Stats{Objects: 400, DataSize: 800 << 10}) {
		t.Error("what fits is not what fits")
	}
	a := newReadahead(c, s, true)
	for records := 0; records < 400; records, _ = held(c) {
		runtime.Gosched()
	}
	a.close()
	// A reader who begins while a transaction is applied may not put its older revision behind it.
	begun := c.beginAll()
	c.applied(500, []zodb.Oid{0})
	rev, err := s.Load(0, zodb.MaxTid)
	if err != nil {
		t.Fatal(err)
	}
	c.drop([]zodb.Oid{0})
	c.fillAhead(&rev, &begun)
	if _, _, ok := c.get(0, 600, make([]byte, 1000)); ok {
		t.Error("a stale revision was served")
	}
}

func held(c *recordCache) (records, bytes int) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		records += s.live
		bytes += s.bytes()
		s.mu.Unlock()
	}
	return records, bytes
}
