package node

import (
	"sync"
	"sync/atomic"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

const (
	cacheShards = 64
	// entryOverhead is what an entry costs besides its data: the struct, its map and ring slots, the allocator's rounding.
	entryOverhead = 160
	// maxCached is the largest record kept, or half a shard: one must not push out the others.
	maxCached = 256 << 10
)

// recordCache keeps the newest revisions that were read or written, in bounded memory. An entry is (oid, tid, until): it is what a
// reader at any position in [tid, until) sees. Only one revision of an object is kept. Eviction is by the clock
// algorithm, so that a hit writes nothing but one flag.
type recordCache struct {
	shards [cacheShards]shard
	limit  int          // bytes a shard
	most   int          // bytes of the largest record kept
	ahead  atomic.Int64 // records that were read ahead and then used; readahead takes them
}

type shard struct {
	mu      sync.RWMutex // guards all below; never held across I/O
	entries map[zodb.Oid]*cached
	ring    []*cached // every entry, in the clock's order
	hand    int
	bytes   int
	closes  uint64 // how often an entry was closed or could have been: a fill that began before is not kept
}

type cached struct {
	oid   zodb.Oid
	tid   zodb.Tid
	until zodb.Tid // MaxTid while current. Invariant: only falls, from MaxTid to the successor's tid, or to tid: nobody's
	slot  int
	ahead bool // read ahead: nobody has asked for it so far, unless used
	used  atomic.Bool
	data  []byte // never written again: a reader may copy it after unlocking
}

func newRecordCache(bytes int64) *recordCache {
	c := &recordCache{limit: int(bytes / cacheShards)}
	c.most = min(maxCached, c.limit/2)
	for i := range c.shards {
		c.shards[i].entries = make(map[zodb.Oid]*cached)
	}
	return c
}

func (c *recordCache) shard(oid zodb.Oid) *shard { return &c.shards[shardOf(oid)] }

// shardOf: neighbours lie in different shards; multiplication spreads ranges handed out in strides of a power of two.
func shardOf(oid zodb.Oid) int { return int(uint64(oid) * 0x9e3779b97f4a7c15 >> 58) }

// tryGet returns the data that a reader at `at` sees, if it is here and no writer is busy in its shard.
func (c *recordCache) tryGet(oid zodb.Oid, at zodb.Tid) ([]byte, zodb.Tid, bool) {
	s := c.shard(oid)
	if !s.mu.TryRLock() {
		return nil, 0, false
	}
	return c.look(s, oid, at)
}

// get is tryGet, and waits for a writer.
func (c *recordCache) get(oid zodb.Oid, at zodb.Tid) ([]byte, zodb.Tid, bool) {
	s := c.shard(oid)
	s.mu.RLock()
	return c.look(s, oid, at)
}

// look unlocks s, which is read-locked.
func (c *recordCache) look(s *shard, oid zodb.Oid, at zodb.Tid) ([]byte, zodb.Tid, bool) {
	e := s.entries[oid]
	if e == nil || at < e.tid || at >= e.until {
		s.mu.RUnlock()
		return nil, 0, false
	}
	data, tid := e.data, e.tid
	if !e.used.Load() && !e.used.Swap(true) && e.ahead {
		c.ahead.Add(1)
	}
	s.mu.RUnlock()
	return data, tid, true
}

// begin is to be called before the state is read for oid; its result goes to fill.
func (c *recordCache) begin(oid zodb.Oid) uint64 {
	s := c.shard(oid)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.closes
}

// fill keeps what was read from the state, unless the shard's objects changed since begin. rev.Data may not be written after it.
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
	if s.closes != begun {
		return
	}
	if e := s.entries[rev.Oid]; e != nil && e.tid >= rev.Tid && e.until > e.tid {
		return // what is here is as new
	}
	s.put(&cached{oid: rev.Oid, tid: rev.Tid, until: until, data: rev.Data}, c.limit)
}

// beginAll is begin for every shard.
func (c *recordCache) beginAll() (begun [cacheShards]uint64) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.RLock()
		begun[i] = s.closes
		s.mu.RUnlock()
	}
	return begun
}

// fillAhead keeps a current revision that nobody asked for, where there is none of the object. It takes rev.Data over.
func (c *recordCache) fillAhead(rev *index.Revision, begun *[cacheShards]uint64) {
	if len(rev.Data) > c.most {
		return
	}
	n := shardOf(rev.Oid)
	s := &c.shards[n]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closes != begun[n] || s.entries[rev.Oid] != nil {
		return
	}
	s.put(&cached{oid: rev.Oid, tid: rev.Tid, until: zodb.MaxTid, ahead: true, data: rev.Data}, c.limit)
}

// applied closes the entries of a transaction's objects; those with data are replaced by it.
func (c *recordCache) applied(tid zodb.Tid, oids []zodb.Oid, staged map[zodb.Oid][]byte) {
	for _, oid := range oids {
		s := c.shard(oid)
		s.mu.Lock()
		s.closes++
		if data, ok := staged[oid]; ok && len(data) <= c.most {
			s.put(&cached{oid: oid, tid: tid, until: zodb.MaxTid, data: data}, c.limit)
		} else if e := s.entries[oid]; e != nil && e.until > tid {
			e.until = tid
		}
		s.mu.Unlock()
	}
}

// drop forgets objects that are gone.
func (c *recordCache) drop(oids []zodb.Oid) {
	for _, oid := range oids {
		s := c.shard(oid)
		s.mu.Lock()
		s.closes++
		if e := s.entries[oid]; e != nil {
			e.until = e.tid // no reader is in [tid, tid)
		}
		s.mu.Unlock()
	}
}

// put replaces or adds an entry and makes room. REQUIRES: s.mu is held.
func (s *shard) put(e *cached, limit int) {
	if old := s.entries[e.oid]; old != nil {
		s.bytes -= len(old.data) + entryOverhead
		e.slot = old.slot
		s.ring[e.slot] = e
		e.used.Store(true)
	} else {
		e.slot = len(s.ring)
		s.ring = append(s.ring, e)
	}
	s.entries[e.oid] = e
	s.bytes += len(e.data) + entryOverhead
	for s.bytes > limit && len(s.ring) > 1 {
		if s.hand >= len(s.ring) {
			s.hand = 0
		}
		victim := s.ring[s.hand]
		if victim == e || victim.used.Swap(false) {
			s.hand++
			continue
		}
		last := len(s.ring) - 1
		s.ring[s.hand] = s.ring[last]
		s.ring[s.hand].slot = s.hand
		s.ring[last] = nil
		s.ring = s.ring[:last]
		s.bytes -= len(victim.data) + entryOverhead
		delete(s.entries, victim.oid)
	}
}
