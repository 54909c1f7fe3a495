package node

import (
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

const (
	cacheShards = 64
	// tablePlaces is what an entry costs in the table, which is at least a quarter full.
	tablePlaces = 4 * 8
	// entryOverhead is what an entry costs besides its data.
	entryOverhead = headerSize + entryAlign - 1 + tablePlaces
	// Runs of 1<<runBits neighbours lie in one shard: reading ahead stays within its table for a while. With longer ones a few large records
	// would lie in few shards.
	runBits = 5
	// maxCached is the largest record kept, or half a shard: one must not push out the others.
	maxCached = 256 << 10
	// Data lies in pieces of a thirty-second of a shard, within these bounds.
	minPiece, maxPiece = 4 << 10, 64 << 10
)

// recordCache keeps the newest revisions that were read or written, in bounded memory. An entry is (oid, tid, until): it is what a
// reader at any position in [tid, until) sees. Only one revision of an object is kept. Entries leave in the order in which they
// came, but one that was used since it came, however often, is put behind the newest once more: so a hit writes nothing but one flag. A header lies before an
// entry's data, so that a hit has two places to wait for: the table's and this. There is no pointer in it that Go's collector would follow.
type recordCache struct {
	shards [cacheShards]shard
	limit  int          // bytes a shard
	most   int          // bytes of the largest record kept
	ahead  atomic.Int64 // records that were read ahead and then used; readahead takes them
	arena  *arena
}

type shard struct {
	mu     sync.Mutex // guards all below but closes; never held across I/O
	table  []uint64   // by oid, open addressing: see slot; 0 is free. Invariant: at most half of it is taken
	mapped []byte     // what table lies in, if that is not Go's
	shift  uint       // of oidHash: 64 - log2 of the table's length
	live   int        // entries that are in the table
	log    byteLog    // all entries, in the order in which they came
	first  uint64     // position of the oldest; the log's end if there is none
	closed bool

	// closes is how often an entry was closed or could have been: a fill that began before is not kept. Written under mu.
	closes atomic.Uint64
}

func newRecordCache(bytes int64) *recordCache {
	c := &recordCache{limit: int(bytes / cacheShards)}
	c.most = min(maxCached, c.limit/2)
	piece := min(max(minPiece, 1<<bits.Len(uint(c.limit/64))), maxPiece)
	c.arena = newArena(cacheShards*(c.limit+2*piece), piece)
	for i := range c.shards {
		c.shards[i].log.arena = c.arena
		c.shards[i].grow()
	}
	return c
}

// close gives the memory back; from then on nothing is found and nothing kept.
func (c *recordCache) close() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		mapped := s.mapped
		s.table, s.mapped, s.live, s.log, s.first, s.closed = nil, nil, 0, byteLog{}, 0, true
		s.grow()
		unmapMemory(mapped)
		s.mu.Unlock()
	}
	c.arena.close()
}

func (c *recordCache) shard(oid zodb.Oid) *shard { return &c.shards[shardOf(oid)] }

// oidHash: multiplication spreads ranges handed out in strides of a power of two, too.
func oidHash(oid zodb.Oid) uint64 { return uint64(oid) * 0x9e3779b97f4a7c15 }

// shardOf: a run of neighbours lies in one shard, and the runs of a dense range are dealt out evenly, in an order that differs from
// range to range.
func shardOf(oid zodb.Oid) int {
	run := uint64(oid >> runBits)
	return int((run + run/cacheShards*0xd6e8feb86659fd93>>58) % cacheShards)
}

// tryGet copies what a reader at `at` sees into buf, if it is here, fits and nobody is busy in its shard.
func (c *recordCache) tryGet(oid zodb.Oid, at zodb.Tid, buf []byte) (int, zodb.Tid, bool) {
	s := c.shard(oid)
	if !s.mu.TryLock() {
		return 0, 0, false
	}
	return c.look(s, oid, at, buf)
}

// get is tryGet, and waits for who is busy.
func (c *recordCache) get(oid zodb.Oid, at zodb.Tid, buf []byte) (int, zodb.Tid, bool) {
	s := c.shard(oid)
	s.mu.Lock()
	return c.look(s, oid, at, buf)
}

