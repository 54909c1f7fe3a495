package index

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"runtime"
	"slices"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
	"github.com/cockroachdb/pebble/v2"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// The sweep row, this peer's own:
//
//	| version 1 | swept to 8 | compacted to 8 | records deleted 8 | their data's bytes 8 | crc32c of all before 4 |
const (
	sweepVersion = 1
	sweepLen     = 37
)

// swept is what the sweeps of this peer have done. A sweep is a deletion of rows that nobody is answered from any more, in
// batches, each of which leaves record, hash, garbage and transaction rows consistent with each other and with this row.
type swept struct {
	to        zodb.Tid // every row that this horizon hides is gone
	compacted zodb.Tid // and the files have shrunk; 0 as soon as rows are deleted
	records   uint64
	dataSize  uint64
}

func (w *swept) append(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, sweepVersion)
	for _, n := range [...]uint64{uint64(w.to), uint64(w.compacted), w.records, w.dataSize} {
		dst = binary.BigEndian.AppendUint64(dst, n)
	}
	return binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

func decodeSwept(v []byte) (w swept, err error) {
	if len(v) != sweepLen || crc32.Checksum(v[:sweepLen-4], castagnoli) != binary.BigEndian.Uint32(v[sweepLen-4:]) {
		return w, fmt.Errorf("sweep row of %d bytes: length or checksum: %w", len(v), zodb.ErrMalformed)
	}
	if v[0] != sweepVersion {
		return w, fmt.Errorf("sweep row of version %d, this program knows %d: %w", v[0], sweepVersion, ErrNewerFormat)
	}
	u := func(at int) uint64 { return binary.BigEndian.Uint64(v[at:]) }
	return swept{to: zodb.Tid(u(1)), compacted: zodb.Tid(u(9)), records: u(17), dataSize: u(25)}, nil
}

func (s *Store) openSweep() error {
	var w swept
	v, closer, err := s.db.Get([]byte{rowSweep})
	switch {
	case err == nil:
		w, err = decodeSwept(v)
		err = errors.Join(err, closer.Close())
	case errors.Is(err, pebble.ErrNotFound):
		err = nil
	case pebble.IsCorruptionError(err):
		err = &Corrupt{File: "the sweep row", Cause: err}
	}
	if err != nil {
		return fmt.Errorf("read the sweep row: %w", err)
	}
	s.swept.Store(&w)
	return s.gone.open(s.db)
}

// Unswept tells whether there is something for Sweep to do, or for Compact.
func (s *Store) Unswept() (sweep, compact bool) {
	w := s.swept.Load()
	return w.to < s.current.Load().Horizon || !s.gone.empty(), w.compacted < w.to
}

const (
	// maxSweep bounds a batch: so many rows are deleted in one step, which takes about 15 MiB and holds commits up for some tens of
	// milliseconds. Their transactions are rewritten in it: a transaction's row as often as batches have to do with it.
	maxSweep = 100_000
	// longHistory is how many packed revisions of one object go into a batch whatever room it has.
	longHistory = 1000
)

// Sweep is State.Sweep. Errors of Pebble's log poison the node through Config.Broken, as those of Apply do. One at a time.
func (s *Store) Sweep(ctx context.Context, v *Survey, progress func(done, total uint64)) error {
	horizon := s.current.Load().Horizon
	garbage := s.gone.all()
	if horizon <= s.swept.Load().to && garbage.IsEmpty() {
		return nil
	}
	if v == nil || v.to != horizon || !v.done {
		v = s.NewSurvey(horizon)
		for done := false; !done; {
			var err error
			if done, err = v.Scan(ctx, 1<<16); err != nil {
				return fmt.Errorf("look for what is packed: %w", err)
			}
		}
	}
	objects := roaring64.Or(v.packable, garbage)
	w := sweeper{s: s, horizon: horizon, total: objects.GetCardinality(), progress: progress}
	if err := w.objects(ctx, objects); err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	if err := w.finish(ctx); err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	return nil
}

// sweeper is one run of Sweep.
type sweeper struct {
	s        *Store
	horizon  zodb.Tid
	progress func(done, total uint64)

	done, total uint64
	batch
	key []byte
}

// batch is what one step deletes.
type batch struct {
	rows     []deletion
	gone     []zodb.Oid // whose garbage rows go with it
	blobs    []Revision // those of rows that have files
	dataSize uint64     // of rows
}

