package index

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Apply is State.Apply: one batch, not synced, in the write-ahead log behind the entry that it came from.
func (s *Store) Apply(pos Position, raw []byte) (Outcome, error) {
	p, b, err := s.takePrepared(pos, raw)
	if b == nil && err == nil {
		p, b, err = s.prepare(pos, raw)
	}
	if err != nil {
		return Outcome{}, err
	}
	if err := errors.Join(b.Commit(pebble.NoSync), b.Close()); err != nil {
		return Outcome{}, fmt.Errorf("apply entry %d: %w", pos, err)
	}
	s.dense.Store(p.copied)
	// Before applies rises: a Head that remembers what it read has seen all this, even if the heads of a huge transaction push each other out.
	s.gone.add(p.gone)
	s.current.Store(&p.next)
	s.headsMu.Lock()
	s.applies++
	for i := range p.writes {
		s.heads.put(p.writes[i].Oid, head{p.record.Tid, p.writes[i].Kind == zodb.WriteDelete})
	}
	for _, o := range p.gone {
		s.heads.put(o.Oid, head{})
	}
	if p.remembered() {
		s.outcomes.put(p.outcome.TxnID, pos)
	}
	s.headsMu.Unlock()
	s.readers.outdate()
	return p.outcome, nil
}

// prepared is what Apply will commit, made while the log syncs the entry that it comes from.
type prepared struct {
	pos   Position
	raw   []byte
	plan  plan
	batch *pebble.Batch
	laid  bool // its revisions are written already: batch is the rest
}

// Prepare does a part of Apply(pos, raw) ahead, for a commit entry that may become the next one: it decides. It changes nothing that is
// seen: Apply of another entry in its place throws it away. It is called by who calls Apply, and raw stays as it is until then.
//
// sure says that nothing but a crash or a broken store keeps this entry from being the next one: it is in the write-ahead log, though not synced,
// and needs no other voter. Then its revisions are written behind it, which is most of the work. Until Apply they lie above LastTid, where no
// reader looks and no head is; after a crash between the two the entry is applied again, and writes the same rows.
func (s *Store) Prepare(pos Position, raw []byte, sure bool) {
	if pos != s.current.Load().Applied+1 || !isCommit(raw) || s.prepared != nil {
		return
	}
	p, err := s.decide(pos, raw)
	if err != nil {
		return // Apply meets it again, and tells
	}
	laid := sure && p.commits()
	if laid && s.lay(&p) != nil || !laid && len(raw) > layBytes {
		return // as above; what is large and not sure yet is left to Apply
	}
	if b, err := s.batch(&p, laid); err == nil {
		s.prepared = &prepared{pos, raw, p, b, laid}
	}
}

// takePrepared returns what Prepare made of this entry, nil if it made something of another one, or nothing.
func (s *Store) takePrepared(pos Position, raw []byte) (plan, *pebble.Batch, error) {
	got := s.prepared
	if got == nil {
		return plan{}, nil, nil
	}
	s.prepared = nil
	if got.pos == pos && bytes.Equal(got.raw, raw) {
		return got.plan, got.batch, nil
	}
	if got.laid {
		return plan{}, nil, errors.Join(fmt.Errorf("apply entry %d: it is not the one that was sure to come", pos), got.batch.Close())
	}
	return plan{}, nil, got.batch.Close()
}

func (s *Store) decide(pos Position, raw []byte) (plan, error) {
	m := applyReader{s: s}
	p, err := decide(s.current.Load(), &m, pos, raw, s.scratch)
	if err != nil {
		return p, errors.Join(fmt.Errorf("apply: %w", err), m.close())
	}
	if err := m.close(); err != nil {
		return p, fmt.Errorf("apply entry %d: %w", pos, err)
	}
	return p, nil
}

// prepare decides on an entry and fills the batch that makes it so.
func (s *Store) prepare(pos Position, raw []byte) (plan, *pebble.Batch, error) {
	p, err := s.decide(pos, raw)
	if err != nil {
		return p, nil, err
	}
	large := len(raw) > layBytes && p.commits()
	if large { // nothing will come in its place
		if err := s.lay(&p); err != nil {
			return p, nil, fmt.Errorf("apply entry %d: %w", pos, err)
		}
	}
	b, err := s.batch(&p, large)
	return p, b, err
}

// size is about how long the rows of its revisions are, in bytes.
func (p *plan) size() int {
	n := 256 + 64*len(p.writes)
	for i := range p.writes {
		n += len(p.writes[i].Data)
	}
	return n
}

