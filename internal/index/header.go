package index

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// A transaction row's value (v: unsigned varint; bytes: v length, then that many):
//
//	| version 1 | flags 1 | status 1 | txn id 16 | digest 32 | prev 32 | user bytes | description bytes | extension bytes |
//	| author bytes | v writes x ( v oid | v tid-base, 0: new ) | crc32c of all before 4 |
//
// The digest is of the transaction record (zodb.Record), which is rebuilt from this row and the record rows; the checksum
// is for what the record does not name, and finds damage without reading the records. Flag bit 0: packed, some of its writes are
// gone, so that the record can't be rebuilt any more.
const (
	headerVersion = 1
	flagPacked    = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendHeader(dst []byte, rec *zodb.Record, digest zodb.Hash) []byte {
	h := Header{
		Tid: rec.Tid, ID: rec.ID, Status: rec.Status, Digest: digest, Prev: rec.Prev,
		User: rec.User, Description: rec.Description, Extension: rec.Extension, Author: rec.Author,
	}
	start := len(dst)
	dst = h.append(dst, len(rec.Writes))
	for i := range rec.Writes {
		dst = appendWrite(dst, rec.Tid, rec.Writes[i].Oid, rec.Writes[i].Base)
	}
	return binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

// append appends what stands before the writes.
func (h *Header) append(dst []byte, writes int) []byte {
	var flags byte
	if h.Packed {
		flags = flagPacked
	}
	dst = append(dst, headerVersion, flags, h.Status)
	dst = append(dst, h.ID[:]...)
	dst = append(dst, h.Digest[:]...)
	dst = append(dst, h.Prev[:]...)
	for _, b := range [][]byte{h.User, h.Description, h.Extension, h.Author} {
		dst = appendBytes(dst, b)
	}
	return binary.AppendUvarint(dst, uint64(writes))
}

func appendWrite(dst []byte, tid zodb.Tid, oid zodb.Oid, base zodb.Tid) []byte {
	dst = binary.AppendUvarint(dst, uint64(oid))
	var back uint64
	if base != 0 {
		back = uint64(tid - base)
	}
	return binary.AppendUvarint(dst, back)
}

// appendPacked appends the row of a transaction of which only h.Oids are left.
func appendPacked(dst []byte, h *Header, bases []zodb.Tid) []byte {
	start := len(dst)
	h.Packed = true
	dst = h.append(dst, len(h.Oids))
	for i, oid := range h.Oids {
		dst = appendWrite(dst, h.Tid, oid, bases[i])
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
	flags := r.byte()
	if flags&^flagPacked != 0 {
		r.fail("flags %#x", flags)
	}
	h.Tid, h.Packed, h.Status = tid, flags&flagPacked != 0, r.byte()
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
