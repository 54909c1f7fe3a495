package index

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// ErrEntry says that a log entry does not decode: damaged, or of a newer version than this program knows.
var ErrEntry = errors.New("unreadable log entry")

// A log entry, as Apply reads it (integers big-endian; v: unsigned varint; bytes: v length, then that many):
//
//	| version 1 | kind 1 | txn id 16 | body |
//	commit     floor 8 | tid 8 | flags 1 (bit 0: restore) | status 1 | snapshot 8 |
//	           user bytes | description bytes | extension bytes | author bytes |
//	           v reads  x ( oid 8 | serial 8 ) |
//	           v writes x ( oid 8 | base 8 | kind 1 | sha256 32 | with kind 3: root's sha256 32, v size | data bytes )
//	oids       v count
//	tombstone  nothing
//	horizon, garbage: pack.go
const entryVersion = 1

type entryKind uint8

const (
	entryCommit    entryKind = 1
	entryOids      entryKind = 2
	entryTombstone entryKind = 3

	entryHead   = 2 + 16
	flagRestore = 1
)

// MaxTxnSize bounds one transaction's entry in bytes: it travels and is written as a whole.
const MaxTxnSize = 512 << 20

// AppendCommit appends the entry that commits t. The hashes in t.Writes must be set: Apply trusts them of its own peer.
func AppendCommit(dst []byte, t *zodb.Txn) []byte {
	dst = appendHead(dst, entryCommit, t.ID)
	dst = binary.BigEndian.AppendUint64(dst, t.Floor)
	dst = binary.BigEndian.AppendUint64(dst, uint64(t.Tid))
	var flags byte
	if t.Restore {
		flags = flagRestore
	}
	dst = append(dst, flags, t.Status)
	dst = binary.BigEndian.AppendUint64(dst, uint64(t.Snapshot))
	for _, b := range [][]byte{t.User, t.Description, t.Extension, t.Author} {
		dst = appendBytes(dst, b)
	}
	dst = binary.AppendUvarint(dst, uint64(len(t.Reads)))
	for _, r := range t.Reads {
		dst = binary.BigEndian.AppendUint64(dst, uint64(r.Oid))
		dst = binary.BigEndian.AppendUint64(dst, uint64(r.Serial))
	}
	dst = binary.AppendUvarint(dst, uint64(len(t.Writes)))
	for i := range t.Writes {
		w := &t.Writes[i]
		dst = binary.BigEndian.AppendUint64(dst, uint64(w.Oid))
		dst = binary.BigEndian.AppendUint64(dst, uint64(w.Base))
		dst = append(dst, rowKind(w.Kind, w.Blob))
		dst = append(dst, w.Hash[:]...)
		if w.Blob.Exists() {
			dst = binary.AppendUvarint(append(dst, w.Blob.Root[:]...), uint64(w.Blob.Size))
		}
		dst = appendBytes(dst, w.Data)
	}
	return dst
}

// CommitSize is about the length of AppendCommit's result, to allocate once.
func CommitSize(t *zodb.Txn) int {
	n := 128 + len(t.User) + len(t.Description) + len(t.Extension) + len(t.Author) + 16*len(t.Reads)
	for i := range t.Writes {
		n += 54 + len(t.Writes[i].Data)
		if t.Writes[i].Blob.Exists() {
			n += len(zodb.Hash{}) + binary.MaxVarintLen64
		}
	}
	return n
}

// kindBlob stands on disk and in an entry for WriteData with a blob's file.
const kindBlob = 3

func rowKind(k zodb.WriteKind, b zodb.Blob) byte {
	if b.Exists() {
		return kindBlob
	}
	return byte(k)
}

// AppendOids appends the entry that reserves count oids.
func AppendOids(dst []byte, count uint64, id zodb.TxnID) []byte {
	return binary.AppendUvarint(appendHead(dst, entryOids, id), count)
}

// AppendTombstone appends the entry that makes sure that transaction id never commits, unless it already has.
func AppendTombstone(dst []byte, id zodb.TxnID) []byte { return appendHead(dst, entryTombstone, id) }

// SetEntryTid puts the leader's suggestion into an entry made by AppendCommit.
func SetEntryTid(entry []byte, tid zodb.Tid) {
	binary.BigEndian.PutUint64(entry[entryHead+8:], uint64(tid))
}

// isCommit tells an entry made by AppendCommit from the others.
func isCommit(entry []byte) bool {
	return len(entry) >= entryHead+16 && entryKind(entry[1]) == entryCommit
}