// batch makes a plan's batch, with its revisions where they are not laid yet.
func (s *Store) batch(p *plan, laid bool) (*pebble.Batch, error) {
	var b *pebble.Batch
	if p.commits() && !laid {
		b = s.db.NewBatchWithSize(p.size() + 256 + 24*len(p.writes))
		_ = s.setRevisions(p, func() (*pebble.Batch, error) { return b, nil }) // fails only where that does
	} else {
		b = s.db.NewBatchWithSize(256 + 24*len(p.writes))
	}
	if err := s.fill(b, p); err != nil {
		return nil, errors.Join(fmt.Errorf("apply entry %d: %w", p.next.Applied, err), b.Close())
	}
	return b, nil
}

func (s *Store) fill(b *pebble.Batch, p *plan) error {
	if p.commits() {
		s.scratch = appendHeader(s.scratch[:0], &p.record, p.digest)
		op := b.SetDeferred(9, len(s.scratch))
		txnKey(op.Key[:0], p.record.Tid)
		copy(op.Value, s.scratch)
		_ = op.Finish() // fails only for a batch with an index
	}
	for _, o := range p.gone {
		s.key = goneKey(s.key[:0], o.Oid)
		if err := b.Set(s.key, o.Tid.Bytes(), nil); err != nil {
			return err
		}
	}
	if p.remembered() {
		s.key = outcomeKey(s.key[:0], p.outcome.Position)
		s.scratch = appendOutcome(s.scratch[:0], &p.outcome)
		if err := b.Set(s.key, s.scratch, nil); err != nil {
			return err
		}
	}
	if pos := p.next.Applied; pos > outcomeWindow {
		s.key = outcomeKey(s.key[:0], pos-outcomeWindow-1)
		if err := b.Delete(s.key, nil); err != nil {
			return err
		}
	}
	s.scratch = p.next.append(s.scratch[:0])
	return b.Set([]byte{rowState}, s.scratch, nil)
}

// layBytes is about how much of a transaction's revisions one batch takes. Each is memory of its own, in which Pebble writes and reads it;
// a transaction may have half a gigabyte.
const layBytes = 512 << 10

// lay writes the revisions of an entry that is sure to be applied next, before the batch that makes them seen. Until then, and behind a
// crash before it, they are what Prepare tells of.
func (s *Store) lay(p *plan) error {
	b := s.db.NewBatchWithSize(min(p.size(), 2*layBytes))
	err := s.setRevisions(p, func() (*pebble.Batch, error) {
		if b.Len() < layBytes {
			return b, nil
		}
		err := errors.Join(b.Commit(pebble.NoSync), b.Close())
		b = s.db.NewBatchWithSize(2 * layBytes)
		return b, err
	})
	if err != nil {
		return errors.Join(err, b.Close())
	}
	return errors.Join(b.Commit(pebble.NoSync), b.Close())
}

// setRevisions puts the rows of a transaction's revisions into batches, each kind in the order of its keys: a memtable, into which they go
// one by one, looks for the place of each behind that of the one before.
func (s *Store) setRevisions(p *plan, batch func() (*pebble.Batch, error)) error {
	tid := p.record.Tid
	s.order = s.order[:0]
	for i := range p.writes {
		s.order = append(s.order, i)
	}
	slices.SortFunc(s.order, func(i, j int) int { return cmp.Compare(p.writes[i].Oid, p.writes[j].Oid) })
	for _, i := range s.order {
		b, err := batch()
		if err != nil {
			return err
		}
		w := &p.writes[i]
		head := recordHeadLen
		if w.Blob.Exists() {
			head += blobHeadLen
		}
		op := b.SetDeferred(recordKeyLen, head+len(w.Data))
		recordKey(op.Key[:0], w.Oid, tid)
		op.Value[0] = rowKind(w.Kind, w.Blob)
		if w.Blob.Exists() {
			copy(op.Value[recordHeadLen:], w.Blob.Root[:])
			binary.BigEndian.PutUint64(op.Value[recordHeadLen+len(w.Blob.Root):], uint64(w.Blob.Size))
		}
		copy(op.Value[head:], w.Data)
		_ = op.Finish() // fails only for a batch with an index
	}
	slices.SortFunc(s.order, func(i, j int) int { return bytes.Compare(p.writes[i].Hash[:], p.writes[j].Hash[:]) })
	for _, i := range s.order {
		b, err := batch()
		if err != nil {
			return err
		}
		w := &p.writes[i]
		if w.Kind == zodb.WriteData {
			op := b.SetDeferred(hashKeyLen, 0)
			hashKey(op.Key[:0], w.Hash, w.Oid, tid)
			_ = op.Finish()
		}
		if w.Blob.Exists() {
			op := b.SetDeferred(hashKeyLen, 0)
			blobKey(op.Key[:0], w.Blob.Root, w.Oid, tid)
			_ = op.Finish()
		}
	}
	return nil
}

// applyReader is what decide knows of the rows; it opens an iterator only when memory does not answer.
type applyReader struct {
	s      *Store
	iter   *pebble.Iterator
	sweeps int // before iter was made
	key    []byte
	read   bool // the last head came from the rows
}

