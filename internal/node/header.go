package node

import (
	"encoding/binary"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// header lies before an entry's data in the shard's log:
//
//	0       8       16      24     28      32
//	+-------+-------+-------+------+-------+
//	|  oid  |  tid  | until | size | flags |
//	+-------+-------+-------+------+-------+
//
// until is MaxTid while the revision is current. Invariant: it only falls, from MaxTid to the successor's tid, or to tid: nobody's.
// size is the data's, in bytes.
type header [headerSize]byte

const (
	headerSize = 32
	// Entries begin at multiples of entryAlign.
	entryAlign = 8
)

const (
	entryUsed  = 1 << iota // since it came
	entryAhead             // read ahead: nobody has asked for it so far, unless used
	entryDead              // not in the table any more: a newer revision is, or none
)

func newHeader(oid zodb.Oid, tid, until zodb.Tid, size int, flags uint32) (h header) {
	binary.LittleEndian.PutUint64(h[0:], uint64(oid))
	binary.LittleEndian.PutUint64(h[8:], uint64(tid))
	h.setUntil(until)
	binary.LittleEndian.PutUint32(h[24:], uint32(size)) // at most maxCached
	h.setFlags(flags)
	return h
}

func (h *header) oid() zodb.Oid   { return zodb.Oid(binary.LittleEndian.Uint64(h[0:])) }
func (h *header) tid() zodb.Tid   { return zodb.Tid(binary.LittleEndian.Uint64(h[8:])) }
func (h *header) until() zodb.Tid { return zodb.Tid(binary.LittleEndian.Uint64(h[16:])) }
func (h *header) size() int       { return int(binary.LittleEndian.Uint32(h[24:])) }
func (h *header) flags() uint32   { return binary.LittleEndian.Uint32(h[28:]) }

func (h *header) setUntil(tid zodb.Tid) { binary.LittleEndian.PutUint64(h[16:], uint64(tid)) }
func (h *header) setFlags(flags uint32) { binary.LittleEndian.PutUint32(h[28:], flags) }

// mark sets a flag, without writing what is there already: other processors have the line.
func (h *header) mark(flag uint32) {
	if f := h.flags(); f&flag == 0 {
		h.setFlags(f | flag)
	}
}
