package index

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Memory is the State in maps: the oracle that Store is held against, and the state of tests that need no disk.
type Memory struct {
	mu       sync.RWMutex // guards everything
	closed   bool
	state    state
	records  map[zodb.Oid][]Revision // oldest first
	txns     []Header
	outcomes map[zodb.TxnID]Outcome
	gone     map[zodb.Oid]zodb.Tid // removed by a garbage list, up to that revision, and not swept yet
}

// NewMemory makes an empty state.
func NewMemory() *Memory {
	return &Memory{
		state:   state{Stats: Stats{NextOid: 1}},
		records: make(map[zodb.Oid][]Revision), outcomes: make(map[zodb.TxnID]Outcome),
		gone: make(map[zodb.Oid]zodb.Tid),
	}
}

// memoryReader is what decide asks; Memory's lock is held.
type memoryReader struct{ m *Memory }

func (r memoryReader) head(oid zodb.Oid) (head, error) {
	revs := r.m.records[oid]
	if len(revs) == 0 {
		return head{}, nil
	}
	last := revs[len(revs)-1]
	if last.Tid <= r.m.gone[oid] {
		return head{}, nil
	}
	return head{last.Tid, last.Kind == zodb.WriteDelete}, nil
}

func (r memoryReader) outcome(id zodb.TxnID, _ Position) (Outcome, bool, error) {
	o, ok := r.m.outcomes[id]
	return o, ok && o.Position+outcomeWindow >= r.m.state.Applied, nil
}

func (r memoryReader) lastDigest(after, to zodb.Tid) (zodb.Hash, bool, error) {
	for _, h := range slices.Backward(r.m.txns) {
		if h.Tid <= to {
			return h.Digest, h.Tid > after, nil
		}
	}
	return zodb.Hash{}, false, nil
}

// Apply is State.Apply.
func (m *Memory) Apply(pos Position, raw []byte) (Outcome, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, err := decide(&m.state, memoryReader{m}, pos, bytes.Clone(raw), nil)
	if err != nil {
		return Outcome{}, fmt.Errorf("apply: %w", err)
	}
	m.state = p.next
	if p.remembered() {
		o := p.outcome
		o.Oids, o.Writes, o.StaleOid, o.Serial = nil, nil, 0, 0 // what the row keeps
		m.outcomes[o.TxnID] = o
	}
	for _, o := range p.gone {
		m.gone[o.Oid] = o.Tid
	}
	if p.outcome.Verdict != Committed || p.outcome.Repeated {
		return p.outcome, nil
	}
	rec := &p.record
	h := Header{
		Tid: rec.Tid, ID: rec.ID, Status: rec.Status, Digest: p.digest, Prev: rec.Prev, Oids: slices.Clone(p.outcome.Oids),
		User: filled(rec.User), Description: filled(rec.Description), Extension: filled(rec.Extension), Author: filled(rec.Author),
	}
	m.txns = append(m.txns, h)
	for _, w := range p.writes {
		rev := Revision{Oid: w.Oid, Tid: rec.Tid, Kind: w.Kind, Hash: w.Hash, Size: len(w.Data), Blob: w.Blob}
		if w.Kind == zodb.WriteData {
			rev.Data = filled(w.Data)
		}
		m.records[w.Oid] = append(m.records[w.Oid], rev)
	}
	return p.outcome, nil
}

// filled copies b; the copy of nothing is empty, not nil.
func filled(b []byte) []byte { return append([]byte{}, b...) }

// Stats is State.Stats.
func (m *Memory) Stats() Stats {
	m.mu.RLock()
	defer m.mu.RUnlock()
	st := m.state.Stats
	st.Records, st.DataSize = 0, 0
	for _, revs := range m.records {
		for _, rev := range revs {
			st.Records++
			st.DataSize += uint64(rev.Size)
		}
	}
	return st
}

// left are the revisions of an object, oldest first, that are not packed.
func (m *Memory) left(oid zodb.Oid) []Revision {
	var left []Revision
	for i := range m.records[oid] {
		rev := m.find(oid, i, true)
		if rev.Tid > m.gone[oid] && !packed(&rev, m.state.Horizon) {
			left = append(left, rev)
		}
	}
	return left
}

// Sweep is State.Sweep.
func (m *Memory) Sweep(context.Context, *Survey, func(done, total uint64)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	has := func(h *Header, oid zodb.Oid) bool {
		return h.Tid > m.state.Horizon || slices.ContainsFunc(m.records[oid], func(r Revision) bool { return r.Tid == h.Tid })
	}
	for oid := range m.records {
		if left := m.left(oid); len(left) > 0 {
			m.records[oid] = left
		} else {
			delete(m.records, oid)
		}
	}
	clear(m.gone)
	var txns []Header
	for _, h := range m.txns {
		before := len(h.Oids)
		h.Oids = slices.DeleteFunc(slices.Clone(h.Oids), func(oid zodb.Oid) bool { return !has(&h, oid) })
		h.Packed = h.Packed || len(h.Oids) < before
		if h.Tid > m.state.Horizon || len(h.Oids) > 0 {
			txns = append(txns, h)
		}
	}
	m.txns = txns
	return nil
}

