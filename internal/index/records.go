package index

import (
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

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
