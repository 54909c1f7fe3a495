package node

import (
	"math/bits"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// What follows REQUIRES that mu is held.

// slot is where oid is in the table, or would be.
func (s *shard) slot(oid zodb.Oid) int {
	mask := len(s.table) - 1
	// The highest bits chose the shard.
	for i := int(oidHash(oid) << 6 >> s.shift); ; i = (i + 1) & mask {
		if n := s.table[i]; n == 0 || s.entry(n-1).oid == oid {
			return i
		}
	}
}

func (s *shard) entry(number uint64) *entry { return &s.ring[number&uint64(len(s.ring)-1)] }

// find returns the entry of oid, nil if there is none.
func (s *shard) find(oid zodb.Oid) *entry {
	if n := s.table[s.slot(oid)]; n != 0 {
		return s.entry(n - 1)
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
	s.table[s.slot(e.oid)] = s.next + 1
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
			n := s.table[i]
			if n == 0 {
				return
			}
			home := int(oidHash(s.entry(n-1).oid) << 6 >> s.shift)
			if (i-home)&mask >= (i-hole)&mask { // its home is not behind the hole
				s.table[hole] = n
				break
			}
		}
		hole = i
	}
}

// grow makes ring and table, which fill up, twice as large.
func (s *shard) grow() {
	const least = 16
	if n := max(least, 2*len(s.ring)); s.next-s.first == uint64(len(s.ring)) {
		ring := make([]entry, n)
		for i := s.first; i < s.next; i++ {
			ring[i&uint64(n-1)] = *s.entry(i)
		}
		s.ring = ring
	}
	n := max(2*least, len(s.table))
	for n <= 2*s.live {
		n *= 2
	}
	if n == len(s.table) {
		return
	}
	s.table, s.shift = make([]uint64, n), uint(64-bits.Len(uint(n-1)))
	clear(s.table) // writes to fresh pages, which a read would map twice
	for i := s.first; i < s.next; i++ {
		if e := s.entry(i); e.flags&entryDead == 0 {
			s.table[s.slot(e.oid)] = i + 1
		}
	}
}
