package node

import (
	"math/bits"
	"unsafe"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// What follows REQUIRES that mu is held.

// A place in the table is 1 + the position of an entry in units of entryAlign, and the lowest bits of its oid, which tell neighbours apart without
// a look at the entry. The position has 48 bits: enough for a petabyte through one shard.
const (
	tagBits = 16
	tagMask = 1<<tagBits - 1
)

func placeOf(oid zodb.Oid, pos uint64) uint64 {
	return (pos/entryAlign+1)<<tagBits | uint64(oid)&tagMask
}

func positionOf(place uint64) uint64 { return (place>>tagBits - 1) * entryAlign }

// Neighbours have neighbouring homes, 1<<lineBits of them: reading ahead waits once for a line of the table.
const (
	lineBits = 3
	lineMask = 1<<lineBits - 1
)

// home is where the search for oid begins.
func (s *shard) home(oid zodb.Oid) int {
	return int(oidHash(oid>>lineBits)>>s.shift)&^lineMask | int(oid&lineMask)
}

// slot is where oid is in the table, or would be.
func (s *shard) slot(oid zodb.Oid) int {
	mask, tag := len(s.table)-1, uint64(oid)&tagMask
	for i := s.home(oid); ; i = (i + 1) & mask {
		if p := s.table[i]; p == 0 || p&tagMask == tag && s.log.header(positionOf(p)).oid() == oid {
			return i
		}
	}
}

// find returns the entry of oid and where it is, nil if there is none. The header is good until the shard is unlocked or changed.
func (s *shard) find(oid zodb.Oid) (*header, uint64) {
	if p := s.table[s.slot(oid)]; p != 0 {
		pos := positionOf(p)
		return s.log.header(pos), pos
	}
	return nil, 0
}

func (s *shard) has(oid zodb.Oid) bool { return s.table[s.slot(oid)] != 0 }

// put replaces or adds an entry and makes room for it.
func (s *shard) put(h header, data []byte, limit int) {
	oid := h.oid()
	if old, _ := s.find(oid); old != nil {
		old.mark(entryDead)
		s.remove(oid)
		h.mark(entryUsed)
	}
	s.bring(h, data, limit)
}

// bring adds an entry of an object that has none, and makes room for it.
func (s *shard) bring(h header, data []byte, limit int) {
	if s.closed {
		return
	}
	oid := h.oid()
	for s.bytes()+len(data)+entryOverhead > limit && s.first < s.log.end {
		s.evict()
	}
	pos := s.begin()
	s.log.append(h[:])
	s.log.append(data)
	s.add(oid, pos)
}

// begin is where an entry is to be appended.
func (s *shard) begin() uint64 {
	alone := s.first == s.log.end
	pos := s.log.begin()
	if alone {
		s.first = pos
	}
	return pos
}

// bytes is what all entries take, dead ones and the table's part, too.
func (s *shard) bytes() int { return int(s.log.end-s.first) + s.live*tablePlaces }

// add puts the entry at pos, the log's last, into the table.
func (s *shard) add(oid zodb.Oid, pos uint64) {
	if 2*(s.live+1) > len(s.table) {
		s.grow()
	}
	s.table[s.slot(oid)] = placeOf(oid, pos)
	s.live++
}

// evict takes the oldest entry out; one that was used since it came becomes the newest.
func (s *shard) evict() {
	pos := s.first
	h := *s.log.header(pos)
	s.first = s.log.behind(pos, h.size())
	if h.flags()&entryDead == 0 {
		s.remove(h.oid())
		if h.flags()&entryUsed != 0 {
			h.setFlags(0)
			at := s.begin()
			s.log.append(h[:])
			s.log.again(pos+headerSize, h.size())
			s.add(h.oid(), at)
		}
	}
	s.log.cut(s.first)
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
			if home := s.home(s.log.header(positionOf(p)).oid()); (i-home)&mask >= (i-hole)&mask { // its home is not behind the hole
				s.table[hole] = p
				break
			}
		}
		hole = i
	}
}

// leastTable is the length of a new shard's table.
const leastTable = 32

// leastMapped is the length of a table, a power of two, from which on it lies outside of Go's heap: four pages of the usual size.
const leastMapped = 2048

// grow makes the table, which fills up, twice as large.
func (s *shard) grow() { s.reserve(s.live + 1) }

// reserve makes the table large enough for so many entries.
func (s *shard) reserve(live int) {
	n := leastTable
	for n < 2*live {
		n *= 2
	}
	if n <= len(s.table) {
		return
	}
	old, mapped := s.table, s.mapped
	s.table, s.mapped = makeTable(n)
	s.shift = uint(64 - bits.Len(uint(n-1)))
	for _, p := range old {
		if p != 0 {
			s.table[s.slot(s.log.header(positionOf(p)).oid())] = p
		}
	}
	unmapMemory(mapped)
}

// makeTable gives n free places. Large tables are not the Go collector's, which would begin to collect because of those that an
// open makes; mapped is for unmapMemory.
func makeTable(n int) (table []uint64, mapped []byte) {
	const size = int(unsafe.Sizeof(table[0]))
	if n >= leastMapped {
		mapped = mapMemory(n * size)
	}
	if mapped == nil {
		return make([]uint64, n), nil
	}
	touchMemory(mapped)
	return unsafe.Slice((*uint64)(unsafe.Pointer(&mapped[0])), n), mapped
}
