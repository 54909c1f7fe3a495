package index

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage"
	"github.com/cockroachdb/pebble/v2/sstable"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Report is what Verify found.
type Report struct {
	Records      uint64 // revisions, read and hashed
	Transactions uint64 // records of the chain, rebuilt and hashed
	Objects      uint64
	LastTid      zodb.Tid
	Horizon      zodb.Tid  // packed to here: the chain is followed from the next transaction on; 0: from the first
	Packed       uint64    // transactions that a pack took writes of: their records can't be rebuilt, what is left of them was hashed
	Digest       zodb.Hash // of the last transaction record: names the whole history
	Damaged      []Corrupt // at most maxDamaged
	More         uint64    // damaged places beyond those
	Torn         *TornTail // what the last Open cut off; no damage
}

const maxDamaged = 1000

func (r *Report) damaged(c *Corrupt) {
	if len(r.Damaged) == maxDamaged {
		r.More++
		return
	}
	r.Damaged = append(r.Damaged, *c)
}

// Note takes an error of a read into the report; what is no damage is returned.
func (r *Report) Note(err error) error {
	var c *Corrupt
	if !errors.As(err, &c) {
		return err
	}
	r.damaged(c)
	return nil
}

// Verify reads and hashes every record, follows the chain of transaction records from the horizon to the last, and counts.
// Those up to the horizon are rebuilt and hashed as far as their writes are there. A sweep waits for it. progress is called now and then with the number of records and transactions done and of all. Damage is in the report, not
// an error. It runs beside Apply and judges the state that it began with.
func (s *Store) Verify(ctx context.Context, progress func(done, total uint64)) (Report, error) {
	s.sweeping.RLock()
	defer s.sweeping.RUnlock()
	v := verifier{s: s, ctx: ctx, progress: progress, gone: s.gone.count.Load(), stats: s.Stats()}
	v.prev = v.stats.HorizonDigest
	v.report = Report{Horizon: v.stats.Horizon, LastTid: v.stats.LastTid, Digest: v.stats.Digest, Torn: s.torn}
	v.total = 2 * v.stats.Records
	err := v.records()
	if err == nil && !v.scanned {
		// A damaged table ends a scan: ask for each record by its transaction, which names what can't be read.
		v.report.Records, v.done, v.readAll = 0, 0, true
		v.report.Objects = v.stats.Objects // the scan counted those in front of the damage
	}
	if err == nil {
		err = v.chain()
	}
	if err == nil && len(v.report.Damaged) == 0 {
		v.compare()
	}
	if err == nil {
		err = v.tables()
	}
	for i := range s.damaged {
		v.report.damaged(&s.damaged[i])
	}
	return v.report, err
}

type verifier struct {
	s        *Store
	ctx      context.Context //nolint:containedctx // lives as long as one call of Verify
	progress func(done, total uint64)
	gone     int64 // how many objects were removed and not swept, before stats
	stats    Stats
	report   Report
	scanned  bool // the scan reached its end
	readAll  bool // chain reads the data, too
	prev     zodb.Hash

	done, total, size uint64
}

func (v *verifier) step() error {
	v.done++
	if v.done%4096 == 0 {
		if v.progress != nil {
			v.progress(v.done, v.total)
		}
		return v.ctx.Err()
	}
	return nil
}

func (v *verifier) records() error {
	var stop error
	var object zodb.Oid
	first := true
	err := v.s.rows(func(rev Revision, err error) bool {
		if rev.Tid > v.stats.LastTid && err == nil {
			return true // newer than what is judged
		}
		if stop = v.report.Note(err); stop != nil {
			return false
		}
		if first || rev.Oid != object {
			object, first = rev.Oid, false
			last, err := v.s.gone.last(rev.Oid)
			if stop = v.report.Note(err); stop != nil {
				return false
			}
			if rev.Kind == zodb.WriteData && rev.Tid > last {
				v.report.Objects++
			}
		}
		v.report.Records++
		v.size += uint64(rev.Size)
		stop = v.step()
		return stop == nil
	})
	if stop != nil {
		return stop
	}
	v.scanned = err == nil
	if err == nil {
		return nil
	}
	before := len(v.report.Damaged)
	if err := v.report.Note(err); err != nil {
		return err
	}
	v.report.Damaged = v.report.Damaged[:before] // chain names it better
	return nil
}

