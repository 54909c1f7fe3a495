package node

import "sync"

// arena hands out the pieces of memory that hold cached records. They are not the Go collector's: it neither scans them nor lets
// as much garbage pile up beside them. Their pages are asked for at once, since filling the cache after an open would spend a fifth
// of its time in faults. They are not huge ones: some systems take ten times as long to find these.
type arena struct {
	piece int // bytes of each
	mu    sync.Mutex
	whole []byte   // the mapping; nil after close
	zones [2]zone  // its halves
	free  [][]byte // handed back
}

// zone is a half of the mapping. The kernel locks the page table, of 2 MiB, in which it notes a page: two threads that ask for
// pages side by side wait for each other.
type zone struct {
	fresh  []byte // was never handed out
	asking int    // goroutines that ask for its pages at the moment
}

// newArena reserves bytes; what was never handed out takes no memory.
func newArena(bytes, piece int) *arena {
	whole := mapMemory(bytes)
	a := &arena{piece: piece, whole: whole}
	half := len(whole) / 2 / piece * piece
	a.zones[0].fresh, a.zones[1].fresh = whole[:half:half], whole[half:]
	return a
}

// get returns a piece with any content.
func (a *arena) get() []byte {
	p, z := a.next()
	if z != nil {
		touchMemory(p) // takes as long as filling it: nobody waits for that
		a.mu.Lock()
		z.asking--
		a.mu.Unlock()
	}
	return p
}

// next is a piece, and the zone in which it needs pages, nil if it has them.
func (a *arena) next() ([]byte, *zone) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := len(a.free); n > 0 {
		p := a.free[n-1]
		a.free = a.free[:n-1]
		return p, nil
	}
	z, other := &a.zones[0], &a.zones[1]
	if len(z.fresh) < a.piece || z.asking > other.asking && len(other.fresh) >= a.piece {
		z = other
	}
	if len(z.fresh) < a.piece {
		return make([]byte, a.piece), nil // the system gave none
	}
	p := z.fresh[:a.piece:a.piece]
	z.fresh = z.fresh[a.piece:]
	z.asking++
	return p, z
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
	a.whole, a.zones, a.free = nil, [2]zone{}, nil
	unmapMemory(whole)
}
