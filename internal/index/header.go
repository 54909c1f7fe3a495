package index

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// A transaction row's value (v: unsigned varint; bytes: v length, then that many):
//
//	| version 1 | status 1 | txn id 16 | digest 32 | prev 32 | user bytes | description bytes | extension bytes |
//	| author bytes | v writes x ( v oid | v tid-base, 0: new ) | crc32c of all before 4 |
//
// The digest is of the transaction record (zodb.Record), which is rebuilt from this row and the record rows; the checksum
// is for what the record does not name, and finds damage without reading the records.
const headerVersion = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendHeader(dst []byte, rec *zodb.Record, digest zodb.Hash) []byte {
	start := len(dst)
	dst = append(dst, headerVersion, rec.Status)
	dst = append(dst, rec.ID[:]...)
	dst = append(dst, digest[:]...)
	dst = append(dst, rec.Prev[:]...)
	for _, b := range [][]byte{rec.User, rec.Description, rec.Extension, rec.Author} {
		dst = appendBytes(dst, b)
	}
	dst = binary.AppendUvarint(dst, uint64(len(rec.Writes)))
	for i := range rec.Writes {
		w := &rec.Writes[i]
		dst = binary.AppendUvarint(dst, uint64(w.Oid))
		var back uint64
		if w.Base != 0 {
			back = uint64(rec.Tid - w.Base)
		}
		dst = binary.AppendUvarint(dst, back)
	}
	return binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

// decodeHeader copies all that it keeps. bases[i] is the base of Oids[i].
func decodeHeader(tid zodb.Tid, v []byte) (h Header, bases []zodb.Tid, err error) {
	if len(v) < 4 || crc32.Checksum(v[:len(v)-4], castagnoli) != binary.BigEndian.Uint32(v[len(v)-4:]) {
		return h, nil, fmt.Errorf("checksum of transaction row %s: %w", tid, zodb.ErrMalformed)
	}
	if v[0] != headerVersion {
		return h, nil, fmt.Errorf("transaction row %s of version %d, this program knows %d: %w", tid, v[0], headerVersion, zodb.ErrMalformed)
	}
	r := reader{b: v[1 : len(v)-4]}
	h.Tid, h.Status = tid, r.byte()
	copy(h.ID[:], r.take(len(h.ID)))
	copy(h.Digest[:], r.take(len(h.Digest)))
	copy(h.Prev[:], r.take(len(h.Prev)))
	for _, p := range []*[]byte{&h.User, &h.Description, &h.Extension, &h.Author} {
		*p = append([]byte{}, r.bytes()...)
	}
	n := r.count(2)
	h.Oids, bases = make([]zodb.Oid, n), make([]zodb.Tid, n)
	for i := range n {
		h.Oids[i] = zodb.Oid(r.uvarint())
		if back := r.uvarint(); back != 0 {
			bases[i] = tid - zodb.Tid(back)
		}
	}
	if r.err == nil && len(r.b) != 0 {
		r.fail("%d bytes too many", len(r.b))
	}
	if r.err != nil {
		return h, nil, fmt.Errorf("transaction row %s: %w: %w", tid, zodb.ErrMalformed, r.err)
	}
	return h, bases, nil
}
