package blob

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Keys and values in the datastore; hashes are hex:
//
//	/blobs/<block's hash>/<root's hash>    kind 1 | a leaf (1): offset 8, size 4; an inner node (2): its bytes
//
// A reference belongs to a root: blocks that several files share are there once for each, so that one file's removal never
// touches another. Which files have that root says the state.
const (
	refsPrefix = "/blobs/"
	leafRef    = 1
	nodeRef    = 2
	leafRefLen = 1 + 8 + 4
)

// Revisions is what Refs and Resolve ask of the state.
type Revisions interface {
	Blobs(root zodb.Hash, yield func(index.Revision, error) bool) error
	History(oid zodb.Oid, n int) ([]index.Revision, error)
	Transactions(from, to zodb.Tid, yield func(index.Header) bool) error
}

// Refs finds the blocks of blobs' files by their hashes. Leaves are read from the files, inner nodes lie in the datastore. It is
// block.Records.
type Refs struct {
	ds   datastore.Batching
	revs Revisions
	path func(zodb.Oid, zodb.Tid) string // set by Open

	// mu makes a root's references whole or gone; held across Pebble, not across the reading of files.
	mu    sync.Mutex
	users map[zodb.Hash]int // staged files whose references are written
}

// NewRefs keeps references in ds, which belongs to the caller.
func NewRefs(ds datastore.Batching, revs Revisions) *Refs {
	return &Refs{ds: ds, revs: revs, users: make(map[zodb.Hash]int)}
}

// some tells whether a committed revision has a file.
func (r *Refs) some() (found bool, _ error) {
	err := r.revs.Blobs(zodb.Hash{}, func(index.Revision, error) bool { found = true; return false })
	return found, err
}

// tree collects what Import tells: 40 bytes for each 256 KiB of a file, and the inner nodes, of about as many.
type tree struct {
	leaves []leaf
	nodes  []node
}

type leaf struct {
	hash   zodb.Hash
	offset int64
	size   uint32
}

type node struct {
	hash zodb.Hash
	data []byte
}

func (t *tree) Leaf(h zodb.Hash, offset int64, size int) error {
	t.leaves = append(t.leaves, leaf{h, offset, uint32(size)})
	return nil
}

func (t *tree) Node(h zodb.Hash, data []byte) error {
	t.nodes = append(t.nodes, node{h, data})
	return nil
}

func refKey(h, root zodb.Hash) datastore.Key {
	return datastore.RawKey(refsPrefix + hex.EncodeToString(h[:]) + "/" + hex.EncodeToString(root[:]))
}

// keep writes a file's references, not synced, and counts one user of the root, until release or drop.
func (r *Refs) keep(ctx context.Context, root zodb.Hash, t *tree) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.users[root] == 0 { // else they are there
		b, err := r.ds.Batch(ctx)
		if err != nil {
			return err
		}
		for i := range t.leaves {
			l := &t.leaves[i]
			v := binary.BigEndian.AppendUint64(append(make([]byte, 0, leafRefLen), leafRef), uint64(l.offset))
			if err := b.Put(ctx, refKey(l.hash, root), binary.BigEndian.AppendUint32(v, l.size)); err != nil {
				return err
			}
		}
		for i := range t.nodes {
			n := &t.nodes[i]
			if err := b.Put(ctx, refKey(n.hash, root), append([]byte{nodeRef}, n.data...)); err != nil {
				return err
			}
		}
		if err := b.Commit(ctx); err != nil {
			return err
		}
	}
	r.users[root]++
	return nil
}

// release ends a staged file's use of its root: a committed one's row goes on.
func (r *Refs) release(root zodb.Hash) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.releaseLocked(root)
}

func (r *Refs) releaseLocked(root zodb.Hash) {
	if r.users[root]--; r.users[root] <= 0 {
		delete(r.users, root)
	}
}

// drop ends a staged file's use of its root, and removes the references if nobody else uses them.
func (r *Refs) drop(ctx context.Context, root zodb.Hash) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.releaseLocked(root)
	return r.sweepLocked(ctx, root, nil)
}

// Sweep removes a root's references unless a revision or a staged file has it: to be called when one has gone.
func (r *Refs) Sweep(ctx context.Context, root zodb.Hash) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sweepLocked(ctx, root, nil)
}

// sweepLocked does not count the revisions that are going. REQUIRES: r.mu.
func (r *Refs) sweepLocked(ctx context.Context, root zodb.Hash, going func(index.Revision) bool) error {
	used := r.users[root] > 0
	if !used {
		if err := r.revs.Blobs(root, func(rev index.Revision, err error) bool {
			used = err != nil || going == nil || !going(rev) // a row that can't be read may be another's
			return !used
		}); err != nil {
			return err
		}
	}
	if used {
		return nil
	}
	b, err := r.ds.Batch(ctx)
	if err != nil {
		return err
	}
	if err := r.remove(ctx, b, root, root); err != nil {
		return err
	}
	return b.Commit(ctx)
}

