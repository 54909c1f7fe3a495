package index

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
	"github.com/cockroachdb/pebble/v2"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Survey knows which objects a pack to a position concerns: sets of oids, about a bit an object each as long as oids are
// handed out in ranges. It stays true while transactions commit, since nothing at or before the position changes but by a
// pack. One goroutine uses it; what it starts has ended when a call returns.
type Survey struct {
	s    *Store
	to   zodb.Tid
	last zodb.Tid // the last transaction when it began

	sets          // once it is done
	parts []*scan // meanwhile
	rows  uint64
	done  bool
}

type sets struct {
	current  *roaring64.Bitmap // their newest revision at or before `to` is data
	packable *roaring64.Bitmap // they have revisions that a pack to `to` deletes
	later    *roaring64.Bitmap // they have revisions after `to`
}

func newSets() sets {
	return sets{current: roaring64.New(), packable: roaring64.New(), later: roaring64.New()}
}

// scan is the part of a survey that has the oids from one to another.
type scan struct {
	sets
	v       *Survey
	key     []byte // where it goes on
	end     []byte
	oid     zodb.Oid
	begun   bool
	isLater bool // the object at hand is in later, found: its newest revision at or before `to` was seen, twice: another one
	found   bool
	twice   bool
	done    bool
}

// surveyed is how many parts a survey has: enough that all processors are at work to the end.
const surveyed = 32

// NewSurvey begins a survey for a pack to `to`, which is not after the last transaction.
func (s *Store) NewSurvey(to zodb.Tid) *Survey {
	st := s.current.Load()
	v := &Survey{s: s, to: to, last: st.LastTid, sets: newSets()}
	from := []byte{rowRecord}
	for n := range zodb.Oid(surveyed) {
		end := []byte{rowRecord + 1}
		if n < surveyed-1 {
			end = recordKey(nil, st.NextOid/surveyed*(n+1), ^zodb.Tid(0))
		}
		v.parts = append(v.parts, &scan{v: v, sets: newSets(), key: from, end: end})
		from = end
	}
	return v
}

// Scan reads on, about `rows` revisions at most, and tells whether it is through. *Corrupt names a revision that can't be read.
func (v *Survey) Scan(ctx context.Context, rows int) (done bool, err error) {
	if v.done {
		return true, nil
	}
	readers := max(1, runtime.GOMAXPROCS(0))
	share := max(1, rows/readers)
	read, errs := make([]int, readers), make([]error, readers)
	var next atomic.Int64
	var wg sync.WaitGroup
	for i := range readers {
		wg.Go(func() {
			for read[i] < share && errs[i] == nil {
				n := int(next.Add(1)) - 1
				if n >= len(v.parts) {
					return
				}
				var got int
				got, errs[i] = v.parts[n].read(ctx, share-read[i])
				read[i] += got
			}
		})
	}
	wg.Wait()
	for _, n := range read {
		v.rows += uint64(n)
	}
	if err := errors.Join(errs...); err != nil {
		return false, err
	}
	v.parts = slices.DeleteFunc(v.parts, func(p *scan) bool {
		if p.done {
			v.current.Or(p.current)
			v.packable.Or(p.packable)
			v.later.Or(p.later)
		}
		return p.done
	})
	v.done = len(v.parts) == 0
	return v.done, nil
}

// giveWay is how many rows a pack's goroutines read before they let others run: Go would take the processor away after 10 ms only, and a
// commit needs it several times.
const giveWay = 64

func (p *scan) read(ctx context.Context, rows int) (n int, err error) {
	it, err := p.v.s.db.NewIter(&pebble.IterOptions{LowerBound: p.key, UpperBound: p.end})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	ok := it.First()
	for ; ok && n < rows; ok = it.Next() {
		if n++; n%giveWay == 0 {
			if runtime.Gosched(); ctx.Err() != nil {
				return n, ctx.Err()
			}
		}
		if err := p.row(it); err != nil {
			return n, err
		}
	}
	if err := it.Error(); err != nil {
		return n, p.v.s.blame(p.oid, err)
	}
	if p.done = !ok; ok {
		p.key = append([]byte(nil), it.Key()...)
	}
	return n, nil
}

func (p *scan) row(it *pebble.Iterator) error {
	oid, tid, err := parseRecordKey(it.Key())
	if err != nil {
		return &Corrupt{Cause: err}
	}
	if oid != p.oid || !p.begun {
		p.oid, p.begun = oid, true
		p.isLater, p.found, p.twice = false, false, false
	}
	switch {
	case tid > p.v.to:
		if !p.isLater {
			p.isLater = true
			p.later.Add(uint64(oid))
		}
	case !p.found:
		p.found = true
		return p.newest(it, oid, tid)
	case !p.twice:
		p.twice = true
		p.packable.Add(uint64(oid))
	}
	return nil
}

// newest takes down what is current at `to`.
func (p *scan) newest(it *pebble.Iterator, oid zodb.Oid, tid zodb.Tid) error {
	val, err := it.ValueAndErr()
	if err != nil {
		return p.v.s.blame(oid, err)
	}
	if len(val) < recordHeadLen || val[0] < byte(zodb.WriteData) || val[0] > kindBlob {
		return &Corrupt{Oid: oid, Tid: tid, Cause: fmt.Errorf("a row of %d bytes of an unknown kind", len(val))}
	}
	last, err := p.v.s.gone.last(oid)
	switch {
	case err != nil:
		return err
	case val[0] != byte(zodb.WriteDelete) && tid > last:
		p.current.Add(uint64(oid))
	default:
		p.packable.Add(uint64(oid))
	}
	return nil
}

// Rows is how many revisions were read.
func (v *Survey) Rows() uint64 { return v.rows }

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
