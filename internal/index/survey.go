package index

import (
	"context"
	"errors"
	"fmt"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
	"github.com/cockroachdb/pebble/v2"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Survey knows which objects a pack to a position concerns: sets of oids, about a bit an object each as long as oids are
// handed out in ranges. It stays true while transactions commit, since nothing at or before the position changes but by a
// pack. One goroutine uses it.
type Survey struct {
	s    *Store
	to   zodb.Tid
	last zodb.Tid // the last transaction when it began

	current  *roaring64.Bitmap // their newest revision at or before `to` is data
	packable *roaring64.Bitmap // they have revisions that a pack to `to` deletes
	later    *roaring64.Bitmap // they have revisions after `to`

	key     []byte // where the scan goes on
	oid     zodb.Oid
	begun   bool
	isLater bool // the object at hand is in later, found: its newest revision at or before `to` was seen, twice: another one
	found   bool
	twice   bool
	rows    uint64
	done    bool
}

// NewSurvey begins a survey for a pack to `to`, which is not after the last transaction.
func (s *Store) NewSurvey(to zodb.Tid) *Survey {
	return &Survey{
		s: s, to: to, last: s.current.Load().LastTid, key: []byte{rowRecord},
		current: roaring64.New(), packable: roaring64.New(), later: roaring64.New(),
	}
}

// Scan reads on, at most rows revisions, and tells whether it is through. *Corrupt names a revision that can't be read.
func (v *Survey) Scan(ctx context.Context, rows int) (done bool, err error) {
	if v.done {
		return true, nil
	}
	it, err := v.s.db.NewIter(recordBounds())
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	n := 0
	ok := it.SeekGE(v.key)
	for ; ok && n < rows; ok = it.Next() {
		if n++; n%4096 == 0 && ctx.Err() != nil {
			return false, ctx.Err()
		}
		if err := v.row(it); err != nil {
			return false, err
		}
	}
	v.rows += uint64(n)
	if err := it.Error(); err != nil {
		return false, v.s.blame(v.oid, err)
	}
	if ok {
		v.key = append(v.key[:0], it.Key()...)
		return false, nil
	}
	v.done = true
	return true, nil
}

func (v *Survey) row(it *pebble.Iterator) error {
	oid, tid, err := parseRecordKey(it.Key())
	if err != nil {
		return &Corrupt{Cause: err}
	}
	if oid != v.oid || !v.begun {
		v.oid, v.begun = oid, true
		v.isLater, v.found, v.twice = false, false, false
	}
	switch {
	case tid > v.to:
		if !v.isLater {
			v.isLater = true
			v.later.Add(uint64(oid))
		}
	case !v.found:
		v.found = true
		return v.newest(it, oid, tid)
	case !v.twice:
		v.twice = true
		v.packable.Add(uint64(oid))
	}
	return nil
}

// newest takes down what is current at `to`.
func (v *Survey) newest(it *pebble.Iterator, oid zodb.Oid, tid zodb.Tid) error {
	val, err := it.ValueAndErr()
	if err != nil {
		return v.s.blame(oid, err)
	}
	if len(val) < recordHeadLen || val[0] < byte(zodb.WriteData) || val[0] > kindBlob {
		return &Corrupt{Oid: oid, Tid: tid, Cause: fmt.Errorf("a row of %d bytes of an unknown kind", len(val))}
	}
	last, err := v.s.gone.last(oid)
	switch {
	case err != nil:
		return err
	case val[0] != byte(zodb.WriteDelete) && tid > last:
		v.current.Add(uint64(oid))
	default:
		v.packable.Add(uint64(oid))
	}
	return nil
}

// Rows is how many revisions were read.
func (v *Survey) Rows() uint64 { return v.rows }

// Packable is how many objects have something that a pack deletes.
func (v *Survey) Packable() uint64 { return v.packable.GetCardinality() }

// blame gives a damage that a scan met its oid and tid, by asking for each revision from the object on: a damaged table does not
// say which keys it held.
func (s *Store) blame(from zodb.Oid, err error) error {
	if !pebble.IsCorruptionError(err) {
		return err
	}
	var found error
	scan := s.transactions(0, zodb.MaxTid, func(h Header, _ []zodb.Tid) bool {
		for _, oid := range h.Oids {
			if oid < from {
				continue
			}
			_, err := s.revisionAt(oid, h.Tid, true)
			if c := new(Corrupt); errors.As(err, &c) {
				found = c
				return false
			}
		}
		return true
	})
	if found != nil {
		return found
	}
	return errors.Join(damage(from, 0, err), scan)
}
