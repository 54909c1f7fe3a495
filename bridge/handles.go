package main

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/zodb-dht/zodb_dht/internal/node"
)

// handles names open nodes to C, which can't hold a pointer of Go's: a slot and how often it was used. The one global of the
// bridge: C has nothing else to find a node by.
var handles struct { //nolint:gochecknoglobals // see above
	slots [256]atomic.Pointer[node.Node]
	uses  [256]atomic.Uint32
	mu    sync.Mutex // guards giving a slot out
}

func handleOf(n *node.Node) (uint64, error) {
	handles.mu.Lock()
	defer handles.mu.Unlock()
	for i := range handles.slots {
		if handles.slots[i].Load() == nil {
			use := handles.uses[i].Add(1)
			handles.slots[i].Store(n)
			return uint64(use)<<8 | uint64(i), nil
		}
	}
	return 0, fmt.Errorf("%w: %d peer directories are open in this process", node.ErrUsage, len(handles.slots))
}

// nodeOf returns nil when it was closed. The slot is read first: one that was given out anew has counted that before.
func nodeOf(h uint64) *node.Node {
	n := handles.slots[h&0xff].Load()
	if uint64(handles.uses[h&0xff].Load()) != h>>8 {
		return nil
	}
	return n
}

// forget gives n's slot back.
func forget(h uint64, n *node.Node) { handles.slots[h&0xff].CompareAndSwap(n, nil) }
