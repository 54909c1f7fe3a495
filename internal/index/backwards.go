package index

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"maps"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// What undo and tools that walk the objects ask: transactions from the newest, current records, records that repeat older ones.

// repeatsNear is how many older revisions Repeats compares by walking; a 'c' row answers for all behind them.
const repeatsNear = 4

// TransactionsBackwards is State.TransactionsBackwards.
func (s *Store) TransactionsBackwards(from, to zodb.Tid, yield func(Header) bool) error {
	return s.unpacked(from, to, (*pebble.Iterator).Last, (*pebble.Iterator).Prev, yield)
}

// Current is State.Current.
func (s *Store) Current(from zodb.Oid, at zodb.Tid, yield func(Revision) bool) error {
	gone := s.gone.before()
	it, err := s.db.NewIter(recordBounds())
	if err != nil {
		return err
	}
	r := reading{iter: it}
	var failed error
	err = r.current(from, at, func(rev Revision) bool {
		var left bool
		if left, failed = s.isLeft(&rev, at, gone); failed != nil {
			return false
		}
		return !left || yield(rev)
	})
	return errors.Join(failed, err, it.Close())
}

func (r *reading) current(oid zodb.Oid, at zodb.Tid, yield func(Revision) bool) error {
	// An object's newest row at or before at comes first behind (oid, at); a foreign row there is a further object's newest.
	at = min(at, zodb.MaxTid)
	r.key = recordKey(r.key[:0], oid, at)
	for ok := r.iter.SeekGE(r.key); ok; ok = r.iter.SeekGE(r.key) {
		found, tid, err := parseRecordKey(r.iter.Key())
		if err != nil {
			return &Corrupt{Cause: err}
		}
		if tid > at {
			oid = found
			r.key = recordKey(r.key[:0], oid, at)
			continue
		}
		rev, err := r.revision(true, false)
		if err != nil {
			return err
		}
		if rev.Kind == zodb.WriteData && !yield(rev) || found == ^zodb.Oid(0) {
			return nil
		}
		oid = found + 1
		r.key = recordKey(r.key[:0], oid, ^zodb.Tid(0))
	}
	return damage(oid, 0, r.iter.Error())
}

// Repeats is State.Repeats.
func (s *Store) Repeats(oid zodb.Oid, tid zodb.Tid) (zodb.Tid, error) {
	b, err := s.begin(oid)
	if err != nil {
		return 0, err
	}
	r, err := s.readers.get()
	if err != nil {
		return 0, err
	}
	defer s.readers.put(r)
	if tid <= b.horizon { // then nothing older is left
		_, err := r.serialFrom(b, oid, tid)
		return 0, err
	}
	if ok, err := r.seek(oid, tid); !ok {
		return 0, err
	}
	rev, err := r.row()
	if err != nil || rev.Kind == zodb.WriteDelete {
		return 0, err
	}
	if alone, err := r.oldest(oid); alone || err != nil {
		return 0, err
	}
	if ok, err := r.seek(oid, tid); !ok {
		return 0, err
	}
	if rev, err = r.revision(false, true); err != nil {
		return 0, err
	}
	near := 0
	for next := tid; ; {
		if superseded(next, b.horizon) {
			return 0, nil
		}
		if near++; near > repeatsNear {
			break
		}
		if !r.iter.Next() {
			return 0, damage(oid, 0, r.iter.Error())
		}
		older, err := r.revision(false, true)
		if err != nil {
			return 0, err
		}
		if older.Oid != oid || older.Tid <= b.gone {
			return 0, nil
		}
		if older.Kind == zodb.WriteData && older.Hash == rev.Hash {
			return older.Tid, nil
		}
		next = older.Tid
	}
	return s.repeatsFar(b, &r, rev)
}

// oldest tells whether no row of the object is older than the one the iterator stands on, and moves it: most objects are written once, and
// cost no hash.
func (r *reading) oldest(oid zodb.Oid) (bool, error) {
	if !r.iter.Next() {
		return true, damage(oid, 0, r.iter.Error())
	}
	next, _, err := parseRecordKey(r.iter.Key())
	if err != nil {
		return false, &Corrupt{Cause: err}
	}
	return next != oid, nil
}

// repeatsFar looks among the rows that find records by their hash.
func (s *Store) repeatsFar(b border, r *reading, rev Revision) (_ zodb.Tid, err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{
		LowerBound: hashKey(nil, rev.Hash, rev.Oid, 0), UpperBound: hashKey(nil, rev.Hash, rev.Oid, rev.Tid),
	})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.Last(); ok; ok = it.Prev() {
		tid := zodb.Tid(binary.BigEndian.Uint64(it.Key()[hashKeyLen-8:]))
		older, err := r.serialFrom(b, rev.Oid, tid)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return 0, err
		}
		if older.Kind == zodb.WriteData && block.Sum(older.Data) == rev.Hash {
			return tid, nil
		}
	}
	return 0, damage(rev.Oid, 0, it.Error())
}

// TransactionsBackwards is State.TransactionsBackwards.
func (m *Memory) TransactionsBackwards(from, to zodb.Tid, yield func(Header) bool) error {
	var hs []Header
	if err := m.Transactions(from, to, func(h Header) bool { hs = append(hs, h); return true }); err != nil {
		return err
	}
	for _, h := range slices.Backward(hs) {
		if !yield(h) {
			return nil
		}
	}
	return nil
}

// Current is State.Current.
func (m *Memory) Current(from zodb.Oid, at zodb.Tid, yield func(Revision) bool) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, oid := range slices.Sorted(maps.Keys(m.records)) {
		revs := m.left(oid)
		i, _ := slices.BinarySearchFunc(revs, min(at, zodb.MaxTid)+1, func(r Revision, t zodb.Tid) int { return cmp.Compare(r.Tid, t) })
		if oid < from || i == 0 || revs[i-1].Kind == zodb.WriteDelete {
			continue
		}
		rev := pick(revs, i-1, true)
		rev.Next, rev.Hash = 0, zodb.Hash{}
		if !yield(rev) {
			return nil
		}
	}
	return nil
}

// Repeats is State.Repeats.
func (m *Memory) Repeats(oid zodb.Oid, tid zodb.Tid) (zodb.Tid, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	revs := m.left(oid)
	at := slices.IndexFunc(revs, func(r Revision) bool { return r.Tid == tid })
	if at < 0 {
		return 0, ErrNotFound
	}
	for _, older := range slices.Backward(revs[:at]) {
		if older.Kind == zodb.WriteData && revs[at].Kind == zodb.WriteData && bytes.Equal(older.Data, revs[at].Data) {
			return older.Tid, nil
		}
	}
	return 0, nil
}
