package index

import (
	"encoding/binary"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Pack has two kinds of log entries (integers big-endian; v: unsigned varint), and Apply judges both:
//
//	horizon    to 8 | flags 1 (bit 0: fence)
//	garbage    horizon 8 | scanned 8 | flags 1 (bit 0: fenced) | v objects x ( v oid - the one before | head 8 )
//
// A horizon hides the revisions superseded at or before it, and the deletions current at it, from everybody at that
// position of the log; it only rises. A garbage list hides whole objects. The rows are deleted later, by each peer for itself
// (sweep.go): no answer depends on whether they still are there, but for readers of snapshots that are older than the horizon.
const (
	entryHorizon entryKind = 8
	entryGarbage entryKind = 9

	flagFence  = 1
	flagFenced = 1
)

// MaxGarbage is how many objects one list names at most: Apply looks each of them up.
const MaxGarbage = 2048

// Garbage is a list of objects that a marking did not reach: from the root, over what was current at Horizon and over every
// record after it, up to and including the transaction Scanned.
//
// Apply accepts it if no transaction lies after Scanned; else the verdict is Rescan. A Fenced list is accepted, too, if every
// transaction after Scanned declared a snapshot at or after Horizon: what such a snapshot reaches is marked.
type Garbage struct {
	Horizon zodb.Tid
	Scanned zodb.Tid
	Fenced  bool
	Objects []Change // rising oids, with their heads; at most MaxGarbage
}

// AppendHorizon appends the entry that raises the horizon to `to`, or to the last transaction if that is older. fence refuses,
// from there on, transactions whose snapshots lie before it.
func AppendHorizon(dst []byte, id zodb.TxnID, to zodb.Tid, fence bool) []byte {
	dst = binary.BigEndian.AppendUint64(appendHead(dst, entryHorizon, id), uint64(to))
	if fence {
		return append(dst, flagFence)
	}
	return append(dst, 0)
}

// AppendGarbage appends the entry that removes g's objects.
func AppendGarbage(dst []byte, id zodb.TxnID, g *Garbage) []byte {
	dst = binary.BigEndian.AppendUint64(appendHead(dst, entryGarbage, id), uint64(g.Horizon))
	dst = binary.BigEndian.AppendUint64(dst, uint64(g.Scanned))
	var flags byte
	if g.Fenced {
		flags = flagFenced
	}
	dst = binary.AppendUvarint(append(dst, flags), uint64(len(g.Objects)))
	var before zodb.Oid
	for _, o := range g.Objects {
		dst = binary.AppendUvarint(dst, uint64(o.Oid-before))
		dst = binary.BigEndian.AppendUint64(dst, uint64(o.Tid))
		before = o.Oid
	}
	return dst
}

func (e *entry) readHorizon(r *reader) {
	e.horizon = zodb.Tid(r.uint64())
	flags := r.byte()
	if flags&^flagFence != 0 {
		r.fail("flags %#x", flags)
	}
	e.fence = flags&flagFence != 0
}

func (e *entry) readGarbage(r *reader) {
	g := &e.garbage
	g.Horizon, g.Scanned = zodb.Tid(r.uint64()), zodb.Tid(r.uint64())
	flags := r.byte()
	if flags&^flagFenced != 0 {
		r.fail("flags %#x", flags)
	}
	g.Fenced = flags&flagFenced != 0
	n := r.count(9)
	if n > MaxGarbage {
		r.fail("a list of %d objects", n)
		return
	}
	g.Objects = make([]Change, n)
	var before zodb.Oid
	for i := range g.Objects {
		step := zodb.Oid(r.uvarint())
		if i > 0 && step == 0 || before+step < before {
			r.fail("oids that do not rise")
			return
		}
		before += step
		g.Objects[i] = Change{Oid: before, Tid: zodb.Tid(r.uint64())}
	}
}

// pack judges a pack's entry. Repeating it does no harm, so that no outcome is remembered.
func (p *plan) pack(s *state, m memory, e *entry) error {
	if e.kind == entryHorizon {
		return p.raise(s, m, e)
	}
	g := &e.garbage
	overtaken := s.LastTid > g.Scanned && (!g.Fenced || s.Fence < g.Horizon || s.undeclared > g.Scanned)
	if s.Horizon < g.Horizon || overtaken {
		p.outcome.Verdict, p.outcome.Tid = Rescan, s.LastTid
		return nil
	}
	p.outcome.Verdict = Collected
	for _, o := range g.Objects {
		h, err := m.head(o.Oid)
		if err != nil {
			return err
		}
		if h.tid == 0 || h.tid != o.Tid || h.gone || h.tid > g.Horizon {
			continue // written since, or gone already
		}
		p.next.Objects--
		p.gone = append(p.gone, o)
		p.outcome.Oids = append(p.outcome.Oids, o.Oid)
	}
	return nil
}

func (p *plan) raise(s *state, m memory, e *entry) error {
	p.outcome.Verdict = Packed
	if to := min(e.horizon, s.LastTid); to > s.Horizon {
		digest, found, err := m.lastDigest(s.Horizon, to)
		if err != nil {
			return err
		}
		p.next.Horizon = to
		if found {
			p.next.HorizonDigest = digest
		}
	}
	if e.fence {
		p.next.Fence = max(s.Fence, min(e.horizon, s.LastTid))
	}
	p.outcome.Tid = p.next.Horizon
	return nil
}

// superseded tells whether a revision with this successor (0: none) lies behind the horizon.
func superseded(next, horizon zodb.Tid) bool { return next != 0 && next <= horizon }

// packed tells whether a revision lies behind the horizon: superseded there, or a deletion that was current there.
func packed(rev *Revision, horizon zodb.Tid) bool {
	return superseded(rev.Next, horizon) || rev.Kind == zodb.WriteDelete && rev.Tid <= horizon
}
