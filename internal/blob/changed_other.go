//go:build !linux

package blob

import (
	"io/fs"
	"os"
)

// sameChange compares the times of writing, which an application can set, and the sizes.
func sameChange(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}
