package blob

import (
	"io/fs"
	"syscall"
)

// sameChange compares the times of change that nobody can set, and the sizes.
func sameChange(a, b fs.FileInfo) bool {
	x, ok := a.Sys().(*syscall.Stat_t)
	y, ok2 := b.Sys().(*syscall.Stat_t)
	return ok && ok2 && x.Ino == y.Ino && x.Dev == y.Dev && x.Size == y.Size && x.Ctim == y.Ctim
}
