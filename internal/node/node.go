package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zodb-dht/zodb_dht/internal/blob"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/replica"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// ErrReadOnly says that the node was opened read-only.
var ErrReadOnly = errors.New("read-only")

// ErrTooLarge says that a record or a transaction exceeds its limit.
var ErrTooLarge = errors.New("too large")

// Node is a peer embedded in this process.
type Node struct {
	cfg   Config
	dir   *directory
	store *index.Store
	log   *replica.Replica
	cache *recordCache
	ahead *readahead
	pins  pins
	sweep sweeper
	pack  packing
	blobs *blob.Dir
	refs  *blob.Refs

	visible atomic.Uint64 // Invariant: only rises; below every held tid
	closed  atomic.Bool
	poison  atomic.Pointer[poisoning]
	started atomic.Bool  // log and store are set
	held    bool         // the store did not open, and has the directory until the process ends; for stop
	calls   sync.RWMutex // read-locked by each operation under way; Close locks it before it closes what they use

	// mu orders publication. Taken before a cache shard's. Never held across I/O or a call into the log.
	mu struct {
		sync.Mutex
		closing bool
		applied zodb.Tid // the last committed transaction, visible or not
		changes changes
		holds   map[zodb.TxnID]bool      // to be held when they are committed
		held    map[zodb.Tid]*time.Timer // committed, waiting for Publish or their timer
		behind  []waiter                 // committed behind a held one; in no order
	}
}

type poisoning struct{ err error }

// waiter is told once tid is visible. seen may neither block nor call the node.
type waiter struct {
	tid  zodb.Tid
	seen func()
}

var _ Operations = (*Node)(nil)

// Open opens a peer directory, making it if it may, and returns when this peer has applied everything that its log says
// is committed. ErrUsage, ErrNotDirectory, ErrNoPeer, ErrPermission, *InUse, index.ErrNewerFormat, *index.Corrupt.
func Open(ctx context.Context, cfg Config) (_ *Node, err error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	if cfg.Path, err = filepath.Abs(cfg.Path); err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg}
	n.pins.held = make(map[uint64]pin)
	n.sweep.init()
	n.mu.holds, n.mu.held = make(map[zodb.TxnID]bool), make(map[zodb.Tid]*time.Timer)
	if n.dir, err = openDirectory(cfg.Path, cfg.Create && !cfg.ReadOnly, cfg.ReadOnly); err != nil {
		return nil, err
	}
	n.cache = newRecordCache(cfg.CacheSize * 3 / 8) // stop gives its memory back
	if err := n.start(ctx); err != nil {
		return nil, errors.Join(err, n.stop())
	}
	return n, nil
}

func (n *Node) start(ctx context.Context) (err error) {
	at := blob.Place{Path: n.dir.database()}
	n.store, err = index.Open(index.Config{
		Dir: n.dir.database(), FS: n.cfg.FS, Create: n.dir.fresh, Frozen: n.dir.frozen, CacheBytes: n.cfg.CacheSize / 4, Resting: true,
		Broken: n.Poison, Sweeping: n.removeBlobs, There: at.There, Logger: n.cfg.Logger,
	})
	if err != nil {
		n.held = errors.Is(err, index.ErrHeld)
		return openError(n.dir.database(), err)
	}
	if n.dir.fresh {
		if err := n.dir.found(); err != nil {
			return err
		}
	}
	if err := n.openBlobs(); err != nil {
		return err
	}
	st := n.store.Stats()
	n.ahead = newReadahead(n.cache, n.store, n.cache.fits(st))
	n.mu.applied, n.mu.changes.from = st.LastTid, st.LastTid
	n.visible.Store(uint64(st.LastTid))
	n.log, err = replica.Open(ctx, replica.Config{
		DB: n.store.DB(), Frozen: n.dir.frozen, Left: n.store.Left(), FS: n.cfg.FS, Dir: n.dir.database(), State: n.store, Applied: n.applied, Told: n.told, Parked: n.store.Parked(), Poisoned: n.Poison, Logger: n.cfg.Logger,
		VoteWait: time.Duration(n.cfg.VoteWait), Lease: time.Duration(n.cfg.Lease),
		FinishTimeout: time.Duration(n.cfg.FinishTimeout),
	})
	if err != nil {
		return openError(n.dir.database(), err)
	}
	n.started.Store(true)
	if err := n.Broken(); err != nil { // while it started
		n.end(err)
		return nil // what is staged stays: not all that is committed may be applied
	}
	if err := n.apart(func() error { return n.blobs.Resolve(ctx) }); err != nil {
		return err
	}
	if !n.dir.frozen {
		n.sweep.start(n)
	}
	return nil
}

// panicGrace is how long a close waits for Pebble where that panicked on a failed write: it may hold a lock for good.
const panicGrace = time.Second

// end tells the log and the store that this node is poisoned.
func (n *Node) end(err error) {
	n.store.Fence()
	n.log.Poison(err)
}

// openError tells a file system's refusal from damage.
func openError(path string, err error) error {
	if err == nil {
		return nil
	}
	if p := pathError(path, err); errors.Is(p, ErrPermission) {
		return p
	}
	if errors.Is(err, index.ErrUnclosed) {
		return fmt.Errorf("%w: %w", ErrPermission, err)
	}
	return err
}

