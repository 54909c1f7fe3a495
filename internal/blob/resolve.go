package blob

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Resolve gives every staged file its due, when all that the log says is committed was applied and nothing is under way: a file whose
// transaction committed goes to its final name, the others are removed. The state's rows say which, however long ago that was.
func (d *Dir) Resolve(ctx context.Context) error {
	for id, files := range d.all() {
		for oid := range files {
			tid, err := d.committed(id, oid)
			if err == nil && tid != 0 {
				err = d.Commit(id, tid)
			} else if err == nil {
				err = d.forsake(ctx, id, oid)
			}
			if err != nil {
				return fmt.Errorf("resolve the staged blob %s: %w", stagedName(id, oid), err)
			}
		}
	}
	return nil
}

func (d *Dir) all() map[zodb.TxnID]map[zodb.Oid]*staged {
	all := make(map[zodb.TxnID]map[zodb.Oid]*staged)
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, files := range d.staged {
		all[id] = make(map[zodb.Oid]*staged, len(files))
		for oid, s := range files {
			all[id][oid] = s
		}
	}
	return all
}

// committed is the tid by which a transaction wrote oid, 0 if it never did.
func (d *Dir) committed(id zodb.TxnID, oid zodb.Oid) (tid zodb.Tid, err error) {
	revs, err := d.refs.revs.History(oid, int(^uint(0)>>1))
	if errors.Is(err, index.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for _, rev := range revs {
		if !rev.Blob.Exists() {
			continue
		}
		err := d.refs.revs.Transactions(rev.Tid, rev.Tid, func(h index.Header) bool {
			if h.ID == id {
				tid = h.Tid
			}
			return false
		})
		if err != nil || tid != 0 {
			return tid, err
		}
	}
	return 0, nil
}

// forsake removes a file from before this open whose transaction did not commit. It may have got as far as to have references: its
// content says which.
func (d *Dir) forsake(ctx context.Context, id zodb.TxnID, oid zodb.Oid) error {
	s := d.take(id, oid)
	blob, err := Identify(ctx, s.name)
	if err != nil {
		return err
	}
	d.prune(oid)
	return errors.Join(removeIfThere(s.name), d.refs.Sweep(ctx, blob.Root))
}

// Identify reads a file and names its content.
func Identify(ctx context.Context, name string) (_ zodb.Blob, err error) {
	f, err := os.Open(name)
	if err != nil {
		return zodb.Blob{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return zodb.Blob{}, err
	}
	root, err := block.Import(ctx, f, info.Size(), nil)
	return zodb.Blob{Root: root, Size: info.Size()}, err
}
