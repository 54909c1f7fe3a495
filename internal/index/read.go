package index

import (
	"bytes"
	"encoding/binary"
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Load is State.Load.
func (s *Store) Load(oid zodb.Oid, at zodb.Tid) (Revision, error) {
	b, err := s.begin(oid)
	if err != nil {
		return Revision{}, err
	}
	r, err := s.readers.get()
	if err != nil {
		return Revision{}, err
	}
	defer s.readers.put(r)
	return r.loadFrom(b, oid, at)
}

// LoadPinned is State.LoadPinned.
func (s *Store) LoadPinned(oid zodb.Oid, at zodb.Tid) (Revision, error) {
	r, err := s.readers.get()
	if err != nil {
		return Revision{}, err
	}
	defer s.readers.put(r)
	return r.load(oid, at)
}

// ReadPinned is LoadPinned without a copy: it calls use with the revision, whose Data is valid until use returns. fetched: a table block was read
// for it, which took most of the time and brought its neighbours.
func (s *Store) ReadPinned(oid zodb.Oid, at zodb.Tid, use func(*Revision)) (fetched bool, _ error) {
	r, err := s.readers.get()
	if err != nil {
		return false, err
	}
	defer s.readers.put(r)
	before := r.fetched()
	next, err := r.newest(oid, at)
	if err != nil {
		return false, err
	}
	rev, err := r.row()
	if err == nil && rev.Kind == zodb.WriteDelete {
		err = ErrNotFound
	}
	if err != nil {
		return false, err
	}
	rev.Next = next
	use(&rev)
	return r.fetched() != before, nil
}

// LoadSerial is State.LoadSerial.
func (s *Store) LoadSerial(oid zodb.Oid, tid zodb.Tid) (Revision, error) {
	b, err := s.begin(oid)
	if err != nil {
		return Revision{}, err
	}
	r, err := s.readers.get()
	if err != nil {
		return Revision{}, err
	}
	defer s.readers.put(r)
	rev, err := r.serialFrom(b, oid, tid)
	if err == nil && rev.Kind == zodb.WriteDelete {
		err = ErrNotFound
	}
	if err == nil {
		rev.Hash = block.Sum(rev.Data)
	}
	return rev, err
}

// Head is State.Head.
func (s *Store) Head(oid zodb.Oid) (zodb.Tid, error) {
	var serial zodb.Tid
	err := s.Heads([]zodb.Oid{oid}, func(_ int, tid zodb.Tid) { serial = tid })
	return serial, err
}

// Heads is State.Heads; all share an iterator.
func (s *Store) Heads(oids []zodb.Oid, each func(i int, serial zodb.Tid)) error {
	m := applyReader{s: s}
	s.headsMu.Lock()
	applies := s.applies
	s.headsMu.Unlock()
	for i, oid := range oids {
		m.read = false
		h, err := m.head(oid)
		if err != nil {
			return errors.Join(err, m.close())
		}
		if m.read {
			s.headsMu.Lock()
			if applies == s.applies { // else an Apply may have made it old
				s.heads.put(oid, h)
			}
			s.headsMu.Unlock()
		}
		each(i, h.serial())
	}
	return m.close()
}

// History is State.History.
func (s *Store) History(oid zodb.Oid, n int) ([]Revision, error) {
	b, err := s.begin(oid)
	if err != nil {
		return nil, err
	}
	r, err := s.readers.get()
	if err != nil {
		return nil, err
	}
	defer s.readers.put(r)
	var revs []Revision
	r.key = recordKey(r.key[:0], oid, ^zodb.Tid(0))
	for ok := r.iter.SeekPrefixGE(r.key); ok && len(revs) < n; ok = r.iter.Next() {
		rev, err := r.revision(false, true)
		if err != nil {
			return nil, err
		}
		if len(revs) > 0 {
			rev.Next = revs[len(revs)-1].Tid
		}
		if rev.Tid <= b.gone || packed(&rev, b.horizon) {
			break // and so is all that is older
		}
		revs = append(revs, rev)
	}
	if err := r.iter.Error(); err != nil {
		return nil, damage(oid, 0, err)
	}
	if len(revs) == 0 {
		return nil, ErrNotFound
	}
	return revs, nil
}

// Find is State.Find.
func (s *Store) Find(h zodb.Hash) (rev Revision, err error) {
	lower := append([]byte{rowHash}, h[:hashPrefix]...)
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: append(bytes.Clone(lower), bytes.Repeat([]byte{0xff}, 17)...)})
	if err != nil {
		return Revision{}, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		k := it.Key()[1+hashPrefix:]
		oid, tid := zodb.Oid(binary.BigEndian.Uint64(k)), zodb.Tid(binary.BigEndian.Uint64(k[8:]))
		rev, err := s.LoadSerial(oid, tid)
		if errors.Is(err, ErrNotFound) {
			continue // packed, and not swept yet
		}
		if err != nil {
			return Revision{}, err
		}
		if rev.Hash == h {
			return rev, nil
		}
		if [hashPrefix]byte(rev.Hash[:]) != [hashPrefix]byte(h[:]) { // else another record's hash begins alike
			return Revision{}, &Corrupt{Oid: oid, Tid: tid, Want: h, Cause: block.Check(h, rev.Data)}
		}
	}
	if err := it.Error(); err != nil {
		return Revision{}, damage(0, 0, err)
	}
	return Revision{}, ErrNotFound
}
