package index

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Store is the State in Pebble, and the owner of the instance that the log and other blocks live in, too.
type Store struct {
	db       *pebble.DB
	cache    *pebble.Cache
	broken   atomic.Bool
	fence    fence
	opts     *pebble.Options
	fs       vfs.FS
	dir      string
	dense    atomic.Bool                             // flushed tables are compressed as well as possible: copies, and what a close leaves
	blobs    func(context.Context, []Revision) error // Config.Sweeping
	parked   chan struct{}                           // closed when a call into Pebble never came back: it holds Pebble's locks for good
	abandon  func()                                  // closes parked; set by openPebble
	panicked atomic.Bool

	compactions *compactions

	// Written by Apply only.
	heads    *recent[zodb.Oid, head]
	outcomes *recent[zodb.TxnID, Position]
	opened   Position // outcomes knows all positions above it
	torn     *TornTail
	prepared *prepared
	damaged  []Corrupt // files, as Open found them
	left     []byte    // by the log, as the closing note says; nil: there is none, or it can't be used
	leaving  []byte    // for the next one; nil: there shall be none
	scratch  []byte
	order    []int
	key      []byte
	applies  uint64     // how often heads was brought up to date
	headsMu  sync.Mutex // guards heads, outcomes, applies; Head may be asked beside Apply. Never held across a read of Pebble.

	current atomic.Pointer[state]
	gone    gone
	swept   atomic.Pointer[swept]
	// sweeping is held by each of a sweep's batches, and for reading by who must not see one: Verify.
	sweeping sync.RWMutex
	readers  readers
	settling sync.WaitGroup // makes durable what an open after a crash did; takeDown waits

	compacting compacting
}

// DB is the instance, for the log ('l' rows) and for blocks ('/' rows). It is the Store's to close.
func (s *Store) DB() *pebble.DB { return s.db }

// Stats is the state after the last Apply, and what the sweeps left of it.
func (s *Store) Stats() Stats {
	st := s.current.Load().Stats
	swept := s.swept.Load()
	st.Records -= swept.records
	st.DataSize -= swept.dataSize
	return st
}

// passing is how much of the block cache is left while everything is read once.
const passing = 4 << 20

// ReadOnce is for who reads everything and keeps it himself: until end is called, which must be before Close, few table blocks are kept. Their memory
// goes round in the allocator; fresh pages for all of them would cost as much as reading and decompressing them.
func (s *Store) ReadOnce() (end func()) {
	return s.cache.Reserve(max(0, int(s.cache.MaxSize())-passing))
}

// Settle lets compactions run that Config.Resting holds back. It never waits, and may be called at any time before Close's end.
func (s *Store) Settle() { s.compactions.settle() }

// DiskSize is what the instance takes on disk, in bytes, without the tables that Pebble is about to delete: after a pack they are
// most of it, for some milliseconds.
func (s *Store) DiskSize() uint64 {
	m := s.db.Metrics()
	return m.DiskSpaceUsage() - m.Table.Local.ObsoleteSize
}

// Fence keeps the disk as it is from now on, for good: something that was to be durable is not. Reads go on.
func (s *Store) Fence() {
	s.broken.Store(true)
	if !s.fence.down.Swap(true) {
		close(s.fence.fell)
	}
}

// Close writes what is in memory to tables, so that the next Open has nothing to replay, and closes Pebble. A compaction that runs
// may take as long as all that was written: it is given up, and the next open begins it again; but not a copy's, which shall be
// small when it ends. After a failure Close writes nothing; if a call into Pebble never came back it leaves Pebble alone, see Abandoned.
func (s *Store) Close() error {
	s.readers.close()
	if s.Abandoned() {
		return nil
	}
	closed := make(chan error, 1)
	go func() { closed <- s.takeDown() }() // it may be parked in a write
	select {
	case err := <-closed:
		return err
	case <-s.parked:
		return nil // what failed was told
	}
}

// Panicked says that a call into Pebble may have ended by a panic, which was recovered: the store is broken.
func (s *Store) Panicked() {
	s.panicked.Store(true)
	s.Fence()
}

// Doubtful tells whether Close may not return: on some failed writes Pebble panics with a lock held that its close wants. Its caller then
// waits for a while, and calls Abandon.
func (s *Store) Doubtful() bool { return s.panicked.Load() }

// Abandon lets a Close return that waits for Pebble in vain; see Abandoned.
func (s *Store) Abandon() { s.abandon() }

// takeDown flushes, unless the store is broken, and closes.
func (s *Store) takeDown() error {
	s.settling.Wait()
	if s.fence.frozen {
		defer s.cache.Unref()
		s.compacting.end()
		s.compacting.wait.Wait()
		return s.db.Close()
	}
	if !s.broken.Load() && s.fence.check() == nil {
		copying := s.dense.Swap(true)
		written := s.db.Metrics().WAL.BytesIn
		var flushed <-chan struct{}
		var err error
		if written > 0 { // since the open, which flushed what it replayed
			flushed, err = s.db.AsyncFlush()
		}
		if err == nil && flushed != nil {
			select { // Pebble tries a flush that fails again, for ever
			case <-flushed:
			case <-s.fence.fell:
			}
		}
		if !s.broken.Load() {
			defer s.cache.Unref()
			s.fence.left.Store(!copying)
			idle := err == nil && s.db.Metrics().WAL.BytesIn == written
			s.fence.spent.Store(idle)
			if err = errors.Join(err, s.db.Close()); err == nil && idle && s.fence.check() == nil {
				s.fence.shed(s.fs, s.dir)
				s.leave()
			}
			s.compacting.end()
			s.compacting.wait.Wait()
			return err
		}
	}
	s.fence.closing.Store(true) // the log's driver, which makes logs, has ended
	close(s.fence.ending)
	defer func() { _ = recover() }() // Pebble does not expect that a close fails; what broke the store was told
	defer s.compacting.end()
	_ = s.db.Close()
	s.cache.Unref()
	return nil
}

// Parked is closed when a call into Pebble will never come back.
func (s *Store) Parked() <-chan struct{} { return s.parked }

// Abandoned says that a closed store could not be taken down: its memory, files and Pebble's lock are the process' until it ends.
func (s *Store) Abandoned() bool {
	select {
	case <-s.parked:
		return true
	default:
		return false
	}
}
