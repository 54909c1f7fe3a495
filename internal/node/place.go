package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"

	"github.com/zodb-dht/zodb_dht/internal/index"
)

// place is the database's directory as it was opened. Pebble goes by names: if another one is put there while it is open, such as a backup,
// it would remove and overwrite that one's files, whoever serves it. So names are made and removed only while the directory is the one that
// it was. Any goroutine.
type place struct {
	dir string
	was atomic.Pointer[fs.FileInfo] // nil: not made yet, or in memory
}

// there is index.Config.There.
func (p *place) there() error {
	now, err := os.Stat(p.dir)
	was := p.was.Load()
	switch {
	case was == nil && err == nil:
		p.was.CompareAndSwap(nil, &now)
		return nil
	case was == nil, err == nil && os.SameFile(*was, now), err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil // what else is wrong, the operation itself tells
	}
	return fmt.Errorf("%s: %w", p.dir, index.ErrMoved)
}
