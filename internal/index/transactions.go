package index

import (
	"encoding/binary"
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Transactions is State.Transactions.
func (s *Store) Transactions(from, to zodb.Tid, yield func(Header) bool) error {
	return s.unpacked(from, to, (*pebble.Iterator).First, (*pebble.Iterator).Next, yield)
}

// unpacked is walkTxns without what is behind the horizon.
func (s *Store) unpacked(from, to zodb.Tid, first, next func(*pebble.Iterator) bool, yield func(Header) bool) error {
	horizon := s.current.Load().Horizon
	unswept := horizon > s.swept.Load().to || !s.gone.empty()
	var failed error
	err := s.walkTxns(from, to, first, next, func(h Header, _ []zodb.Tid) bool {
		if h.Tid <= horizon {
			h.Status = 'p'
			if unswept {
				failed = s.leaveOut(&h)
			}
			if failed == nil && len(h.Oids) == 0 {
				return true
			}
		}
		return failed == nil && yield(h)
	})
	return errors.Join(failed, err)
}

// leaveOut takes those objects out of a packed transaction whose revisions are behind the horizon, though their rows still are here.
func (s *Store) leaveOut(h *Header) error {
	left := h.Oids[:0:0]
	for _, oid := range h.Oids {
		_, err := s.LoadSerial(oid, h.Tid)
		if err == nil {
			left = append(left, oid)
		} else if !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	h.Oids = left
	return nil
}

func (s *Store) transactions(from, to zodb.Tid, yield func(Header, []zodb.Tid) bool) error {
	return s.walkTxns(from, to, (*pebble.Iterator).First, (*pebble.Iterator).Next, yield)
}

// walkTxns reads the rows of [from, to] in either direction.
func (s *Store) walkTxns(from, to zodb.Tid, first, next func(*pebble.Iterator) bool, yield func(Header, []zodb.Tid) bool) (err error) {
	if to > zodb.MaxTid {
		to = zodb.MaxTid
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: txnKey(nil, from), UpperBound: txnKey(nil, to+1)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := first(it); ok; ok = next(it) {
		h, bases, err := headerAt(it)
		if err != nil {
			return err
		}
		if !yield(h, bases) {
			return nil
		}
	}
	return damage(0, 0, it.Error())
}

// headerAt reads the transaction row that the iterator stands on.
func headerAt(it *pebble.Iterator) (Header, []zodb.Tid, error) {
	tid := zodb.Tid(binary.BigEndian.Uint64(it.Key()[1:]))
	v, err := it.ValueAndErr()
	if err != nil {
		return Header{}, nil, &Corrupt{Tid: tid, Cause: err}
	}
	h, bases, err := decodeHeader(tid, v)
	if err != nil {
		return h, nil, &Corrupt{Tid: tid, Cause: err}
	}
	return h, bases, nil
}
