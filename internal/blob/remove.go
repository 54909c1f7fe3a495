package blob

import (
	"context"
	"errors"
	"fmt"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Revision names a committed file.
type Revision struct {
	Oid  zodb.Oid
	Tid  zodb.Tid
	Blob zodb.Blob
}

// Remove removes the files of revisions that nobody is answered from any more, before their rows are deleted: a crash in between leaves rows
// whose deletion, and this, are repeated, and never a file without a row. References stay while another revision or a staged
// file has the same content. What is not there any more is no error.
func (d *Dir) Remove(ctx context.Context, revs []Revision) error {
	if err := d.at.There(); err != nil {
		return fmt.Errorf("remove blobs: %w", err)
	}
	gone := make(map[zodb.Hash]map[Revision]bool)
	for _, rev := range revs {
		if err := removeIfThere(d.Path(rev.Oid, rev.Tid)); err != nil {
			return fmt.Errorf("remove the blob of oid %s at tid %s: %w", rev.Oid, rev.Tid, err)
		}
		d.prune(rev.Oid)
		if gone[rev.Blob.Root] == nil {
			gone[rev.Blob.Root] = make(map[Revision]bool)
		}
		gone[rev.Blob.Root][rev] = true
	}
	var errs []error
	for root, revs := range gone {
		errs = append(errs, d.refs.leave(ctx, root, revs))
	}
	return errors.Join(errs...)
}

// leave removes a root's references unless a revision that is not going, or a staged file, has it.
func (r *Refs) leave(ctx context.Context, root zodb.Hash, going map[Revision]bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sweepLocked(ctx, root, func(rev index.Revision) bool { return going[Revision{rev.Oid, rev.Tid, rev.Blob}] })
}
