package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// reading is one iterator and the state that it shows.
type reading struct {
	iter  *pebble.Iterator
	epoch uint64
	key   []byte
}

// fetched is how many bytes of table blocks the iterator has read so far that were not in the block cache.
func (r *reading) fetched() uint64 {
	stats := r.iter.Stats()
	return stats.InternalStats.BlockBytes - stats.InternalStats.BlockBytesInCache
}

// row reads the revision that the iterator stands on. Its Data is valid until the iterator moves; it has no hash, since none is in a row (ADR 1).
func (r *reading) row() (Revision, error) {
	oid, tid, err := parseRecordKey(r.iter.Key())
	if err != nil {
		return Revision{}, &Corrupt{Cause: err}
	}
	rev := Revision{Oid: oid, Tid: tid}
	v, err := r.iter.ValueAndErr()
	if err != nil {
		return rev, &Corrupt{Oid: oid, Tid: tid, Cause: err}
	}
	if len(v) < recordHeadLen || v[0] < byte(zodb.WriteData) || v[0] > kindBlob || v[0] == kindBlob && len(v) < recordHeadLen+blobHeadLen {
		return rev, &Corrupt{Oid: oid, Tid: tid, Cause: fmt.Errorf("a row of %d bytes of an unknown kind", len(v))}
	}
	rev.Kind = zodb.WriteKind(v[0])
	data := v[recordHeadLen:]
	if v[0] == kindBlob {
		rev.Kind = zodb.WriteData
		n := copy(rev.Blob.Root[:], data)
		rev.Blob.Size = int64(binary.BigEndian.Uint64(data[n:]))
		data = data[blobHeadLen:]
	}
	rev.Size = len(data)
	if rev.Kind != zodb.WriteDelete {
		rev.Data = data
	}
	return rev, nil
}

// revision is row with data of the caller's own, or none, and with the hash if that is wanted: to compute it costs as much as the load, and
// Pebble's own checksums cover what lies on this disk.
func (r *reading) revision(withData, hash bool) (Revision, error) {
	rev, err := r.row()
	if err != nil || rev.Kind == zodb.WriteDelete {
		return rev, err
	}
	if hash {
		rev.Hash = block.Sum(rev.Data)
	}
	if withData {
		rev.Data = append(make([]byte, 0, len(rev.Data)), rev.Data...)
	} else {
		rev.Data = nil
	}
	return rev, nil
}

// newest moves to the newest revision at or before at. next is the tid of the one after it.
func (r *reading) newest(oid zodb.Oid, at zodb.Tid) (next zodb.Tid, err error) {
	// Seek the newest of all first: it is what most loads want, and its successor is what the others need.
	r.key = recordKey(r.key[:0], oid, ^zodb.Tid(0))
	ok := r.iter.SeekPrefixGE(r.key)
	for steps := 0; ok; steps++ {
		k := r.iter.Key()
		tid := zodb.Tid(^binary.BigEndian.Uint64(k[9:]))
		if tid <= at {
			return next, nil
		}
		next = tid
		if steps == 8 { // a long history: seek into it, just behind the successor
			r.key = recordKey(r.key[:0], oid, at+1)
			ok = r.iter.SeekPrefixGE(r.key)
			if ok && bytes.Equal(r.iter.Key(), r.key) {
				continue // at+1 exists: it is the successor
			}
			return r.behindSeek(oid, at, ok)
		}
		ok = r.iter.Next()
	}
	if err := r.iter.Error(); err != nil {
		return 0, damage(oid, 0, err)
	}
	if next != 0 {
		return next, ErrNoRevision
	}
	return 0, ErrNotFound
}

// behindSeek finds the successor by one step back, for a revision found deep in a history.
func (r *reading) behindSeek(oid zodb.Oid, at zodb.Tid, found bool) (zodb.Tid, error) {
	r.key = recordKey(r.key[:0], oid, at)
	var next zodb.Tid
	if r.iter.SeekLT(r.key) {
		if o, tid, err := parseRecordKey(r.iter.Key()); err == nil && o == oid {
			next = tid
		}
	}
	if err := r.iter.Error(); err != nil {
		return 0, damage(oid, 0, err)
	}
	if !found {
		return next, ErrNoRevision
	}
	if !r.iter.SeekPrefixGE(r.key) {
		return 0, damage(oid, 0, errors.Join(ErrNotFound, r.iter.Error()))
	}
	return next, nil
}

func (r *reading) load(oid zodb.Oid, at zodb.Tid) (Revision, error) {
	next, err := r.newest(oid, at)
	if err != nil {
		return Revision{Oid: oid, Next: next}, err
	}
	rev, err := r.revision(true, false)
	rev.Next = next
	if err == nil && rev.Kind == zodb.WriteDelete {
		err = ErrNotFound
	}
	return rev, err
}

// seek moves to one revision; it is there, or there is an error.
func (r *reading) seek(oid zodb.Oid, tid zodb.Tid) (bool, error) {
	r.key = recordKey(r.key[:0], oid, tid)
	if r.iter.SeekPrefixGE(r.key) && bytes.Equal(r.iter.Key(), r.key) {
		return true, nil
	}
	if err := r.iter.Error(); err != nil {
		return false, damage(oid, tid, err)
	}
	return false, ErrNotFound
}

// nextObject moves behind all revisions of oid: a step for most, a seek behind a long history.
func (r *reading) nextObject(oid zodb.Oid) bool {
	for range 8 {
		if !r.iter.Next() {
			return false
		}
		if zodb.Oid(binary.BigEndian.Uint64(r.iter.Key()[1:])) != oid {
			return true
		}
	}
	r.key = recordKey(r.key[:0], oid+1, ^zodb.Tid(0))
	return r.iter.SeekGE(r.key)
}

// damage gives an error of Pebble's its oid; only a corruption becomes one.
func damage(oid zodb.Oid, tid zodb.Tid, err error) error {
	if pebble.IsCorruptionError(err) {
		return &Corrupt{Oid: oid, Tid: tid, Cause: err}
	}
	return err
}

// walk reads objects one after the other: to a neighbour further on it steps, where a seek would go through all levels anew.
type walk struct {
	reading
	begun bool     // the iterator stands on a row of `last`, or on the first row behind it
	last  zodb.Oid // asked for
}

// nearBy is how many rows are stepped over before a seek: it costs about as much.
const nearBy = 12

// forward moves to the newest row of oid, or to the first row behind where it would be. false: there is none, or an error. Its caller
// moves the iterator by Next only, and not beyond the first row of another object; else it says so by begun.
func (w *walk) forward(oid zodb.Oid) bool {
	w.key = recordKey(w.key[:0], oid, ^zodb.Tid(0))
	near := w.begun && oid > w.last && w.iter.Valid()
	w.begun, w.last = true, oid
	for n := 0; near && n < nearBy; n++ {
		if bytes.Compare(w.iter.Key(), w.key) >= 0 {
			return true
		}
		near = w.iter.Next()
	}
	return w.iter.SeekGE(w.key)
}
