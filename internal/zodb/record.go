package zodb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"github.com/zodb-dht/zodb_dht/internal/block"
)

// recordVersion is the version of the transaction record's encoding.
const recordVersion = 1

// Record is a transaction record: what a transaction did, and the hash of the record before it. Its encoding is canonical
// dag-cbor (https://ipld.io/specs/codecs/dag-cbor/spec/): the same transaction has the same bytes, and so the same
// CID, on every peer. The CID of the last record names the whole history.
//
//	{ "tid": h'8 bytes', "txn": h'16 bytes', "prev": CID | null, "user": h'', "author": h'', "status": h'1 byte',
//	  "writes": [ [oid h'8', base h'8', CID | null (deletion)] or, with a blob's file, [oid, base, CID, CID of the file, size] ... ],
//	  "version": 1, "extension": h'', "description": h'' }
type Record struct {
	Prev        Hash // zero for the first record
	Tid         Tid
	ID          TxnID
	Status      byte
	User        []byte
	Description []byte
	Extension   []byte
	Author      []byte
	Writes      []Write // without Data
}

// Digest is the hash of the record's encoding; buf is scratch space and may be nil.
func (r *Record) Digest(buf []byte) Hash { return block.Sum(r.AppendTo(buf[:0])) }

// CBOR major types (RFC 8949, section 3.1).
const (
	majorUint  = 0 << 5
	majorBytes = 2 << 5
	majorText  = 3 << 5
	majorArray = 4 << 5
	majorMap   = 5 << 5
	majorTag   = 6 << 5
	cborNull   = 0xf6
	tagCID     = 42 // https://github.com/ipld/cid-cbor
)

// AppendTo appends the encoding. It is written out, since this runs for each object of each commit and reflection took 1 µs
// an object; DecodeRecord goes through the library and so checks it.
func (r *Record) AppendTo(b []byte) []byte {
	b = appendHead(b, majorMap, 10)
	b = appendField(b, "tid", r.Tid.Bytes())
	b = appendField(b, "txn", r.ID[:])
	b = appendText(b, "prev")
	if r.Prev == (Hash{}) {
		b = append(b, cborNull)
	} else {
		b = appendCID(b, r.Prev.TxnCID().Bytes())
	}
	b = appendField(b, "user", r.User)
	b = appendField(b, "author", r.Author)
	b = appendField(b, "status", []byte{r.Status})
	b = appendText(b, "writes")
	b = appendHead(b, majorArray, uint64(len(r.Writes)))
	for i := range r.Writes {
		w := &r.Writes[i]
		fields := uint64(3)
		if w.Blob.Exists() {
			fields = 5
		}
		b = appendHead(b, majorArray, fields)
		b = binary.BigEndian.AppendUint64(appendHead(b, majorBytes, 8), uint64(w.Oid))
		b = binary.BigEndian.AppendUint64(appendHead(b, majorBytes, 8), uint64(w.Base))
		if w.Kind == WriteDelete {
			b = append(b, cborNull)
		} else {
			b = append(appendRawCID(b), w.Hash[:]...)
		}
		if w.Blob.Exists() {
			b = appendHead(appendCID(b, w.Blob.CID().Bytes()), majorUint, uint64(w.Blob.Size))
		}
	}
	b = appendText(b, "version")
	b = appendHead(b, majorUint, recordVersion)
	b = appendField(b, "extension", r.Extension)
	return appendField(b, "description", r.Description)
}

func appendHead(b []byte, major byte, n uint64) []byte {
	switch {
	case n < 24:
		return append(b, major|byte(n))
	case n < 1<<8:
		return append(b, major|24, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, major|25), uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(b, major|26), uint32(n))
	default:
		return binary.BigEndian.AppendUint64(append(b, major|27), n)
	}
}

func appendText(b []byte, s string) []byte {
	return append(appendHead(b, majorText, uint64(len(s))), s...)
}

func appendField(b []byte, key string, value []byte) []byte {
	return append(appendHead(appendText(b, key), majorBytes, uint64(len(value))), value...)
}

// appendCID writes a CID as dag-cbor does: tag 42 around its bytes behind a zero byte.
func appendCID(b, c []byte) []byte {
	b = appendHead(b, majorTag, tagCID)
	b = appendHead(b, majorBytes, uint64(len(c)+1))
	return append(append(b, 0), c...)
}

// appendRawCID writes all of a record's CID but the digest: tag 42, 37 bytes, 0, CIDv1, raw, sha2-256, 32.
func appendRawCID(b []byte) []byte {
	return append(b, majorTag|24, tagCID, majorBytes|24, 37, 0, 1, 0x55, 0x12, 0x20)
}