// applied is called by the log after each Apply, in order: cached entries end at the transaction before readers may see it.
func (n *Node) applied(o index.Outcome) {
	switch o.Verdict {
	case index.OidsGiven, index.Nothing, index.Rescan:
		return
	case index.Collected:
		n.cache.drop(o.Oids)
		return
	case index.Packed:
		n.sweep.wake()
		return
	}
	misplaced := n.settleBlobs(o)
	if misplaced != nil { // the files are still staged, and the next open finds them
		n.Poison(misplaced)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	hold := n.mu.holds[o.TxnID]
	delete(n.mu.holds, o.TxnID)
	if o.Verdict != index.Committed || o.Repeated {
		return
	}
	n.cache.applied(o.Tid, o.Oids)
	n.mu.changes.add(o.Tid, o.Oids)
	n.mu.applied = o.Tid
	if hold && !n.mu.closing {
		tid := o.Tid
		// The guard: Python may die, or forget, between Finish and Publish.
		n.mu.held[tid] = time.AfterFunc(time.Duration(n.cfg.Lease), func() { n.Publish(tid) })
	}
	if misplaced != nil {
		never := time.NewTimer(0)
		never.Stop()
		n.mu.held[o.Tid] = never // nobody sees a transaction whose blobs are not in place
	}
	n.publishLocked()
}

// told is called by the log when the proposer has its answer, which need not wait for this: what he wrote goes into the cache.
func (n *Node) told(o index.Outcome) {
	if o.Verdict == index.Committed && !o.Repeated {
		n.cache.keep(o.Tid, o.Writes)
	}
}

// publishLocked moves the visible position up to the first held transaction. REQUIRES: n.mu.
func (n *Node) publishLocked() {
	to := n.mu.applied
	for tid := range n.mu.held {
		if tid <= to {
			to = tid - 1
		}
	}
	if uint64(to) > n.visible.Load() {
		n.visible.Store(uint64(to))
	}
	n.mu.behind = slices.DeleteFunc(n.mu.behind, func(w waiter) bool {
		if w.tid > n.Visible() {
			return false
		}
		w.seen()
		return true
	})
}

// whenVisible calls seen once readers see tid, which is applied: at once, but for a held one before it. That waits for its lease at most.
func (n *Node) whenVisible(tid zodb.Tid, seen func()) {
	if n.Visible() < tid {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.Visible() < tid {
			n.mu.behind = append(n.mu.behind, waiter{tid, seen})
			return
		}
	}
	seen()
}

// Publish is Operations.Publish.
func (n *Node) Publish(tid zodb.Tid) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if t := n.mu.held[tid]; t != nil {
		t.Stop()
		delete(n.mu.held, tid)
		n.publishLocked()
	}
}

// Poison ends this node's commits for good; the first cause is kept. It may be called from any goroutine, also one that
// holds Pebble's locks: it waits for nothing.
func (n *Node) Poison(err error) {
	if err == nil {
		return
	}
	first := n.poison.CompareAndSwap(nil, &poisoning{err})
	if n.started.Load() { // not the first alone: nothing behind this call may be acknowledged, and that one may be on its way still
		n.end(err)
	}
	if first {
		n.cfg.Logger.Error("this peer is broken: it commits nothing any more", "path", n.cfg.Path, "error", err.Error())
	}
}

// Broken returns what poisoned the node, nil if nothing did.
func (n *Node) Broken() error {
	if p := n.poison.Load(); p != nil {
		return p.err
	}
	return nil
}

// enter begins an operation; every successful one is followed by n.calls.RUnlock. Operations do not nest.
func (n *Node) enter() error {
	if n.closed.Load() { // a Close that waits for others is not waited for: the caller may have what they wait for
		return index.ErrClosed
	}
	n.calls.RLock()
	if n.closed.Load() {
		n.calls.RUnlock()
		return index.ErrClosed
	}
	return nil
}

// enterWrite begins an operation that writes.
func (n *Node) enterWrite() error {
	if n.cfg.ReadOnly {
		return ErrReadOnly
	}
	if err := n.Broken(); err != nil {
		return &replica.Broken{Cause: err}
	}
	return n.enter()
}

// Close ends the peer: operations under way are waited for (each has its deadline), the log stops, memory is written to tables.
// A second Close does nothing. A broken peer writes nothing any more; one whose disk parked Pebble for good keeps its directory until the
// process ends.
func (n *Node) Close() error {
	if !n.closed.CompareAndSwap(false, true) {
		return nil
	}
	n.mu.Lock()
	n.mu.closing = true
	for tid, t := range n.mu.held {
		t.Stop()
		delete(n.mu.held, tid)
	}
	n.publishLocked()
	n.mu.Unlock()
	return n.stop()
}

func (n *Node) stop() error {
	var errs []error
	var parked <-chan struct{}
	if n.store != nil {
		parked = n.store.Parked()
	}
	n.sweep.stop(parked)
	if n.log != nil {
		errs = append(errs, n.log.Close())
		n.store.Leave(n.log.Left())
	}
	n.calls.Lock()
	defer n.calls.Unlock()
	if n.blobs != nil {
		errs = append(errs, n.blobs.Close())
	}
	if n.ahead != nil {
		n.ahead.close()
	}
	n.cache.close()
	if n.store != nil {
		if n.store.Doubtful() {
			defer time.AfterFunc(panicGrace, n.store.Abandon).Stop()
		}
		errs = append(errs, n.store.Close())
		if n.store.Abandoned() {
			// The directory stays this process': who opens it is told so, until the process ends.
			return errors.Join(errs...)
		}
	}
	if n.held { // as above
		return errors.Join(errs...)
	}
	return errors.Join(append(errs, n.dir.close())...)
}