// chain rebuilds each transaction record from the rows and holds it against its digest and its successor's prev.
func (v *verifier) chain() error {
	var stop error
	err := v.s.transactions(0, v.stats.LastTid, func(h Header, bases []zodb.Tid) bool {
		stop = v.transaction(&h, bases)
		return stop == nil
	})
	if stop != nil {
		return stop
	}
	if err := v.report.Note(err); err != nil {
		return err
	}
	if v.prev != v.stats.Digest && len(v.report.Damaged) == 0 {
		v.report.damaged(&Corrupt{File: "the chain of transactions", Cause: fmt.Errorf("it ends in %s, the state says %s", v.prev, v.stats.Digest)})
	}
	return nil
}

func (v *verifier) transaction(h *Header, bases []zodb.Tid) error {
	v.report.Transactions++
	rec := zodb.Record{
		Prev: h.Prev, Tid: h.Tid, ID: h.ID, Status: h.Status,
		User: h.User, Description: h.Description, Extension: h.Extension, Author: h.Author,
	}
	whole := true
	for i, oid := range h.Oids {
		rev, err := v.s.revisionAt(oid, h.Tid, true)
		if errors.Is(err, ErrNotFound) {
			err = &Corrupt{Oid: oid, Tid: h.Tid, Cause: errors.New("the transaction names a record that is not there")}
		}
		if err != nil {
			whole = false
			if err := v.report.Note(err); err != nil {
				return err
			}
		}
		if v.readAll && err == nil {
			v.report.Records++
		}
		rec.Writes = append(rec.Writes, zodb.Write{Oid: oid, Base: bases[i], Kind: rev.Kind, Hash: rev.Hash, Blob: rev.Blob})
		if err := v.step(); err != nil {
			return err
		}
	}
	part := h.Packed && h.Tid <= v.stats.Horizon
	if part {
		v.report.Packed++
	}
	if got := rec.Digest(nil); part || whole && got != h.Digest {
		// The digest tells of its records together, the hash rows of each.
		named, err := v.unhashed(h.Tid, rec.Writes)
		if err != nil {
			return err
		}
		if !part && !named {
			v.report.damaged(&Corrupt{Tid: h.Tid, Want: h.Digest, Cause: fmt.Errorf("the transaction record hashes to %s", got)})
		}
	}
	if h.Tid <= v.stats.Horizon {
		return nil // those before it may be gone
	}
	if h.Prev != v.prev {
		v.report.damaged(&Corrupt{Tid: h.Tid, Want: h.Prev, Cause: fmt.Errorf("the transaction before it hashes to %s", v.prev)})
	}
	v.prev = h.Digest
	return nil
}

// unhashed names the records of a transaction whose hash no row has: they are not what was written. It reports whether there are any.
func (v *verifier) unhashed(tid zodb.Tid, writes []zodb.Write) (found bool, err error) {
	for i := range writes {
		w := &writes[i]
		if w.Kind != zodb.WriteData {
			continue
		}
		_, closer, err := v.s.db.Get(hashKey(nil, w.Hash, w.Oid, tid))
		switch {
		case errors.Is(err, pebble.ErrNotFound):
			found = true
			v.report.damaged(&Corrupt{Oid: w.Oid, Tid: tid, Cause: fmt.Errorf("the record is not the one that was written: its bytes have the CID %s", w.Hash.CID())})
		case err != nil:
			if err := v.report.Note(damage(w.Oid, tid, err)); err != nil {
				return found, err
			}
		default:
			if err := closer.Close(); err != nil {
				return found, err
			}
		}
	}
	return found, nil
}

