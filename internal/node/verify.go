package node

import (
	"context"
	"errors"

	"github.com/cockroachdb/pebble/v2"
	"github.com/ipfs/boxo/blockstore"
	ds "github.com/ipfs/go-ds-pebble"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
)

// Report is what Verify found.
type Report struct {
	index.Report
	Blobs    uint64   // files that revisions have, read and hashed
	BlobSize uint64   // bytes in them
	Orphans  []string // files that no revision has, at most maxOrphans. No damage
}

// Verify opens the peer in dir, reads and hashes all that it holds, and closes it: an error if it does not open.
func Verify(ctx context.Context, dir string, progress func(done, total uint64)) (Report, error) {
	n, err := Open(ctx, Config{Path: dir, ReadOnly: true})
	if err != nil {
		return Report{}, err
	}
	report, err := n.Verify(ctx, progress)
	return report, errors.Join(err, n.Close())
}

// Verify is index.Store.Verify on an open peer, and reads every blob's file. Damage that the open met and went on from is in the report, too.
func (n *Node) Verify(ctx context.Context, progress func(done, total uint64)) (r Report, err error) {
	if err := n.enter(); err != nil {
		return Report{}, err
	}
	defer n.calls.RUnlock()
	if r.Report, err = n.store.Verify(ctx, progress); err != nil {
		return r, err
	}
	if damage := n.log.Damaged(); damage != nil {
		if err := r.Note(damage); err != nil {
			return r, err
		}
	}
	return r, n.verifyBlobs(ctx, &r, progress)
}

// Blocks serves the peer's records and the blocks of its blobs by CID, and keeps blocks that are no records beside them in the same Pebble instance. It may
// be used until Close.
func (n *Node) Blocks() (blockstore.Blockstore, error) {
	// The datastore is not closed: that would close the instance, which is the state's.
	others, err := ds.NewDatastore("", ds.WithPebbleDB(n.store.DB()), ds.WithPebbleWriteOptions(pebble.Sync))
	if err != nil {
		return nil, err
	}
	return block.NewView(block.Joined{n.store, n.refs}, block.NewOthers(others)), nil
}
