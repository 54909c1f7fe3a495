package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// revision copies the revision that the iterator stands on. Its hash is in no row (ADR 1): it is computed where it is wanted, since
// it costs as much as the load; Pebble's own checksums cover what lies on this disk.
func (r *reading) revision(withData, hash bool) (Revision, error) {
	rev, err := r.row()
	if err != nil || rev.Kind == zodb.WriteDelete {
		return rev, err
	}
	if hash {
		rev.Hash = block.Sum(rev.Data)
	}
	if withData {
		rev.Data = append(make([]byte, 0, len(rev.Data)), rev.Data...)
	} else {
		rev.Data = nil
	}
	return rev, nil
}

// row is revision, with data that is valid until the iterator moves.
func (r *reading) row() (Revision, error) {
	oid, tid, err := parseRecordKey(r.iter.Key())
	if err != nil {
		return Revision{}, &Corrupt{Cause: err}
	}
	rev := Revision{Oid: oid, Tid: tid}
	v, err := r.iter.ValueAndErr()
	if err != nil {
		return rev, &Corrupt{Oid: oid, Tid: tid, Cause: err}
	}
	if len(v) < recordHeadLen || v[0] < byte(zodb.WriteData) || v[0] > kindBlob || v[0] == kindBlob && len(v) < recordHeadLen+blobHeadLen {
		return rev, &Corrupt{Oid: oid, Tid: tid, Cause: fmt.Errorf("a row of %d bytes of an unknown kind", len(v))}
	}
	rev.Kind = zodb.WriteKind(v[0])
	data := v[recordHeadLen:]
	if v[0] == kindBlob {
		rev.Kind = zodb.WriteData
		n := copy(rev.Blob.Root[:], data)
		rev.Blob.Size = int64(binary.BigEndian.Uint64(data[n:]))
		data = data[blobHeadLen:]
	}
	rev.Size = len(data)
	if rev.Kind != zodb.WriteDelete {
		rev.Data = data
	}
	return rev, nil
}

// damage gives an error of Pebble's its oid; only a corruption becomes one.
func damage(oid zodb.Oid, tid zodb.Tid, err error) error {
	if pebble.IsCorruptionError(err) {
		return &Corrupt{Oid: oid, Tid: tid, Cause: err}
	}
	return err
}

// newest moves to the newest revision at or before at. next is the tid of the one after it.
func (r *reading) newest(oid zodb.Oid, at zodb.Tid) (next zodb.Tid, err error) {
	// Seek the newest of all first: it is what most loads want, and its successor is what the others need.
	r.key = recordKey(r.key[:0], oid, ^zodb.Tid(0))
	ok := r.iter.SeekPrefixGE(r.key)
	for steps := 0; ok; steps++ {
		k := r.iter.Key()
		tid := zodb.Tid(^binary.BigEndian.Uint64(k[9:]))
		if tid <= at {
			return next, nil
		}
		next = tid
		if steps == 8 { // a long history: seek into it, just behind the successor
			r.key = recordKey(r.key[:0], oid, at+1)
			ok = r.iter.SeekPrefixGE(r.key)
			if ok && bytes.Equal(r.iter.Key(), r.key) {
				continue // at+1 exists: it is the successor
			}
			return r.behindSeek(oid, at, ok)
		}
		ok = r.iter.Next()
	}
	if err := r.iter.Error(); err != nil {
		return 0, damage(oid, 0, err)
	}
	if next != 0 {
		return next, ErrNoRevision
	}
	return 0, ErrNotFound
}

// behindSeek finds the successor by one step back, for a revision found deep in a history.
func (r *reading) behindSeek(oid zodb.Oid, at zodb.Tid, found bool) (zodb.Tid, error) {
	r.key = recordKey(r.key[:0], oid, at)
	var next zodb.Tid
	if r.iter.SeekLT(r.key) {
		if o, tid, err := parseRecordKey(r.iter.Key()); err == nil && o == oid {
			next = tid
		}
	}
	if err := r.iter.Error(); err != nil {
		return 0, damage(oid, 0, err)
	}
	if !found {
		return next, ErrNoRevision
	}
	if !r.iter.SeekPrefixGE(r.key) {
		return 0, damage(oid, 0, errors.Join(ErrNotFound, r.iter.Error()))
	}
	return next, nil
}

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
	defer func() { s.readers.put(r) }()
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
	return r.fetch(), nil
}

// border is what is packed of one object, as of the begin of a read: taken before the iterator, so that a sweep which ends
// between the two is no gap.
type border struct {
	horizon zodb.Tid
	gone    zodb.Tid // revisions up to this one went with the whole object; 0: none
}

func (s *Store) begin(oid zodb.Oid) (b border, err error) {
	b.horizon = s.current.Load().Horizon
	b.gone, err = s.gone.last(oid)
	return b, err
}

// loadFrom is load without what lies behind the border.
func (r *reading) loadFrom(b border, oid zodb.Oid, at zodb.Tid) (Revision, error) {
	rev, err := r.load(oid, at)
	switch {
	case b.horizon == 0 || err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrNoRevision):
		return rev, err
	case errors.Is(err, ErrNoRevision):
		if rev.Next > b.horizon {
			return rev, err
		}
	case rev.Tid == 0 || rev.Tid > b.horizon || rev.Tid > b.gone && !packed(&rev, b.horizon):
		return rev, err
	}
	return Revision{Oid: oid}, r.remains(b, oid)
}

