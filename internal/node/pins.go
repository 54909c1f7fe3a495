package node

import (
	"context"
	"sync"
	"time"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// pins are the snapshots that readers of this process are at. A pack waits for those before its position.
type pins struct {
	mu      sync.Mutex // guards all below. Stands alone; never held across I/O
	held    map[uint64]pin
	changed chan struct{} // closed and forgotten when a pin moves or goes; nil: nobody waits
}

type pin struct {
	at     zodb.Tid
	thread uint64
}

// Pin is Operations.Pin.
func (n *Node) Pin(ctx context.Context, reader, thread uint64, prev zodb.Tid) (zodb.Tid, []index.Change, bool, error) {
	if err := n.enter(); err != nil {
		return 0, nil, false, err
	}
	defer n.calls.RUnlock()
	n.pins.mu.Lock()
	now := n.Visible() // under the lock: a pack to here sees the pin, or the pin is not before it
	was := n.pins.held[reader]
	n.pins.held[reader] = pin{now, thread}
	n.pins.tell()
	n.pins.mu.Unlock()
	if prev > zodb.MaxTid {
		return now, nil, true, nil
	}
	now, changed, known, err := n.advance(ctx, prev, now)
	if err != nil {
		n.pins.restore(reader, was)
	}
	return now, changed, known, err
}

// restore puts a reader back to where he was: the zero pin is nowhere.
func (p *pins) restore(reader uint64, was pin) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if was == (pin{}) {
		delete(p.held, reader)
	} else {
		p.held[reader] = was
	}
	p.tell()
}

// Unpin is Operations.Unpin.
func (n *Node) Unpin(reader uint64) {
	n.pins.mu.Lock()
	defer n.pins.mu.Unlock()
	delete(n.pins.held, reader)
	n.pins.tell()
}

// tell wakes who waits. REQUIRES: p.mu.
func (p *pins) tell() {
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// before counts the snapshots before `to` that are not of thread's, and returns what is closed when that may have changed.
func (p *pins) before(to zodb.Tid, thread uint64) (int, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, h := range p.held {
		if h.at < to && (thread == 0 || h.thread != thread) {
			n++
		}
	}
	if n > 0 && p.changed == nil {
		p.changed = make(chan struct{})
	}
	return n, p.changed
}

// wait waits until no snapshot lies before `to`, or for d, and returns how many still do.
func (p *pins) wait(ctx context.Context, to zodb.Tid, thread uint64, d time.Duration) (int, error) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		n, changed := p.before(to, thread)
		if n == 0 {
			return 0, nil
		}
		select {
		case <-changed:
		case <-timer.C:
			return n, nil
		case <-ctx.Done():
			return n, ctx.Err()
		}
	}
}
