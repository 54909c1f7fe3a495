package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Blobs is State.Blobs. A revision that its row names and that is not there, or not readable, comes as a *Corrupt.
func (s *Store) Blobs(root zodb.Hash, yield func(Revision, error) bool) (err error) {
	lower := []byte{rowBlob}
	if root != (zodb.Hash{}) {
		lower = append(lower, root[:hashPrefix]...)
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: append(bytes.Clone(lower), bytes.Repeat([]byte{0xff}, hashKeyLen)...)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		k := it.Key()[1+hashPrefix:]
		rev, err := s.blobAt(zodb.Oid(binary.BigEndian.Uint64(k)), zodb.Tid(binary.BigEndian.Uint64(k[8:])), [hashPrefix]byte(it.Key()[1:]))
		if errors.Is(err, ErrNotFound) {
			// A sweep deletes a record with its blob's row.
			_, closer, gone := s.db.Get(it.Key())
			if errors.Is(gone, pebble.ErrNotFound) {
				continue
			}
			if gone != nil {
				return damage(rev.Oid, rev.Tid, gone)
			}
			if err := closer.Close(); err != nil {
				return err
			}
			err = &Corrupt{Oid: rev.Oid, Tid: rev.Tid, Cause: errors.New("a blob's row names a record that is not there")}
		}
		var c *Corrupt
		if err != nil && !errors.As(err, &c) {
			return err
		}
		if err == nil && root != (zodb.Hash{}) && rev.Blob.Root != root {
			continue // another file whose hash begins alike
		}
		if !yield(rev, err) {
			return nil
		}
	}
	return damage(0, 0, it.Error())
}

// blobAt returns the revision that a blob's row names, without its data. ErrNotFound: there is none.
func (s *Store) blobAt(oid zodb.Oid, tid zodb.Tid, begins [hashPrefix]byte) (Revision, error) {
	rev, err := s.revisionAt(oid, tid, false)
	if errors.Is(err, ErrNotFound) {
		return Revision{Oid: oid, Tid: tid}, ErrNotFound
	}
	if err == nil && [hashPrefix]byte(rev.Blob.Root[:]) != begins {
		return rev, &Corrupt{Oid: oid, Tid: tid, Cause: fmt.Errorf("a blob's row names it for a file %x..., it has %s", begins, rev.Blob.Root)}
	}
	return rev, err
}

// Blobs is State.Blobs.
func (m *Memory) Blobs(root zodb.Hash, yield func(Revision, error) bool) error {
	return m.Records(func(rev Revision, _ error) bool {
		rev.Data, rev.Next = nil, 0
		return !rev.Blob.Exists() || root != (zodb.Hash{}) && rev.Blob.Root != root || yield(rev, nil)
	})
}