// look unlocks s, which is locked.
func (c *recordCache) look(s *shard, oid zodb.Oid, at zodb.Tid, buf []byte) (int, zodb.Tid, bool) {
	defer s.mu.Unlock()
	e, pos := s.find(oid)
	if e == nil || at < e.tid() || at >= e.until() || e.size() > len(buf) {
		return 0, 0, false
	}
	s.log.read(pos+headerSize, buf[:e.size()])
	if e.flags()&(entryUsed|entryAhead) == entryAhead {
		c.ahead.Add(1)
	}
	e.mark(entryUsed)
	return e.size(), e.tid(), true
}

// has tells whether get would find what a reader at `at` sees, given room.
func (c *recordCache) has(oid zodb.Oid, at zodb.Tid) bool {
	s := c.shard(oid)
	s.mu.Lock()
	defer s.mu.Unlock()
	e, _ := s.find(oid)
	return e != nil && e.tid() <= at && at < e.until()
}

// expect makes room for so many entries before they come one by one.
func (c *recordCache) expect(entries uint64) {
	each := int(min(entries, uint64(c.limit*cacheShards/entryOverhead))/cacheShards*9/8) + 1 // some shards get more than others
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		if !s.closed {
			s.reserve(s.live + each)
		}
		s.mu.Unlock()
	}
}

// begin is to be called before the state is read for oid; its result goes to fill. It does not lock: what closed an entry was
// in the state before it counted.
func (c *recordCache) begin(oid zodb.Oid) uint64 { return c.shard(oid).closes.Load() }

// fill keeps a copy of what was read from the state, unless the shard's objects changed since begin.
func (c *recordCache) fill(rev *index.Revision, begun uint64) {
	if len(rev.Data) > c.most {
		return
	}
	until := zodb.MaxTid
	if rev.Next != 0 {
		until = rev.Next
	}
	s := c.shard(rev.Oid)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closes.Load() != begun {
		return
	}
	if e, _ := s.find(rev.Oid); e != nil && e.tid() >= rev.Tid && e.until() > e.tid() {
		return // what is here is as new
	}
	s.put(newHeader(rev.Oid, rev.Tid, until, len(rev.Data), 0), rev.Data, c.limit)
}

// beginAll is begin for every shard.
func (c *recordCache) beginAll() (begun [cacheShards]uint64) {
	for i := range c.shards {
		begun[i] = c.shards[i].closes.Load()
	}
	return begun
}

// fillAhead keeps a copy of a current revision that nobody asked for, where there is none of the object.
func (c *recordCache) fillAhead(rev *index.Revision, begun *[cacheShards]uint64) {
	if len(rev.Data) > c.most {
		return
	}
	n := shardOf(rev.Oid)
	s := &c.shards[n]
	s.mu.Lock()
	if s.closes.Load() == begun[n] && !s.has(rev.Oid) {
		s.bring(newHeader(rev.Oid, rev.Tid, zodb.MaxTid, len(rev.Data), entryAhead), rev.Data, c.limit)
	}
	s.mu.Unlock()
}

// applied closes the entries of a transaction's objects.
func (c *recordCache) applied(tid zodb.Tid, oids []zodb.Oid) {
	for _, oid := range oids {
		s := c.shard(oid)
		s.mu.Lock()
		s.closes.Add(1)
		if e, _ := s.find(oid); e != nil && e.until() > tid {
			e.setUntil(tid)
		}
		s.mu.Unlock()
	}
}

// keep brings what a transaction wrote. Between its applied and this there is no other applied or drop.
func (c *recordCache) keep(tid zodb.Tid, writes []zodb.Write) {
	for i := range writes {
		w := &writes[i]
		if w.Kind != zodb.WriteData || len(w.Data) > c.most {
			continue
		}
		s := c.shard(w.Oid)
		s.mu.Lock()
		if e, _ := s.find(w.Oid); e == nil || e.tid() < tid || e.until() <= tid { // else a reader was faster
			s.put(newHeader(w.Oid, tid, zodb.MaxTid, len(w.Data), 0), w.Data, c.limit)
		}
		s.mu.Unlock()
	}
}

// drop forgets objects that are gone.
func (c *recordCache) drop(oids []zodb.Oid) {
	for _, oid := range oids {
		s := c.shard(oid)
		s.mu.Lock()
		s.closes.Add(1)
		if e, _ := s.find(oid); e != nil {
			e.setUntil(e.tid()) // no reader is in [tid, tid)
		}
		s.mu.Unlock()
	}
}
