package index

import (
	"fmt"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// head is what an entry is judged against: an object's newest revision.
type head struct {
	tid  zodb.Tid // 0: none
	gone bool     // it is a deletion
}

// serial is the tid that a client can have seen: none of a deleted object.
func (h head) serial() zodb.Tid {
	if h.gone {
		return 0
	}
	return h.tid
}

// memory is what decide asks of the state before the entry.
type memory interface {
	// head returns an object's newest revision.
	head(oid zodb.Oid) (head, error)
	// outcome returns the remembered outcome of a transaction, which no entry at floor or before can have.
	outcome(id zodb.TxnID, floor Position) (Outcome, bool, error)
	// lastDigest returns the digest of the last transaction with after < tid <= to, false if there is none.
	lastDigest(after, to zodb.Tid) (zodb.Hash, bool, error)
}

// plan is what Apply is to write for one entry.
type plan struct {
	outcome Outcome
	record  zodb.Record // Committed
	digest  zodb.Hash   // of record
	writes  []zodb.Write
	copied  bool     // a copy of another storage's transaction
	gone    []Change // Collected: whole objects, with their last revisions
	next    state    // after the entry
}

// remembered tells whether the outcome is to be found by its transaction id.
func (p *plan) remembered() bool {
	switch p.outcome.Verdict {
	case Committed, Stale, TooOld, Aborted, Regressed, Behind:
		return !p.outcome.Repeated
	default:
		return false
	}
}

// commits tells whether the plan brings a transaction.
func (p *plan) commits() bool { return p.outcome.Verdict == Committed && !p.outcome.Repeated }

// decide is Apply's judgement, without its writing: a function of the state and the entry alone. No clock, no randomness, no
// order of a map: each replica comes to the same plan.
func decide(s *state, m memory, pos Position, raw []byte, scratch []byte) (plan, error) {
	p := plan{next: *s}
	p.next.Applied = pos
	p.outcome.Position = pos
	if pos != s.Applied+1 {
		return p, fmt.Errorf("entry %d handed to a state at %d", pos, s.Applied)
	}
	if len(raw) == 0 { // Raft's own: a leader's first entry
		return p, nil
	}
	e, err := decodeEntry(raw)
	if err != nil {
		return p, fmt.Errorf("entry %d: %w", pos, err)
	}
	p.outcome.TxnID = e.txn.ID
	if e.kind == entryOids {
		p.outcome.Verdict, p.outcome.FirstOid, p.outcome.Count = OidsGiven, s.NextOid, e.count
		p.next.NextOid += zodb.Oid(e.count)
		return p, nil
	}
	if e.kind == entryHorizon || e.kind == entryGarbage {
		err := p.pack(s, m, &e)
		return p, err
	}
	floor := Position(e.txn.Floor) // 0 of a tombstone, which does not know it: its transaction may have been decided before this open
	known, ok, err := m.outcome(e.txn.ID, floor)
	switch {
	case err != nil:
		return p, err
	case ok:
		p.outcome = known
		p.outcome.Repeated = true
	case e.kind == entryTombstone:
		p.outcome.Verdict = Aborted
	case floor+outcomeWindow < pos:
		p.outcome.Verdict = TooOld
	default:
		err = p.commit(s, m, &e.txn, scratch)
	}
	return p, err
}

// commit judges a transaction that is not known yet.
func (p *plan) commit(s *state, m memory, t *zodb.Txn, scratch []byte) error {
	tid := t.Tid
	if tid <= s.LastTid && !t.Restore {
		tid = s.LastTid + 1
	}
	if tid <= s.LastTid || tid >= zodb.MaxTid {
		p.outcome.Verdict = Regressed
		return nil
	}
	if t.Snapshot != 0 && t.Snapshot < s.Fence {
		p.outcome.Verdict, p.outcome.Tid = Behind, s.Fence
		return nil
	}
	for _, r := range t.Reads {
		h, err := m.head(r.Oid)
		if err != nil {
			return err
		}
		if h.serial() != r.Serial {
			p.stale(r.Oid, h)
			return nil
		}
	}
	p.writes, p.copied = t.Writes, t.Restore
	p.record = zodb.Record{
		Prev: s.Digest, Tid: tid, ID: t.ID, Status: t.Status,
		User: t.User, Description: t.Description, Extension: t.Extension, Author: t.Author,
		Writes: make([]zodb.Write, len(t.Writes)),
	}
	p.outcome.Oids = make([]zodb.Oid, len(t.Writes))
	next := p.next
	for i := range t.Writes {
		w := &t.Writes[i]
		h, err := m.head(w.Oid)
		if err != nil {
			return err
		}
		if !t.Restore && h.serial() != w.Base {
			p.writes, p.outcome.Oids = nil, nil
			p.stale(w.Oid, h)
			return nil
		}
		p.outcome.Oids[i] = w.Oid
		p.record.Writes[i] = zodb.Write{Oid: w.Oid, Base: h.serial(), Kind: w.Kind, Hash: w.Hash, Blob: w.Blob}
		next.count(w, h)
	}
	p.digest = p.record.Digest(scratch)
	next.LastTid, next.Digest = tid, p.digest
	if t.Snapshot == 0 {
		next.undeclared = tid
	}
	p.next = next
	p.outcome.Verdict, p.outcome.Tid = Committed, tid
	if !p.copied {
		p.outcome.Writes = p.writes
	}
	return nil
}

func (p *plan) stale(oid zodb.Oid, h head) {
	p.outcome.Verdict, p.outcome.StaleOid, p.outcome.Serial = Stale, oid, h.serial()
}

// count keeps the sums and the oid counter right for one more revision.
func (s *state) count(w *zodb.Write, h head) {
	existed, exists := h.serial() != 0, w.Kind == zodb.WriteData
	if exists && !existed {
		s.Objects++
	} else if existed && !exists {
		s.Objects--
	}
	s.Records++
	s.DataSize += uint64(len(w.Data))
	s.written = max(s.written, w.Oid+1)
	s.NextOid = max(s.NextOid, w.Oid+1)
}