type recordFields struct {
	Tid         []byte        `cbor:"tid"`
	Txn         []byte        `cbor:"txn"`
	Prev        *cbor.Tag     `cbor:"prev"`
	User        []byte        `cbor:"user"`
	Author      []byte        `cbor:"author"`
	Status      []byte        `cbor:"status"`
	Writes      []recordWrite `cbor:"writes"`
	Version     uint64        `cbor:"version"`
	Extension   []byte        `cbor:"extension"`
	Description []byte        `cbor:"description"`
}

// recordWrite is a write as it is encoded: an array of three or, with a blob's file, five.
type recordWrite struct {
	Oid  []byte
	Base []byte
	CID  *cbor.Tag
	Blob *cbor.Tag
	Size uint64
}

// UnmarshalCBOR reads the array; what is not canonical in it is found by DecodeRecord.
func (w *recordWrite) UnmarshalCBOR(b []byte) error {
	var fields []cbor.RawMessage
	if err := cbor.Unmarshal(b, &fields); err != nil {
		return err
	}
	into := []any{&w.Oid, &w.Base, &w.CID, &w.Blob, &w.Size}
	if len(fields) != 3 && len(fields) != len(into) {
		return fmt.Errorf("a write of %d fields", len(fields))
	}
	for i, field := range fields {
		if err := cbor.Unmarshal(field, into[i]); err != nil {
			return err
		}
	}
	if w.Blob == nil && len(fields) != 3 {
		return errors.New("a write with a size and no file")
	}
	return nil
}

// DecodeRecord reads what AppendTo writes and nothing else: any other form of the same content is ErrMalformed, since two
// forms of one record would have two names.
func DecodeRecord(b []byte) (Record, error) {
	mode, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField, MaxArrayElements: 1 << 27,
	}.DecMode()
	if err != nil {
		return Record{}, fmt.Errorf("decoder options: %w", err)
	}
	var version struct {
		Version uint64 `cbor:"version"`
	}
	if err := cbor.Unmarshal(b, &version); err == nil && version.Version > recordVersion {
		return Record{}, fmt.Errorf("transaction record of version %d, this program knows %d", version.Version, recordVersion)
	}
	var f recordFields
	if err := mode.Unmarshal(b, &f); err != nil {
		return Record{}, fmt.Errorf("transaction record: %w: %w", ErrMalformed, err)
	}
	r, err := f.record()
	if err != nil {
		return Record{}, fmt.Errorf("transaction record: %w", err)
	}
	if !bytes.Equal(r.AppendTo(nil), b) {
		return Record{}, fmt.Errorf("transaction record is not canonical: %w", ErrMalformed)
	}
	return r, nil
}

func (f *recordFields) record() (Record, error) {
	tid, err := TidFromBytes(f.Tid)
	if err != nil {
		return Record{}, err
	}
	if len(f.Txn) != len(TxnID{}) || len(f.Status) != 1 {
		return Record{}, fmt.Errorf("txn of %d bytes, status of %d: %w", len(f.Txn), len(f.Status), ErrMalformed)
	}
	r := Record{
		Tid: tid, ID: TxnID(f.Txn), Status: f.Status[0],
		User: f.User, Description: f.Description, Extension: f.Extension, Author: f.Author,
	}
	if f.Prev != nil {
		if r.Prev, err = hashInTag(f.Prev); err != nil {
			return Record{}, err
		}
	}
	for _, fw := range f.Writes {
		w := Write{Kind: WriteDelete}
		if w.Oid, err = OidFromBytes(fw.Oid); err != nil {
			return Record{}, err
		}
		if w.Base, err = TidFromBytes(fw.Base); err != nil {
			return Record{}, err
		}
		if fw.CID != nil {
			w.Kind = WriteData
			if w.Hash, err = hashInTag(fw.CID); err != nil {
				return Record{}, err
			}
		}
		if fw.Blob != nil {
			if w.Blob.Root, err = hashInTag(fw.Blob); err != nil {
				return Record{}, err
			}
			if w.Blob.Size = int64(fw.Size); w.Blob.Size < 0 || !w.Blob.Exists() || w.Kind == WriteDelete {
				return Record{}, fmt.Errorf("the file of oid %s has %d bytes: %w", w.Oid, fw.Size, ErrMalformed)
			}
		}
		r.Writes = append(r.Writes, w)
	}
	return r, nil
}

func hashInTag(t *cbor.Tag) (Hash, error) {
	b, ok := t.Content.([]byte)
	if t.Number != tagCID || !ok || len(b) != 37 {
		return Hash{}, fmt.Errorf("tag %d is no CID of a record: %w", t.Number, ErrMalformed)
	}
	return Hash(b[5:]), nil // the four bytes before are compared by the canonical check
}
