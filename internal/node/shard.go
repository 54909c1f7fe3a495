package node

import (
	"math/bits"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// What follows REQUIRES that mu is held.

// A place in the table is 1 + the number of an entry, and the lowest bits of its oid, which tell neighbours apart without a look at
// the entry.
const (
	tagBits = 16
	tagMask = 1<<tagBits - 1
)

func placeOf(oid zodb.Oid, number uint64) uint64 { return (number+1)<<tagBits | uint64(oid)&tagMask }

// home is where the search for oid begins.
func (s *shard) home(oid zodb.Oid) int { return int(oidHash(oid) >> s.shift) }

// slot is where oid is in the table, or would be.
func (s *shard) slot(oid zodb.Oid) int {
	mask, tag := len(s.table)-1, uint64(oid)&tagMask
	for i := s.home(oid); ; i = (i + 1) & mask {
		if p := s.table[i]; p == 0 || p&tagMask == tag && s.entryAt(p).oid == oid {
			return i
		}
	}
}

func (s *shard) entryAt(place uint64) *entry { return s.entry(place>>tagBits - 1) }

func (s *shard) entry(number uint64) *entry { return &s.ring[number&uint64(len(s.ring)-1)] }

// find returns the entry of oid, nil if there is none.
func (s *shard) find(oid zodb.Oid) *entry {
	if p := s.table[s.slot(oid)]; p != 0 {
		return s.entryAt(p)
	}
	return nil
}

// put replaces or adds an entry and makes room for it.
func (s *shard) put(e entry, data []byte, limit int) {
	if s.closed {
		return
	}
	if old := s.find(e.oid); old != nil {
		old.flags |= entryDead
		s.remove(e.oid)
		e.flags |= entryUsed
	}
	need := len(data) + entryOverhead
	for s.bytes+need > limit && s.first < s.next {
		s.evict()
	}
	e.size, e.pos = uint32(len(data)), s.data.append(data)
	s.add(e)
	s.bytes += need
}

// add puts an entry at the ring's end and into the table.
func (s *shard) add(e entry) {
	if s.next-s.first == uint64(len(s.ring)) || 2*s.live >= len(s.table) {
		s.grow()
	}
	*s.entry(s.next) = e
	s.table[s.slot(e.oid)] = placeOf(e.oid, s.next)
	s.next++
	s.live++
}

// evict takes the oldest entry out; one that was used since it came becomes the newest.
func (s *shard) evict() {
	e := *s.entry(s.first)
	s.first++
	if e.flags&entryDead == 0 {
		s.remove(e.oid)
		if e.flags&entryUsed != 0 {
			e.flags &^= entryUsed | entryAhead
			e.pos = s.data.again(e.pos, int(e.size))
			s.add(e)
			s.cut()
			return
		}
	}
	s.bytes -= int(e.size) + entryOverhead
	s.cut()
}

// cut gives up the data before the oldest entry's.
func (s *shard) cut() {
	if s.first < s.next {
		s.data.cut(s.entry(s.first).pos)
	} else {
		s.data.cut(s.data.end)
	}
}

// remove takes oid out of the table, in which it is, and moves up what may have been pushed on by it.
func (s *shard) remove(oid zodb.Oid) {
	mask := len(s.table) - 1
	hole := s.slot(oid)
	s.live--
	for i := hole; ; {
		s.table[hole] = 0
		for {
			i = (i + 1) & mask
			p := s.table[i]
			if p == 0 {
				return
			}
			if home := s.home(s.entryAt(p).oid); (i-home)&mask >= (i-hole)&mask { // its home is not behind the hole
				s.table[hole] = p
				break
			}
		}
		hole = i
	}
}

// leastRing is the length of a new shard's ring; its table has twice as many places.
const leastRing = 16

// grow makes ring and table, which fill up, twice as large.
func (s *shard) grow() { s.reserve(int(s.next-s.first)+1, s.live+1) }

// reserve makes ring and table large enough for so many entries, and so many that are in the table.
func (s *shard) reserve(entries, live int) {
	if n := atLeast(leastRing, entries); n > len(s.ring) {
		ring := make([]entry, n)
		for i := s.first; i < s.next; i++ {
			ring[i&uint64(n-1)] = *s.entry(i)
		}
		s.ring = ring
	}
	n := atLeast(2*leastRing, 2*live)
	if n <= len(s.table) {
		return
	}
	s.table, s.shift = make([]uint64, n), uint(64-bits.Len(uint(n-1)))
	clear(s.table) // writes to fresh pages, which a read would map twice
	for i := s.first; i < s.next; i++ {
		if e := s.entry(i); e.flags&entryDead == 0 {
			s.table[s.slot(e.oid)] = placeOf(e.oid, i)
		}
	}
}

// atLeast is least, doubled until it is n or more.
func atLeast(least, n int) int {
	for least < n {
		least *= 2
	}
	return least
}
