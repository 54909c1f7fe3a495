package blob

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Small files are hashed by whoever stages them, since another goroutine takes longer to wake up, and synced together by Seal: a journalling
// file system commits its journal once for all of them, and not while the next one is being staged.
const (
	// smallFile is the length of the largest one, in bytes: hashed in 80 us.
	smallFile = 128 << 10
	// manySmall is how many of a transaction may wait for Seal; each has a descriptor open, which tells of every failed write from then on.
	manySmall = 64
)

// readSmall hashes a small staged file, and has the disk begin to take it.
func (d *Dir) readSmall(oid zodb.Oid, s *staged) error {
	f, err := os.Open(s.name)
	if err != nil {
		return err
	}
	if s.info, err = f.Stat(); err == nil {
		err = d.makeRoom(oid)
	}
	if err == nil {
		startWrite(f, 0, s.info.Size())
		err = d.name(s, f, s.info)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	s.open = f
	return nil
}

// syncSmall makes a transaction's small files durable under their staged names. What fails is kept in each file's err; an error says that ctx has
// ended and that there is something to sync.
func (d *Dir) syncSmall(ctx context.Context, files map[zodb.Oid]*staged) error {
	var small []*staged
	for _, s := range files {
		if s.open != nil {
			small = append(small, s)
		}
	}
	if len(small) == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	var wg sync.WaitGroup
	var dir, above error
	wg.Go(func() { dir = SyncDir(filepath.Join(d.path, stagedDir)) })
	wg.Go(func() { above = d.names.sync(d.path) })
	for _, s := range small { // one after another: behind the first, a journal has them all, and elsewhere several at once were no faster
		s.err = s.open.Sync()
	}
	wg.Wait()
	for _, s := range small {
		s.err = errors.Join(s.err, dir, above)
		s.shut()
	}
	return nil
}

// relieve syncs a transaction's small files now and then, so that never more than manySmall wait; n files are staged for it.
func (d *Dir) relieve(id zodb.TxnID, n int) {
	if n%manySmall == 0 {
		_ = d.syncSmall(d.run, d.files(id)) // at Close nothing is synced any more
	}
}

// shut closes what waits to be synced.
func (s *staged) shut() {
	if s.open != nil {
		_ = s.open.Close() // it was only read
		s.open = nil
	}
}