// remove deletes the reference to h below root, and those below it, found by the links in the node's own bytes.
func (r *Refs) remove(ctx context.Context, b datastore.Batch, h, root zodb.Hash) error {
	key := refKey(h, root)
	v, err := r.ds.Get(ctx, key)
	if errors.Is(err, datastore.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(v) > 0 && v[0] == nodeRef {
		n, err := merkledag.DecodeProtobuf(v[1:])
		if err != nil {
			return fmt.Errorf("node %s: %w", h, err)
		}
		for _, l := range n.Links() {
			below, err := block.HashOf(l.Cid)
			if err != nil {
				return err
			}
			if l.Cid.Type() == cid.Raw {
				err = b.Delete(ctx, refKey(below, root))
			} else {
				err = r.remove(ctx, b, below, root)
			}
			if err != nil {
				return err
			}
		}
	}
	return b.Delete(ctx, key)
}

// Data is block.Records.Data: the first copy whose bytes match; where none does, what is wrong with the last one.
func (r *Refs) Data(h block.Hash) (data []byte, found bool, err error) {
	var bad error
	err = r.each(h, func(v []byte, rev index.Revision) bool {
		b, e := r.read(v, rev)
		if e == nil {
			e = block.Check(h, b)
		}
		if e != nil {
			bad = &index.Corrupt{Oid: rev.Oid, Tid: rev.Tid, Blob: rev.Blob, File: r.path(rev.Oid, rev.Tid), Cause: e}
			return true
		}
		data, found = b, true
		return false
	})
	if err == nil && !found {
		err = bad
	}
	return data, found, err
}

// read returns the bytes of one reference.
func (r *Refs) read(v []byte, rev index.Revision) (_ []byte, err error) {
	if v[0] == nodeRef {
		return v[1:], nil
	}
	f, err := os.Open(r.path(rev.Oid, rev.Tid))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b := make([]byte, binary.BigEndian.Uint32(v[9:]))
	_, err = f.ReadAt(b, int64(binary.BigEndian.Uint64(v[1:])))
	return b, err
}

// Size is block.Records.Size.
func (r *Refs) Size(h block.Hash) (size int, found bool, err error) {
	err = r.each(h, func(v []byte, _ index.Revision) bool {
		size, found = len(v)-1, true
		if v[0] == leafRef {
			size = int(binary.BigEndian.Uint32(v[9:]))
		}
		return false
	})
	return size, found, err
}

// each calls yield for every reference to h and every committed revision that it serves.
func (r *Refs) each(h block.Hash, yield func([]byte, index.Revision) bool) error {
	return r.query(hex.EncodeToString(h[:]), func(key string, v []byte) (bool, error) {
		_, root, err := parseRefKey(key)
		if err != nil || !isRef(v) {
			return false, fmt.Errorf("reference %s of %d bytes: %w", key, len(v), zodb.ErrMalformed)
		}
		more := true
		err = r.revs.Blobs(root, func(rev index.Revision, err error) bool {
			if err == nil {
				more = yield(v, rev)
			}
			return more
		})
		return more, err
	})
}

// isRef tells whether a value is one that keep writes.
func isRef(v []byte) bool {
	return len(v) == leafRefLen && v[0] == leafRef || len(v) > 0 && v[0] == nodeRef
}

// Hashes is block.Records.Hashes.
func (r *Refs) Hashes(yield func(block.Hash) bool) error {
	return r.query("", func(key string, _ []byte) (bool, error) {
		h, _, err := parseRefKey(key)
		if err != nil {
			return false, err
		}
		return yield(h), nil
	})
}

// parseRefKey is the inverse of refKey.
func parseRefKey(key string) (h, root zodb.Hash, err error) {
	hashes := strings.Split(strings.TrimPrefix(key, refsPrefix), "/")
	if len(hashes) == 2 && len(hashes[0]) == hex.EncodedLen(len(h)) && len(hashes[1]) == hex.EncodedLen(len(root)) {
		_, err = hex.Decode(h[:], []byte(hashes[0]))
		_, err2 := hex.Decode(root[:], []byte(hashes[1]))
		if err == nil && err2 == nil {
			return h, root, nil
		}
	}
	return h, root, fmt.Errorf("reference %s: %w", key, zodb.ErrMalformed)
}

// query calls each for every reference to the block whose hash begins the key; "" is every block.
func (r *Refs) query(hash string, each func(key string, v []byte) (bool, error)) (err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	res, err := r.ds.Query(ctx, query.Query{Prefix: refsPrefix + hash})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, res.Close()) }()
	for {
		e, ok := res.NextSync()
		if !ok {
			return nil
		}
		if e.Error != nil {
			return e.Error
		}
		more, err := each(e.Key, e.Value)
		if !more || err != nil {
			return err
		}
	}
}
