package index

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"
)

// place is the directory as it was opened. Pebble goes by names: if another one is put there while it is open, such as a backup, it would
// remove and overwrite that one's files, whoever serves it. So names are made and removed only while the directory is the one that it was.
type place struct {
	dir string
	was atomic.Pointer[fs.FileInfo] // nil: not made yet, or in memory
}

// ErrMoved says that a directory is not any more where it was opened.
var ErrMoved = errors.New("it was moved, removed or replaced while it was open; end this process, nothing is written there any more")

// check calls broken, and returns its error, if the directory is not there any more.
func (p *place) check(broken func(error)) error {
	now, err := os.Stat(p.dir)
	was := p.was.Load()
	switch {
	case was == nil && err == nil:
		p.was.CompareAndSwap(nil, &now)
		return nil
	case was == nil, err == nil && os.SameFile(*was, now), err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil // what else is wrong, the operation itself tells
	}
	err = fmt.Errorf("%s: %w", p.dir, ErrMoved)
	broken(err)
	return err
}
