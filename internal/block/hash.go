// Package block names bytes by their content: the one door through which anything is hashed or checked against a hash,
// and an IPFS block store over the records that a peer keeps anyway.
//
// A record's CID is CIDv1, codec raw, sha2-256 over the data as ZODB hands it over; a transaction record's is CIDv1,
// codec dag-cbor, sha2-256 over its canonical encoding; a blob's file is named as `ipfs add --cid-version=1` does. (https://github.com/multiformats/cid)
package block

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// ErrMismatch says that bytes are not the ones that a hash names. They are never returned beside it.
var ErrMismatch = errors.New("the bytes do not match their hash")

// ErrForeign says that a CID is well-formed, but names nothing that a peer could keep as a record.
var ErrForeign = errors.New("not the CID of a record")

// Hash is a sha2-256 digest. It is comparable; the zero Hash names nothing.
type Hash [sha256.Size]byte

// Sum hashes data.
func Sum(data []byte) Hash { return sha256.Sum256(data) }

// Check returns ErrMismatch, wrapped with both hashes, unless data is what h names.
func Check(h Hash, data []byte) error {
	if got := Sum(data); got != h {
		return fmt.Errorf("want sha256 %s, the %d bytes have %s: %w", h, len(data), got, ErrMismatch)
	}
	return nil
}

// String returns 64 hex digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// CID is the name of a record with this hash.
func (h Hash) CID() cid.Cid { return cid.NewCidV1(cid.Raw, h.multihash()) }

// TxnCID is the name of a transaction record with this hash.
func (h Hash) TxnCID() cid.Cid { return cid.NewCidV1(cid.DagCBOR, h.multihash()) }

// FileCID is the name of a file of size bytes whose UnixFS tree has this root (unixfs.go).
func (h Hash) FileCID(size int64) cid.Cid {
	if size <= ChunkSize {
		return h.CID() // one chunk, itself the root
	}
	return cid.NewCidV1(cid.DagProtobuf, h.multihash())
}

func (h Hash) multihash() multihash.Multihash {
	// 0x12: sha2-256, 0x20: 32 bytes follow. (multihash.Encode cannot fail for these.)
	return append(multihash.Multihash{multihash.SHA2_256, sha256.Size}, h[:]...)
}

// HashOf returns the digest in a CID of whatever version and codec: ErrForeign if it is not sha2-256.
func HashOf(c cid.Cid) (Hash, error) {
	if !c.Defined() {
		return Hash{}, fmt.Errorf("undefined CID: %w", ErrForeign)
	}
	d, err := multihash.Decode(c.Hash())
	if err != nil {
		return Hash{}, fmt.Errorf("CID %s: %w: %w", c, ErrForeign, err)
	}
	if d.Code != multihash.SHA2_256 || d.Length != sha256.Size {
		return Hash{}, fmt.Errorf("CID %s uses hash function 0x%x: %w", c, d.Code, ErrForeign)
	}
	return Hash(d.Digest), nil
}
