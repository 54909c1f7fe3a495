package node

import "golang.org/x/sys/unix"

// mapMemory reserves n bytes outside of Go's heap; nil if there are none.
func mapMemory(n int) []byte {
	p, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil
	}
	return p
}

// touchMemory gives pages to p, a part of what was mapped, if the kernel can do it at once.
func touchMemory(p []byte) { _ = unix.Madvise(p, unix.MADV_POPULATE_WRITE) }

func unmapMemory(p []byte) {
	if p != nil {
		_ = unix.Munmap(p) // it was mapped as it is
	}
}