func (m *applyReader) open() error {
	m.sweeps = m.s.gone.soFar()
	it, err := m.s.db.NewIter(recordBounds())
	if err == nil {
		m.iter = it
	}
	return err
}

func (m *applyReader) close() error {
	if m.iter == nil {
		return nil
	}
	it := m.iter
	m.iter = nil
	return damage(0, 0, it.Close())
}

func (m *applyReader) head(oid zodb.Oid) (head, error) {
	st := m.s.current.Load()
	if oid >= st.written {
		return head{}, nil
	}
	m.s.headsMu.Lock()
	h, ok := m.s.heads.get(oid)
	m.s.headsMu.Unlock()
	if ok {
		return h, nil
	}
	m.read = true
	m.key = recordKey(m.key[:0], oid, st.LastTid) // what is above is not applied
	for {
		if m.iter == nil {
			if err := m.open(); err != nil {
				return head{}, err
			}
		}
		h, err := m.seek(oid)
		if err != nil || h.tid == 0 {
			return head{}, err
		}
		last, sweeps, err := m.s.gone.look(oid)
		switch {
		case err != nil:
			return head{}, err
		case sweeps != m.sweeps: // it may have been garbage, whose rows a sweep deleted and forgot behind the iterator's back
			if err := m.close(); err != nil {
				return head{}, err
			}
		case h.tid <= last:
			return head{}, nil
		default:
			return h, nil
		}
	}
}

// seek reads the row behind the key, no head if it is none of the object's.
func (m *applyReader) seek(oid zodb.Oid) (head, error) {
	if !m.iter.SeekPrefixGE(m.key) {
		return head{}, damage(oid, 0, m.iter.Error())
	}
	_, tid, err := parseRecordKey(m.iter.Key())
	if err != nil {
		return head{}, err
	}
	v, err := m.iter.ValueAndErr()
	if err != nil {
		return head{}, &Corrupt{Oid: oid, Tid: tid, Cause: err}
	}
	if len(v) < recordHeadLen {
		return head{}, &Corrupt{Oid: oid, Tid: tid, Cause: fmt.Errorf("a row of %d bytes", len(v))}
	}
	return head{tid, zodb.WriteKind(v[0]) == zodb.WriteDelete}, nil
}

func (m *applyReader) lastDigest(after, to zodb.Tid) (digest zodb.Hash, found bool, err error) {
	it, err := m.s.db.NewIter(&pebble.IterOptions{LowerBound: txnKey(nil, after+1), UpperBound: txnKey(nil, to+1)})
	if err != nil {
		return digest, false, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	if !it.Last() {
		return digest, false, damage(0, 0, it.Error())
	}
	h, _, err := headerAt(it)
	return h.Digest, err == nil, err
}

func (m *applyReader) outcome(id zodb.TxnID, floor Position) (Outcome, bool, error) {
	return m.s.lookup(id, floor < m.s.opened)
}

// lookup finds a remembered outcome; old says that it may be from before this Open.
func (s *Store) lookup(id zodb.TxnID, old bool) (Outcome, bool, error) {
	applied := s.current.Load().Applied
	s.headsMu.Lock()
	pos, ok := s.outcomes.get(id)
	s.headsMu.Unlock()
	if ok && pos+outcomeWindow < applied {
		return Outcome{}, false, nil
	}
	if ok {
		return s.outcomeAt(pos)
	}
	if !old {
		return Outcome{}, false, nil
	}
	return s.scanOutcomes(id)
}

func (s *Store) outcomeAt(pos Position) (Outcome, bool, error) {
	v, closer, err := s.db.Get(outcomeKey(nil, pos))
	if errors.Is(err, pebble.ErrNotFound) {
		return Outcome{}, false, nil
	}
	if err != nil {
		return Outcome{}, false, fmt.Errorf("read the outcome at %d: %w", pos, damage(0, 0, err))
	}
	o, err := decodeOutcome(pos, v)
	return o, err == nil, errors.Join(err, closer.Close())
}

// scanOutcomes reads the rows from before this Open: rare, since only a proposal that outlived its peer's restart asks.
func (s *Store) scanOutcomes(id zodb.TxnID) (_ Outcome, _ bool, err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{rowOutcome}, UpperBound: outcomeKey(nil, s.opened+1)})
	if err != nil {
		return Outcome{}, false, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.Last(); ok; ok = it.Prev() {
		pos := Position(binary.BigEndian.Uint64(it.Key()[1:]))
		o, err := decodeOutcome(pos, it.Value())
		if err != nil {
			return Outcome{}, false, err
		}
		if o.TxnID == id {
			return o, true, nil
		}
	}
	return Outcome{}, false, damage(0, 0, it.Error())
}

// Outcome is State.Outcome.
func (s *Store) Outcome(id zodb.TxnID) (Outcome, bool, error) { return s.lookup(id, true) }
