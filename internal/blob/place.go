package blob

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"

	"github.com/zodb-dht/zodb_dht/internal/index"
)

// Place is a directory as it was when There was asked first: a blob directory, or a database's. Its files are used by name: if another one is
// put there while it is open, such as a backup, its files would be removed and overwritten, whoever serves it. So names are made and removed
// only while the directory is the one that it was. Any goroutine.
type Place struct {
	Path string
	was  atomic.Pointer[fs.FileInfo] // nil: not made yet, or in memory
}

// There is nil, or index.ErrMoved. It is index.Config.There of a database.
func (p *Place) There() error {
	now, err := os.Stat(p.Path)
	was := p.was.Load()
	switch {
	case was == nil && err == nil:
		p.was.CompareAndSwap(nil, &now)
		return nil
	case was == nil, err == nil && os.SameFile(*was, now), err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil // what else is wrong, the operation itself tells
	}
	return fmt.Errorf("%s: %w", p.Path, index.ErrMoved)
}