// tables reads each block of each table once: what no record's reading came by, such as the rows that find records by their hashes.
func (v *verifier) tables() error {
	levels, err := v.s.db.SSTables()
	if err != nil {
		return damage(0, 0, err)
	}
	opts := v.s.opts.MakeReaderOptions()
	for _, level := range levels {
		for i := range level {
			if err := v.ctx.Err(); err != nil {
				return err
			}
			name := v.s.fs.PathJoin(v.s.dir, fmt.Sprintf("%s.sst", level[i].BackingSSTNum))
			if err := v.table(name, opts); err != nil {
				return err
			}
		}
	}
	return nil
}

func (v *verifier) table(name string, opts sstable.ReaderOptions) (err error) {
	file, err := v.s.fs.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // compacted away meanwhile
	}
	if err != nil {
		return fmt.Errorf("verify %s: %w", name, err)
	}
	readable, err := sstable.NewSimpleReadable(&fencedTable{File: file, name: name, left: new(atomic.Bool)})
	if err != nil {
		return errors.Join(fmt.Errorf("verify %s: %w", name, err), file.Close())
	}
	err = validate(v.ctx, readable, opts)
	if pebble.IsCorruptionError(err) {
		v.report.damaged(&Corrupt{File: name, Cause: err})
		return nil
	}
	if err != nil {
		return fmt.Errorf("verify %s: %w", name, err)
	}
	return nil
}

// validate reads a table's blocks, and closes it.
func validate(ctx context.Context, readable objstorage.Readable, opts sstable.ReaderOptions) (err error) {
	defer func() {
		if p := recover(); p != nil { // Pebble's, on a property that it does not know
			err = errors.Join(pebble.ErrCorruption, fmt.Errorf("%v", p), readable.Close())
		}
	}()
	r, err := sstable.NewReader(ctx, readable, opts)
	if err != nil {
		return errors.Join(err, readable.Close())
	}
	return errors.Join(r.ValidateBlockChecksums(), r.Close())
}

// compare holds the sums against what the state row says.
func (v *verifier) compare() {
	got := Stats{Objects: v.report.Objects, Records: v.report.Records, DataSize: v.size}
	want := Stats{Objects: v.stats.Objects, Records: v.stats.Records, DataSize: v.stats.DataSize}
	if v.s.gone.count.Load() != v.gone || v.gone > 0 && v.s.Stats().Applied != v.stats.Applied {
		got.Objects = want.Objects // a garbage list may have taken some that were not counted yet
	}
	if got != want {
		v.report.damaged(&Corrupt{File: "the record rows", Cause: fmt.Errorf(
			"%d objects, %d records, %d bytes are there; the state says %d, %d, %d",
			got.Objects, got.Records, got.DataSize, want.Objects, want.Records, want.DataSize)})
	}
}

// revisionAt returns one revision, a deletion too, hashed if asked.
func (s *Store) revisionAt(oid zodb.Oid, tid zodb.Tid, hash bool) (Revision, error) {
	r, err := s.readers.get()
	if err != nil {
		return Revision{}, err
	}
	defer s.readers.put(r)
	if ok, err := r.seek(oid, tid); !ok {
		return Revision{}, err
	}
	return r.revision(false, hash)
}

// Row is one revision as its row has it, without data, also where a pack hides it and no sweep has deleted it yet.
func (s *Store) Row(oid zodb.Oid, tid zodb.Tid) (Revision, error) {
	return s.revisionAt(oid, tid, false)
}

// Data is block.Records.Data.
func (s *Store) Data(h zodb.Hash) ([]byte, bool, error) {
	rev, err := s.Find(h)
	if errors.Is(err, ErrNotFound) {
		return nil, false, nil
	}
	return rev.Data, err == nil, err
}

// Size is block.Records.Size.
func (s *Store) Size(h zodb.Hash) (int, bool, error) {
	data, found, err := s.Data(h)
	return len(data), found, err
}