func (b *batch) add(o *batch) {
	b.rows = append(b.rows, o.rows...)
	b.gone = append(b.gone, o.gone...)
	b.blobs = append(b.blobs, o.blobs...)
	b.dataSize += o.dataSize
	o.clear()
}

func (b *batch) clear() { b.rows, b.gone, b.blobs, b.dataSize = b.rows[:0], b.gone[:0], b.blobs[:0], 0 }

type deletion struct {
	oid  zodb.Oid
	tid  zodb.Tid
	hash [hashPrefix]byte // of a record's data: its hash row's
	data bool             // a record with data: it has a hash row
}

// atOnce is how many objects a goroutine of a sweep looks at before its batch is looked at.
const atOnce = 4096

func (w *sweeper) objects(ctx context.Context, objects *roaring64.Bitmap) error {
	next := objects.Iterator()
	gatherers := make([]gatherer, max(1, runtime.GOMAXPROCS(0)))
	share := make([]uint64, 0, atOnce*len(gatherers))
	for len(share) > 0 || next.HasNext() {
		for len(share) < cap(share) && next.HasNext() {
			share = append(share, next.Next())
		}
		n, err := w.gather(ctx, gatherers, share)
		if err != nil {
			return err
		}
		if n == 0 { // the first one's history is long
			if err := w.long(zodb.Oid(share[0])); err != nil {
				return err
			}
			n = 1
		}
		w.done += uint64(n)
		share = share[:copy(share, share[n:])]
		if len(w.rows) >= maxSweep || len(share) == 0 && !next.HasNext() {
			if err := w.flush(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// long takes a history that may be more than a batch: they take its oldest revisions first.
func (w *sweeper) long(oid zodb.Oid) (err error) {
	last, err := w.s.gone.last(oid)
	if err != nil {
		return err
	}
	iter, err := w.s.db.NewIter(recordBounds())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	r := reading{iter: iter, key: recordKey(nil, oid, 0)} // the end of the object's rows: no revision has tid 0
	var before Revision
	for ok := iter.SeekLT(append(r.key, 0)); ok; ok = iter.Prev() {
		rev, err := r.revision(false, true)
		if err != nil {
			return err
		}
		if rev.Oid != oid {
			break
		}
		if before.Next = rev.Tid; before.Tid != 0 && w.packed(&before, last) {
			w.take(&before)
			if len(w.rows) >= maxSweep {
				if err := w.flush(context.Background()); err != nil {
					return err
				}
			}
		}
		before = rev
		if rev.Tid > w.horizon {
			break
		}
	}
	if err := iter.Error(); err != nil {
		return w.s.blame(oid, err)
	}
	if w.packed(&before, last) {
		w.take(&before)
	}
	if last != 0 {
		w.gone = append(w.gone, oid)
	}
	return nil
}

// packed tells whether a sweep deletes a revision. last is the object's last that went as garbage, if it did.
func (w *sweeper) packed(rev *Revision, last zodb.Tid) bool {
	return rev.Tid <= w.horizon && (rev.Tid <= last || packed(rev, w.horizon))
}

func (b *batch) take(rev *Revision) {
	b.rows = append(b.rows, deletion{rev.Oid, rev.Tid, [hashPrefix]byte(rev.Hash[:hashPrefix]), rev.Kind == zodb.WriteData})
	if rev.Blob.Exists() {
		b.blobs = append(b.blobs, *rev)
	}
	b.dataSize += uint64(rev.Size)
}

// flush deletes the batch's rows, and takes them out of their transactions, in one step.
func (w *sweeper) flush(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if w.progress != nil {
		w.progress(w.done, w.total)
	}
	if len(w.rows)+len(w.gone) == 0 {
		return nil
	}
	if len(w.blobs) > 0 && w.s.blobs != nil {
		if err := w.s.blobs(ctx, w.blobs); err != nil {
			return err
		}
	}
	w.s.sweeping.Lock()
	defer w.s.sweeping.Unlock()
	b := w.s.db.NewBatchWithSize(64 * (len(w.rows) + len(w.gone) + 16))
	defer b.Close()
	for i := range w.rows {
		if i%giveWay == 0 {
			runtime.Gosched()
		}
		if err := w.deleteRow(b, &w.rows[i]); err != nil {
			return err
		}
	}
	for i := range w.blobs {
		w.key = blobKey(w.key[:0], w.blobs[i].Blob.Root, w.blobs[i].Oid, w.blobs[i].Tid)
		if err := b.Delete(w.key, nil); err != nil {
			return err
		}
	}
	for _, oid := range w.gone {
		w.key = goneKey(w.key[:0], oid)
		if err := b.Delete(w.key, nil); err != nil {
			return err
		}
	}
	if err := w.transactions(b); err != nil {
		return err
	}
	now := *w.s.swept.Load()
	now.records += uint64(len(w.rows))
	now.dataSize += w.dataSize
	now.compacted = 0
	if err := w.commit(b, &now); err != nil {
		return err
	}
	w.clear()
	return nil
}

// commit writes a batch and the sweep row. It is not synced: what a crash takes back is swept again.
func (w *sweeper) commit(b *pebble.Batch, now *swept) error {
	if err := b.Set([]byte{rowSweep}, now.append(nil), nil); err != nil {
		return err
	}
	return w.s.gone.swept(w.gone, func() error {
		if err := b.Commit(pebble.NoSync); err != nil {
			return err
		}
		w.s.swept.Store(now)
		w.s.readers.outdate()
		return nil
	})
}

func (w *sweeper) deleteRow(b *pebble.Batch, d *deletion) error {
	w.key = recordKey(w.key[:0], d.oid, d.tid)
	if err := b.Delete(w.key, nil); err != nil || !d.data {
		return err
	}
	var h zodb.Hash // the key has no more of it
	copy(h[:], d.hash[:])
	w.key = hashKey(w.key[:0], h, d.oid, d.tid)
	return b.Delete(w.key, nil)
}

// transactions takes the batch's rows out of the transaction rows that name them; those with nothing left go.
func (w *sweeper) transactions(b *pebble.Batch) error {
	slices.SortFunc(w.rows, func(x, y deletion) int { return cmp.Or(cmp.Compare(x.tid, y.tid), cmp.Compare(x.oid, y.oid)) })
	var row []byte
	for rest := w.rows; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].tid == rest[0].tid {
			n++
		}
		runtime.Gosched()
		h, bases, err := w.s.header(rest[0].tid)
		if err != nil {
			return err
		}
		left := 0
		for i, oid := range h.Oids {
			_, out := slices.BinarySearchFunc(rest[:n], oid, func(d deletion, o zodb.Oid) int { return cmp.Compare(d.oid, o) })
			if !out {
				h.Oids[left], bases[left] = oid, bases[i]
				left++
			}
		}
		w.key = txnKey(w.key[:0], h.Tid)
		if h.Oids = h.Oids[:left]; left == 0 {
			err = b.Delete(w.key, nil)
		} else {
			row = appendPacked(row[:0], &h, bases)
			err = b.Set(w.key, row, nil)
		}
		if err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

func (s *Store) header(tid zodb.Tid) (Header, []zodb.Tid, error) {
	v, closer, err := s.db.Get(txnKey(nil, tid))
	if errors.Is(err, pebble.ErrNotFound) {
		return Header{}, nil, &Corrupt{Tid: tid, Cause: errors.New("the transaction of a record is missing")}
	}
	if err != nil {
		return Header{}, nil, damage(0, tid, err)
	}
	h, bases, err := decodeHeader(tid, bytes.Clone(v))
	if err != nil {
		err = &Corrupt{Tid: tid, Cause: err}
	}
	return h, bases, errors.Join(err, closer.Close())
}

// finish deletes the packed transactions that never wrote anything, and says that the horizon is swept.
func (w *sweeper) finish(ctx context.Context) error {
	w.s.sweeping.Lock()
	defer w.s.sweeping.Unlock()
	b := w.s.db.NewBatch()
	defer b.Close()
	var failed error
	err := w.s.transactions(w.s.swept.Load().to+1, w.horizon, func(h Header, _ []zodb.Tid) bool {
		if failed = ctx.Err(); failed == nil && len(h.Oids) == 0 {
			failed = b.Delete(txnKey(nil, h.Tid), nil)
		}
		return failed == nil
	})
	if err := errors.Join(failed, err); err != nil {
		return err
	}
	now := *w.s.swept.Load()
	now.to = max(now.to, w.horizon)
	if w.progress != nil {
		w.progress(w.total, w.total)
	}
	return w.commit(b, &now)
}