// find returns a copy of the revision at place i of oid's history.
func (m *Memory) find(oid zodb.Oid, i int, data bool) Revision { return pick(m.records[oid], i, data) }

// pick returns a copy of the revision at place i of revs.
func pick(revs []Revision, i int, data bool) Revision {
	rev := revs[i]
	rev.Next = 0
	if i+1 < len(revs) {
		rev.Next = revs[i+1].Tid
	}
	if rev.Kind == zodb.WriteData && data {
		rev.Data = filled(rev.Data)
	} else {
		rev.Data = nil
	}
	return rev
}

// Load is State.Load.
func (m *Memory) Load(oid zodb.Oid, at zodb.Tid) (Revision, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.load(oid, m.left(oid), at)
}

// LoadPinned is State.LoadPinned.
func (m *Memory) LoadPinned(oid zodb.Oid, at zodb.Tid) (Revision, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.load(oid, m.records[oid], at)
}

func (m *Memory) load(oid zodb.Oid, revs []Revision, at zodb.Tid) (Revision, error) {
	if m.closed {
		return Revision{}, ErrClosed
	}
	if len(revs) == 0 {
		return Revision{Oid: oid}, ErrNotFound
	}
	i, _ := slices.BinarySearchFunc(revs, at+1, func(r Revision, t zodb.Tid) int { return cmp.Compare(r.Tid, t) })
	if i == 0 {
		return Revision{Oid: oid, Next: revs[0].Tid}, ErrNoRevision
	}
	rev := pick(revs, i-1, true)
	rev.Hash = zodb.Hash{} // as Store: nobody waits for a hash
	if rev.Kind == zodb.WriteDelete {
		return rev, ErrNotFound
	}
	return rev, nil
}

// LoadSerial is State.LoadSerial.
func (m *Memory) LoadSerial(oid zodb.Oid, tid zodb.Tid) (Revision, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, rev := range m.left(oid) {
		if rev.Tid == tid && rev.Kind == zodb.WriteData {
			rev.Next = 0
			return rev, nil
		}
	}
	return Revision{}, ErrNotFound
}

// Head is State.Head.
func (m *Memory) Head(oid zodb.Oid) (zodb.Tid, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	h, err := memoryReader{m}.head(oid)
	return h.serial(), err
}

// Heads is State.Heads.
func (m *Memory) Heads(oids []zodb.Oid, each func(i int, serial zodb.Tid)) error {
	for i, oid := range oids {
		serial, err := m.Head(oid)
		if err != nil {
			return err
		}
		each(i, serial)
	}
	return nil
}

// History is State.History.
func (m *Memory) History(oid zodb.Oid, n int) ([]Revision, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	revs := m.left(oid)
	if len(revs) == 0 {
		return nil, ErrNotFound
	}
	var out []Revision
	for i := len(revs) - 1; i >= 0 && len(out) < n; i-- {
		out = append(out, pick(revs, i, false))
	}
	return out, nil
}

// Transactions is State.Transactions.
func (m *Memory) Transactions(from, to zodb.Tid, yield func(Header) bool) error {
	m.mu.RLock()
	txns, horizon := m.txns, m.state.Horizon
	m.mu.RUnlock()
	for _, h := range txns {
		if h.Tid < from || h.Tid > to {
			continue
		}
		if h.Tid <= horizon {
			h.Status = 'p'
			h.Oids = slices.DeleteFunc(slices.Clone(h.Oids), func(oid zodb.Oid) bool {
				m.mu.RLock()
				defer m.mu.RUnlock()
				return !slices.ContainsFunc(m.left(oid), func(r Revision) bool { return r.Tid == h.Tid })
			})
			if len(h.Oids) == 0 {
				continue
			}
		}
		if !yield(h) {
			return nil
		}
	}
	return nil
}

// Outcome is State.Outcome.
func (m *Memory) Outcome(id zodb.TxnID) (Outcome, bool, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return memoryReader{m}.outcome(id, 0)
}

// Find is State.Find.
func (m *Memory) Find(h zodb.Hash) (Revision, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, oid := range slices.Sorted(maps.Keys(m.records)) {
		for _, rev := range m.left(oid) {
			if rev.Kind == zodb.WriteData && rev.Hash == h {
				rev.Next = 0
				return rev, nil
			}
		}
	}
	return Revision{}, ErrNotFound
}

// Records is State.Records.
func (m *Memory) Records(yield func(Revision, error) bool) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, oid := range slices.Sorted(maps.Keys(m.records)) {
		revs := m.left(oid)
		for i := len(revs) - 1; i >= 0; i-- {
			if !yield(pick(revs, i, true), nil) {
				return nil
			}
		}
	}
	return nil
}

// Close is State.Close.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}
