package index

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Marks finds what can be reached: from the root, over what was current at a survey's position, and from every record after
// it. Its caller is handed records, finds the references in them, and hands those back, until no record is left; what is
// current at the position and unmarked then is garbage. With Search, only records that zodb.Scanner does not know are handed out. Records are handed out in rounds by rising oid, so that most of
// them are neighbours of the one before. Memory: sets of oids as in Survey, and one batch. One goroutine uses it.
type Marks struct {
	s      *Store
	survey *Survey

	marked   *roaring64.Bitmap
	pending  *roaring64.Bitmap // marked, and their records are not handed out yet
	round    []uint64          // the next of pending, rising
	at       uint64            // where the round goes on behind those
	part     zodb.Tid          // of the object at hand, revisions up to this one are left; 0: all
	followed []Change          // revisions of later transactions, to be handed out
	scanned  zodb.Tid          // the last transaction whose records were handed out, or are about to be
	records  uint64

	search  bool // by scanner, before the caller
	scanner zodb.Scanner
	refs    []zodb.Oid // of one record
}

const (
	maxRound    = 4096
	maxFollowed = 100_000 // revisions that Follow takes up at once, and then to the end of a transaction
)

// NewMarks begins a marking with a finished survey, which it takes over. ErrNotFound: there is no root, but other objects, so
// that everything would be garbage.
func (s *Store) NewMarks(v *Survey) (*Marks, error) {
	if !v.done {
		return nil, errors.New("mark: the survey is not finished")
	}
	m := &Marks{s: s, survey: v, marked: v.later, pending: v.later.Clone(), scanned: v.last}
	if !v.current.IsEmpty() && !v.current.Contains(0) {
		return nil, fmt.Errorf("mark: there is no root object at tid %s: %w", v.to, ErrNotFound)
	}
	if m.marked.CheckedAdd(0) {
		m.pending.Add(0)
	}
	return m, nil
}

// Search is called before Next, where references are those that ZODB.serialize.referencesf yields.
func (m *Marks) Search() { m.search = true }

