package index

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"

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

	search  bool // by zodb.Scanner, before the caller
	finders []finder
}

// finder reads records and finds references in them. Beside others it only reads the marks.
type finder struct {
	m *Marks
	walk
	scanner zodb.Scanner
	size    int        // how many bytes may be read yet
	refs    []zodb.Oid // that are not marked yet
	batch   []Revision // for the caller
	records uint64
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

// Next reads about size bytes of records at most, but one record at least, and returns those to find references in; with Search, as
// many bytes on each processor. done: all that was marked was handed out, or searched. The caller owns them.
func (m *Marks) Next(ctx context.Context, size int) (batch []Revision, done bool, err error) {
	if m.finders == nil {
		m.finders = make([]finder, max(1, runtime.GOMAXPROCS(0)))
	}
	defer func() {
		for i := range m.finders {
			if it := m.finders[i].iter; it != nil {
				err = errors.Join(err, it.Close())
				m.finders[i].iter = nil
			}
		}
	}()
	for i := range m.finders {
		f := &m.finders[i]
		f.m, f.size, f.batch, f.begun = m, size, nil, false
		if f.iter, err = m.s.db.NewIter(recordBounds()); err != nil {
			return nil, false, err
		}
	}
	f := &m.finders[0]
	for f.size > 0 && ctx.Err() == nil {
		if len(m.followed) > 0 {
			if err := f.follow(m.followed[0]); err != nil {
				return nil, false, err
			}
			m.followed = m.followed[1:]
			m.collect(f)
			continue
		}
		oid, ok := m.next()
		if !ok {
			done = true
			break
		}
		if n, err := m.together(ctx); n > 0 || err != nil {
			if err != nil {
				return nil, false, err
			}
			continue
		}
		if m.part, err = f.object(oid, m.part); err != nil {
			return nil, false, err
		}
		m.collect(f)
		if m.part == 0 {
			m.pending.Remove(uint64(oid))
			m.round = m.round[1:]
		}
	}
	for i := range m.finders {
		batch = append(batch, m.finders[i].batch...)
	}
	return batch, done, ctx.Err()
}

// together has the next objects read by all finders beside each other, and returns how many were.
func (m *Marks) together(ctx context.Context) (done int, err error) {
	const worth = 64 // objects
	if !m.search || m.part != 0 || len(m.finders) == 1 || len(m.round) < worth {
		return 0, nil
	}
	each := (len(m.round) + len(m.finders) - 1) / len(m.finders)
	counts, errs := make([]int, len(m.finders)), make([]error, len(m.finders))
	var wg sync.WaitGroup
	for i := range m.finders {
		share := m.round[min(i*each, len(m.round)):min((i+1)*each, len(m.round))]
		wg.Go(func() { counts[i], errs[i] = m.finders[i].objects(ctx, share) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return 0, err
	}
	var left []uint64
	for i := range m.finders {
		share := m.round[min(i*each, len(m.round)):min((i+1)*each, len(m.round))]
		for _, oid := range share[:counts[i]] {
			m.pending.Remove(oid)
		}
		left = append(left, share[counts[i]:]...)
		done += counts[i]
	}
	for i := range m.finders {
		m.collect(&m.finders[i])
	}
	m.round = left
	return done, nil
}

// collect marks what a finder found.
func (m *Marks) collect(f *finder) {
	m.Refer(f.refs)
	m.records += f.records
	f.refs, f.records = f.refs[:0], 0
}

// objects reads whole objects, as many as there is room for.
func (f *finder) objects(ctx context.Context, oids []uint64) (done int, err error) {
	for i, oid := range oids {
		if f.size <= 0 {
			break
		}
		if err := ctx.Err(); err != nil {
			return done, err
		}
		if i%giveWay == 0 {
			runtime.Gosched()
		}
		refs, batch, records := len(f.refs), len(f.batch), f.records
		left, err := f.object(zodb.Oid(oid), 0)
		if err != nil {
			return done, err
		}
		if left != 0 { // it is long: left to the first finder
			f.refs, f.batch, f.records = f.refs[:refs], f.batch[:batch], records
			break
		}
		done++
	}
	return done, nil
}

func (f *finder) follow(c Change) error {
	f.begun = false
	if ok, err := f.seek(c.Oid, c.Tid); !ok {
		return fmt.Errorf("mark oid %s: %w", c.Oid, errors.Join(f.m.s.blame(c.Oid, err), f.iter.Error()))
	}
	return f.take()
}

// object takes an object's revisions from `from` (0: the newest) on: those after the position, and the one current at it. They may be
// more than there is room for: then left is where it goes on.
func (f *finder) object(oid zodb.Oid, from zodb.Tid) (left zodb.Tid, err error) {
	var ok bool
	if from == 0 {
		ok = f.forward(oid)
	} else {
		f.key = recordKey(f.key[:0], oid, from)
		f.begun, ok = false, f.iter.SeekGE(f.key)
	}
	for ; ok; ok = f.iter.Next() {
		o, tid, err := parseRecordKey(f.iter.Key())
		if err != nil {
			return 0, &Corrupt{Cause: err}
		}
		if o != oid {
			break
		}
		if f.size <= 0 {
			return tid, nil
		}
		if err := f.take(); err != nil {
			return 0, err
		}
		if tid <= f.m.survey.to {
			break
		}
	}
	if err := f.iter.Error(); err != nil {
		return 0, f.m.s.blame(oid, err)
	}
	return 0, nil
}

// take searches the record that the iterator stands on, or keeps it for the caller.
func (f *finder) take() error {
	rev, err := f.revision(false, false)
	if err != nil || rev.Kind != zodb.WriteData {
		return err
	}
	f.size -= rev.Size + 64
	f.records++
	val := f.iter.Value() // revision looked for its error
	rev.Data = val[len(val)-rev.Size:]
	if f.m.search {
		had := len(f.refs)
		var known bool
		if f.refs, known = f.scanner.References(f.refs, rev.Data); known {
			fresh := f.refs[:had]
			for _, oid := range f.refs[had:] {
				if f.m.unmarked(uint64(oid)) {
					fresh = append(fresh, oid)
				}
			}
			f.refs = fresh
			return nil
		}
	}
	rev.Data = bytes.Clone(rev.Data)
	f.batch = append(f.batch, rev)
	return nil
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

// Refer marks what the records handed out refer to. What does not exist, or is newer than the marking, is of no interest.
func (m *Marks) Refer(oids []zodb.Oid) {
	for _, oid := range oids {
		m.mark(uint64(oid))
	}
}

func (m *Marks) unmarked(oid uint64) bool {
	return m.survey.current.Contains(oid) && !m.marked.Contains(oid)
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