// remains tells an object of which nothing is left (ErrNotFound) from one with later revisions (ErrNoRevision).
func (r *reading) remains(b border, oid zodb.Oid) error {
	head, err := r.load(oid, zodb.MaxTid)
	switch {
	case err != nil && !errors.Is(err, ErrNotFound):
		return err
	case head.Tid <= b.gone || packed(&head, b.horizon):
		return ErrNotFound
	}
	return ErrNoRevision
}

func (r *reading) load(oid zodb.Oid, at zodb.Tid) (Revision, error) {
	next, err := r.newest(oid, at)
	if err != nil {
		return Revision{Oid: oid, Next: next}, err
	}
	rev, err := r.revision(true, false)
	rev.Next = next
	if err == nil && rev.Kind == zodb.WriteDelete {
		err = ErrNotFound
	}
	return rev, err
}

// Newest calls yield with the current revision of each object in [first, end) that has one, in order, until it returns
// false; Data is valid until yield returns. An object whose garbage waits for a sweep is left out, even if it has a later life. What is committed
// or collected after the call began may be yielded as it was before.
func (s *Store) Newest(first, end zodb.Oid, yield func(Revision) bool) (err error) {
	gone := s.gone.before()
	it, err := s.db.NewIter(&pebble.IterOptions{
		LowerBound: recordKey(nil, first, ^zodb.Tid(0)), UpperBound: recordKey(nil, end, ^zodb.Tid(0)),
	})
	if err != nil {
		return err
	}
	r := reading{iter: it}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; {
		rev, err := r.row()
		if err != nil {
			return err
		}
		if rev.Kind == zodb.WriteData && !has(gone, rev.Oid) && !yield(rev) {
			return nil
		}
		ok = r.nextObject(rev.Oid)
	}
	return damage(first, 0, it.Error())
}

// nextObject moves behind all revisions of oid: a step for most, a seek behind a long history.
func (r *reading) nextObject(oid zodb.Oid) bool {
	for range 8 {
		if !r.iter.Next() {
			return false
		}
		if zodb.Oid(binary.BigEndian.Uint64(r.iter.Key()[1:])) != oid {
			return true
		}
	}
	r.key = recordKey(r.key[:0], oid+1, ^zodb.Tid(0))
	return r.iter.SeekGE(r.key)
}

// seek moves to one revision; it is there, or there is an error.
func (r *reading) seek(oid zodb.Oid, tid zodb.Tid) (bool, error) {
	r.key = recordKey(r.key[:0], oid, tid)
	if r.iter.SeekPrefixGE(r.key) && bytes.Equal(r.iter.Key(), r.key) {
		return true, nil
	}
	if err := r.iter.Error(); err != nil {
		return false, damage(oid, tid, err)
	}
	return false, ErrNotFound
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

// serialFrom is one revision, a deletion too, if it does not lie behind the border.
func (r *reading) serialFrom(b border, oid zodb.Oid, tid zodb.Tid) (Revision, error) {
	if tid <= b.horizon { // it is there if it is what the pack left
		rev, err := r.loadFrom(b, oid, b.horizon)
		if err == nil && rev.Tid != tid || errors.Is(err, ErrNoRevision) {
			err = ErrNotFound
		}
		if err != nil { // never another revision beside it
			return Revision{}, err
		}
		rev.Next = 0
		return rev, nil
	}
	if ok, err := r.seek(oid, tid); !ok {
		return Revision{}, err
	}
	return r.revision(true, false)
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
	if err := m.begin(oids); err != nil {
		return err
	}
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

// Hashes calls yield with the hash of every record until it returns false; a record that several revisions share comes
// once for each.
func (s *Store) Hashes(yield func(zodb.Hash) bool) error {
	var damaged error
	err := s.Records(func(rev Revision, err error) bool {
		if err != nil {
			damaged = err
			return false
		}
		return rev.Kind != zodb.WriteData || yield(rev.Hash)
	})
	return errors.Join(damaged, err)
}

// Records is State.Records.
func (s *Store) Records(yield func(Revision, error) bool) error {
	horizon, gone := s.current.Load().Horizon, s.gone.before()
	var failed error
	err := s.rows(func(rev Revision, err error) bool {
		if err == nil && rev.Tid <= horizon {
			if packed(&rev, horizon) {
				return true
			}
			var left bool
			if left, failed = s.outlives(&rev, gone); !left {
				return failed == nil
			}
		}
		return yield(rev, err)
	})
	return errors.Join(failed, err)
}

// rows is Records with what is packed and not swept yet.
func (s *Store) rows(yield func(Revision, error) bool) error {
	it, err := s.db.NewIter(recordBounds())
	if err != nil {
		return err
	}
	r := reading{iter: it}
	var last Revision
	for ok := it.First(); ok; ok = it.Next() {
		rev, err := r.revision(true, true)
		if last.Oid == rev.Oid {
			rev.Next = last.Tid
		}
		if last = rev; !yield(rev, err) {
			break
		}
	}
	err = it.Error()
	return errors.Join(damage(last.Oid, last.Tid, err), it.Close())
}
