package blob

import (
	"os"
	"syscall"
)

// startWrite has the kernel begin to write a part of a file, and does not wait for the disk: a sync finds less left to do. It is
// a hint, so that an error is the sync's to tell.
func startWrite(f *os.File, from, size int64) {
	const write = 2 // SYNC_FILE_RANGE_WRITE
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _ = syscall.SyncFileRange(int(fd), from, size, write) })
}