// Next reads about size bytes of records at most, but one record at least, and returns those to find references in. done: all that
// was marked was handed out, or searched. The caller owns them.
func (m *Marks) Next(ctx context.Context, size int) (batch []Revision, done bool, err error) {
	it, err := m.s.db.NewIter(recordBounds())
	if err != nil {
		return nil, false, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	r := walk{reading: reading{iter: it}}
	take := func() error {
		rev, err := r.revision(false, false)
		if err != nil || rev.Kind != zodb.WriteData {
			return err
		}
		size -= rev.Size + 64
		m.records++
		val := it.Value() // revision looked for its error
		rev.Data = val[len(val)-rev.Size:]
		if m.search {
			var known bool
			if m.refs, known = m.scanner.References(m.refs[:0], rev.Data); known {
				m.Refer(m.refs)
				return nil
			}
		}
		rev.Data = bytes.Clone(rev.Data)
		batch = append(batch, rev)
		return nil
	}
	for size > 0 && ctx.Err() == nil {
		if len(m.followed) > 0 {
			c := m.followed[0]
			r.begun = false
			if ok, err := r.seek(c.Oid, c.Tid); !ok {
				return nil, false, fmt.Errorf("mark oid %s: %w", c.Oid, errors.Join(m.s.blame(c.Oid, err), it.Error()))
			}
			if err := take(); err != nil {
				return nil, false, err
			}
			m.followed = m.followed[1:]
			continue
		}
		oid, ok := m.next()
		if !ok {
			return batch, true, nil
		}
		if err := m.object(&r, oid, &size, take); err != nil {
			return nil, false, err
		}
	}
	return batch, false, ctx.Err()
}

// next is the object at hand.
func (m *Marks) next() (zodb.Oid, bool) {
	for range 2 {
		if len(m.round) > 0 {
			return zodb.Oid(m.round[0]), true
		}
		it := m.pending.Iterator()
		it.AdvanceIfNeeded(m.at)
		for it.HasNext() && len(m.round) < maxRound {
			m.round = append(m.round, it.Next())
		}
		if n := len(m.round); n == maxRound && m.round[n-1] < math.MaxUint64 {
			m.at = m.round[n-1] + 1
		} else {
			m.at = 0
		}
	}
	return 0, false
}

// object takes what is left of an object's revisions: those after the position, and the one current at it. They may be more than
// one batch holds.
func (m *Marks) object(r *walk, oid zodb.Oid, size *int, take func() error) error {
	ok := false
	if m.part == 0 {
		ok = r.forward(oid)
	} else {
		r.key = recordKey(r.key[:0], oid, m.part)
		ok = r.iter.SeekGE(r.key)
	}
	for ; ok; ok = r.iter.Next() {
		o, tid, err := parseRecordKey(r.iter.Key())
		if err != nil {
			return &Corrupt{Cause: err}
		}
		if o != oid {
			break
		}
		if *size <= 0 {
			m.part = tid
			return nil
		}
		if err := take(); err != nil {
			return err
		}
		if tid <= m.survey.to {
			break
		}
	}
	if err := r.iter.Error(); err != nil {
		return m.s.blame(oid, err)
	}
	m.part = 0
	m.pending.Remove(uint64(oid))
	m.round = m.round[1:]
	return nil
}

// Refer marks what the records handed out refer to. What does not exist, or is newer than the marking, is of no interest.
func (m *Marks) Refer(oids []zodb.Oid) {
	for _, oid := range oids {
		m.mark(uint64(oid))
	}
}

func (m *Marks) mark(oid uint64) {
	if m.survey.current.Contains(oid) && m.marked.CheckedAdd(oid) {
		m.pending.Add(oid)
	}
}

// Follow takes up the records of transactions that came since, up to `to` at most: Next hands them out, and what they wrote
// counts as marked.
func (m *Marks) Follow(to zodb.Tid) error {
	return m.s.transactions(m.scanned+1, to, func(h Header, _ []zodb.Tid) bool {
		for _, oid := range h.Oids {
			m.followed = append(m.followed, Change{Oid: oid, Tid: h.Tid})
			m.mark(uint64(oid))
		}
		m.scanned = h.Tid
		return len(m.followed) < maxFollowed
	})
}

// Scanned is the last transaction that the marks take account of, once Next is done.
func (m *Marks) Scanned() zodb.Tid { return m.scanned }

// Records is how many records were handed out, or searched.
func (m *Marks) Records() uint64 { return m.records }

// Progress is how many of the objects at the position are marked, and how many there are.
func (m *Marks) Progress() (done, total uint64) {
	total = m.survey.current.GetCardinality()
	return min(m.marked.GetCardinality()-m.pending.GetCardinality(), total), total
}

// Garbage returns the next objects from `from` on that are not marked, at most MaxGarbage, with their heads, and where the next
// list begins; an empty one is the last.
func (m *Marks) Garbage(from zodb.Oid) (list Garbage, next zodb.Oid, err error) {
	list = Garbage{Horizon: m.survey.to, Scanned: m.scanned}
	it := m.survey.current.Iterator()
	it.AdvanceIfNeeded(uint64(from))
	iter, err := m.s.db.NewIter(recordBounds())
	if err != nil {
		return list, from, err
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	rows := walk{reading: reading{iter: iter}}
	for next = from; it.HasNext() && len(list.Objects) < MaxGarbage; {
		oid := it.Next()
		next = zodb.Oid(oid) + 1 // the last oid of all is never garbage: oids are handed out from 1
		if m.marked.Contains(oid) {
			continue
		}
		if !rows.forward(zodb.Oid(oid)) {
			return list, from, m.s.blame(zodb.Oid(oid), errors.Join(ErrNotFound, iter.Error()))
		}
		o, tid, err := parseRecordKey(iter.Key())
		if err != nil || o != zodb.Oid(oid) {
			return list, from, &Corrupt{Oid: zodb.Oid(oid), Cause: errors.New("its revisions vanished during a pack")}
		}
		list.Objects = append(list.Objects, Change{Oid: o, Tid: tid})
	}
	return list, next, nil
}