// EntryTid is the tid in an entry made by AppendCommit.
func EntryTid(entry []byte) zodb.Tid { return zodb.Tid(binary.BigEndian.Uint64(entry[entryHead+8:])) }

func appendHead(dst []byte, k entryKind, id zodb.TxnID) []byte {
	return append(append(dst, entryVersion, byte(k)), id[:]...)
}

func appendBytes(dst, b []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

// entry is a decoded log entry; its slices alias the bytes it was read from.
type entry struct {
	kind    entryKind
	txn     zodb.Txn // commit
	count   uint64   // oids
	horizon zodb.Tid // horizon
	fence   bool     // horizon
	garbage Garbage  // garbage
}

// decodeEntry reads an entry and accepts nothing behind it.
func decodeEntry(b []byte) (entry, error) {
	if len(b) < entryHead {
		return entry{}, fmt.Errorf("%w: %d bytes", ErrEntry, len(b))
	}
	if b[0] != entryVersion {
		return entry{}, fmt.Errorf("%w: version %d, this program knows %d", ErrEntry, b[0], entryVersion)
	}
	e := entry{kind: entryKind(b[1])}
	e.txn.ID = zodb.TxnID(b[2:entryHead])
	r := reader{b: b[entryHead:]}
	switch e.kind {
	case entryCommit:
		e.readCommit(&r)
	case entryOids:
		e.count = r.uvarint()
		if e.count == 0 || e.count > 1<<32 {
			r.fail("a range of %d oids", e.count)
		}
	case entryTombstone:
	case entryHorizon:
		e.readHorizon(&r)
	case entryGarbage:
		e.readGarbage(&r)
	default:
		r.fail("kind %d", b[1])
	}
	if r.err == nil && len(r.b) != 0 {
		r.fail("%d bytes too many", len(r.b))
	}
	return e, r.err
}

func (e *entry) readCommit(r *reader) {
	t := &e.txn
	t.Floor, t.Tid = r.uint64(), zodb.Tid(r.uint64())
	flags := r.byte()
	if flags&^flagRestore != 0 {
		r.fail("flags %#x", flags)
	}
	t.Restore, t.Status, t.Snapshot = flags&flagRestore != 0, r.byte(), zodb.Tid(r.uint64())
	t.User, t.Description, t.Extension, t.Author = r.bytes(), r.bytes(), r.bytes(), r.bytes()
	if n := r.count(16); n > 0 {
		t.Reads = make([]zodb.Read, n)
		for i := range t.Reads {
			t.Reads[i] = zodb.Read{Oid: zodb.Oid(r.uint64()), Serial: zodb.Tid(r.uint64())}
		}
	}
	if n := r.count(50); n > 0 {
		t.Writes = make([]zodb.Write, n)
		for i := range t.Writes {
			w := &t.Writes[i]
			w.Oid, w.Base, w.Kind = zodb.Oid(r.uint64()), zodb.Tid(r.uint64()), zodb.WriteKind(r.byte())
			copy(w.Hash[:], r.take(len(w.Hash)))
			if w.Kind == kindBlob {
				w.Kind = zodb.WriteData
				copy(w.Blob.Root[:], r.take(len(w.Blob.Root)))
				w.Blob.Size = int64(r.uvarint())
				if r.err == nil && (w.Blob.Size < 0 || !w.Blob.Exists()) {
					r.fail("a file of %d bytes of oid %s", w.Blob.Size, w.Oid)
				}
			}
			w.Data = r.bytes()
			if w.Kind != zodb.WriteData && (w.Kind != zodb.WriteDelete || len(w.Data) != 0) {
				r.fail("write of kind %d with %d bytes", w.Kind, len(w.Data))
			}
		}
	}
}

// reader takes values off b; after the first failure every further one is zero.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrEntry, fmt.Sprintf(format, args...))
	}
	r.b = nil
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.fail("%d bytes are missing", n-len(r.b))
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail("a length is cut off or too large")
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.fail("%d bytes are announced, %d are there", n, len(r.b))
		return nil
	}
	return r.take(int(n))
}

// count reads a number of items of at least size bytes each; it never announces more than could be there.
func (r *reader) count(size int) int {
	n := r.uvarint()
	if n > uint64(len(r.b)/size) {
		r.fail("%d items of %d bytes are announced, %d bytes are there", n, size, len(r.b))
		return 0
	}
	return int(n)
}
