package node

import "sync"

// arena hands out the pieces of memory that hold cached records. They are not the Go collector's: it neither scans them nor lets
// as much garbage pile up beside them. Their pages are asked for at once, since filling the cache after an open would spend a fifth
// of its time in faults. They are not huge ones: some systems take ten times as long to find these.
type arena struct {
	piece int // bytes of each
	mu    sync.Mutex
	whole []byte // the mapping, of which `fresh` was never handed out; nil after close
	fresh []byte
	free  [][]byte // handed back
}

// newArena reserves bytes; what was never handed out takes no memory.
func newArena(bytes, piece int) *arena {
	whole := mapMemory(bytes)
	return &arena{piece: piece, whole: whole, fresh: whole}
}

// get returns a piece with any content.
func (a *arena) get() []byte {
	p, fresh := a.next()
	if fresh {
		touchMemory(p) // takes as long as filling it: nobody waits for that
	}
	return p
}

func (a *arena) next() (p []byte, fresh bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := len(a.free); n > 0 {
		p = a.free[n-1]
		a.free = a.free[:n-1]
		return p, false
	}
	if len(a.fresh) >= a.piece {
		p = a.fresh[:a.piece:a.piece]
		a.fresh = a.fresh[a.piece:]
		return p, true
	}
	return make([]byte, a.piece), false // the system gave none
}

// put takes a piece back.
func (a *arena) put(p []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.free = append(a.free, p)
}

// close gives all memory back. Nobody may use a piece any more.
func (a *arena) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	whole := a.whole
	a.whole, a.fresh, a.free = nil, nil, nil
	unmapMemory(whole)
}
