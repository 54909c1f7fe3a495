package index

import (
	"errors"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// border is what packs have hidden of one object, as a read begins. It is taken before the read's iterator: then a sweep between the two
// has only deleted rows that the border hides. The other way round the iterator would show rows that nobody knows to be hidden any more.
type border struct {
	horizon zodb.Tid
	gone    zodb.Tid // revisions up to this one went with the whole object; 0: none
}

// begin is to be called before a read gets its iterator.
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

// isLeft tells whether a pack left a revision, not a deletion, that is the newest at or before at. gone is of before the walk that met it.
func (s *Store) isLeft(rev *Revision, at zodb.Tid, gone *roaring64.Bitmap) (bool, error) {
	if at < s.current.Load().Horizon {
		return s.exists(rev)
	}
	return s.outlives(rev, gone)
}

// outlives tells whether a revision, not a deletion, did not go with its whole object as garbage; else as isLeft.
func (s *Store) outlives(rev *Revision, gone *roaring64.Bitmap) (bool, error) {
	if has(gone, rev.Oid) { // a sweep may have forgotten up to which revision
		return s.exists(rev)
	}
	last, err := s.gone.last(rev.Oid)
	return rev.Tid > last, err
}

// exists tells whether a revision, not a deletion, is there now.
func (s *Store) exists(rev *Revision) (bool, error) {
	_, err := s.LoadSerial(rev.Oid, rev.Tid)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}
