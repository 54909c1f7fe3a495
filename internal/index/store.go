package index

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Config says how to open the state on disk.
type Config struct {
	// Dir is Pebble's directory; it is made if Create is set.
	Dir string
	// FS is the file system; nil is the operating system's.
	FS vfs.FS
	// CacheBytes bounds the cache of uncompressed table blocks. 0 means 64 MiB.
	CacheBytes int64
	// MemTableBytes bounds what is in memory and in the write-ahead log only, and with it what an open after a crash has to
	// replay. 0 means 16 MiB.
	MemTableBytes uint64
	Create        bool
	// Frozen writes nothing, nor takes Pebble's lock: ErrUnclosed if there is something to replay.
	Frozen bool
	// Resting holds compactions back until Settle, or until something was flushed: who commits needs them.
	Resting bool
	// Broken is called, at most a few times and from any goroutine, when Pebble can't go on: a failed write or fsync, a
	// lost manifest. Nothing that was not acknowledged before may be acknowledged after it. nil: log only.
	Broken func(error)
	// Sweeping is called with the revisions of blobs whose rows a sweep is about to delete: their files go before them. It is
	// called again for what a crash took back. nil: there are no files.
	Sweeping func(ctx context.Context, revs []Revision) error
	// There is asked before a name in Dir is made, replaced or removed, from any goroutine; its error is Broken's, and nothing is done. It is
	// asked once before Dir is opened. nil: Dir stays where it is.
	There  func() error
	Logger *slog.Logger
}

// ErrMoved says that a directory is not any more where it was opened.
var ErrMoved = errors.New("it was moved, removed or replaced while it was open; end this process, nothing is written there any more")

// ErrUnclosed says that a directory was not closed in order, so that an open has to write.
var ErrUnclosed = errors.New("it was not closed in order, and nothing can be written here; open it once where that is possible")

const (
	defaultBlockCache = 64 << 20
	defaultMemTable   = 16 << 20
	maxManifest       = 8 << 10
	// minLZBalanced is MinLZ's second level (github.com/minio/minlz, LevelBalanced): as fast to decompress as the first.
	minLZBalanced = 2
	// headCache bounds the known heads: two generations of this many, about 5 MiB.
	headCache = 1 << 16
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

// ErrHeld says that an open failed where Pebble does not come back: its memory, files and lock are the process' until it ends.
var ErrHeld = errors.New("the directory is in use until this process ends")

// Open opens or makes the state. What does not open is an error that names what is wrong; nothing is repaired by deleting. ErrHeld.
func Open(cfg Config) (*Store, error) {
	s := &Store{heads: newRecent[zodb.Oid, head](headCache), outcomes: newRecent[zodb.TxnID, Position](outcomeWindow), parked: make(chan struct{})}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.FS == nil {
		cfg.FS = vfs.Default
	}
	before, err := look(&cfg)
	if err != nil {
		return nil, err
	}
	if cfg.Frozen && before.logs > 0 {
		return nil, fmt.Errorf("open %s: %w", cfg.Dir, ErrUnclosed)
	}
	s.fence.frozen = cfg.Frozen
	s.damaged = before.damaged
	s.fence.noted.Store(before.noted)
	s.cache = pebble.NewCache(orDefault(cfg.CacheBytes, defaultBlockCache))
	s.compacting = newCompacting()
	s.compactions = newCompactions()
	db, err := s.openPebble(cfg, before.names, s.compactions)
	if err != nil {
		s.cache.Unref()
		return nil, err
	}
	s.db = db
	st, err := s.readState()
	if err == nil {
		err = s.followLogs(&cfg, &st, before.logs)
	}
	switch {
	case err != nil:
	case before.note.is(&st):
		s.swept.Store(&before.note.swept)
		s.gone.none(db)
		s.left = before.note.log
	default:
		err = s.openSweep()
	}
	if err != nil {
		err = errors.Join(err, db.Close())
		s.cache.Unref()
		return nil, err
	}
	if s.torn = before.torn; s.torn != nil {
		cfg.Logger.Warn("the write-ahead log ended within a write and was cut there: what that write held was never acknowledged",
			"file", s.torn.File, "offset", s.torn.Offset)
	}
	for i := range s.damaged {
		cfg.Logger.Warn("damage that loses nothing", "error", &s.damaged[i])
	}
	s.opened = st.Applied
	s.current.Store(&st)
	s.readers.open(db)
	if s.fence.held.end() {
		s.settling.Go(func() { _ = s.fence.settle() }) // a failure breaks the store
	}
	s.compactions.open(cfg.Resting)
	return s, nil
}

func orDefault[T int64 | uint64](v, d T) T {
	if v == 0 {
		return d
	}
	return v
}

func (s *Store) openPebble(cfg Config, names []string, compactions *compactions) (db *pebble.DB, err error) {
	log := &pebbleLog{log: cfg.Logger, parked: s.parked, broken: func(err error) {
		s.Fence()
		if cfg.Broken != nil {
			cfg.Broken(err)
		}
	}}
	s.fs, s.dir, s.blobs = cfg.FS, cfg.Dir, cfg.Sweeping
	s.abandon = func() { log.once.Do(func() { close(log.parked) }) }
	s.fence.broken, s.fence.park = log.broken, log.park
	s.fence.fell, s.fence.ending = make(chan struct{}), make(chan struct{})
	s.fence.there = cfg.There
	_ = s.fence.check()
	wrapped := s.fence.wrap(cfg.FS)
	s.fence.held.begin(wrapped.FS, cfg.Dir, names)
	opts := &pebble.Options{
		FS:                 wrapped,
		Cache:              s.cache,
		Comparer:           comparer(),
		FormatMajorVersion: pebble.FormatTableFormatV6, // pinned: above FormatWALSyncChunks, see docs/format.md
		Logger:             log,
		EventListener:      log.events(compactions.settle),
		MemTableSize:       orDefault(cfg.MemTableBytes, defaultMemTable),
		ErrorIfNotExists:   !cfg.Create,
		ReadOnly:           cfg.Frozen,
		// Two flushed memtables may wait; then writers do, so that memory stays bounded.
		MemTableStopWritesThreshold: 4,
		// Fewer, larger compactions: what they cost, applications on the other cores feel. Loads skip tables by their filters.
		L0CompactionThreshold:      8,
		L0StopWritesThreshold:      32,
		MaxOpenFiles:               512,
		CompactionConcurrencyRange: func() (int, int) { return 1, max(1, runtime.GOMAXPROCS(0)-1) },
		// An open reads it all; Pebble begins a new one only where it tells as much of tables that are gone.
		MaxManifestFileSize: maxManifest,
		// They would be read from every table right after an open, beside its first loads. Compactions prefer tables full of deletions by
		// them: ours are few, but after a sweep, which compacts by itself.
		DisableTableStats: true,
	}
	opts.Experimental.CompactionScheduler = compactions
	dense := *sstable.MinLZCompression // ADR 10
	dense.DataBlocks.Level = minLZBalanced
	dense.ValueBlocks = sstable.BalancedCompression.ValueBlocks // superseded revisions, rarely read
	// Pebble counts at most four settings in a table, and panics at a fifth: these two, none where compression gains
	// nothing, and snappy, which MinLZ leaves blocks of more than 8 MiB to.
	dense.OtherBlocks = dense.DataBlocks
	for i := range opts.Levels {
		opts.Levels[i].BlockSize = 32 << 10
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		opts.Levels[i].Compression = func() *sstable.CompressionProfile { return &dense }
	}
	// What commits leave is compacted soon, and they need the processor now: ADR 10.
	opts.Levels[0].Compression = func() *sstable.CompressionProfile {
		if s.dense.Load() {
			return &dense
		}
		return sstable.FastestCompression
	}
	s.opts = opts.Clone()
	s.opts.EnsureDefaults()
	type opening struct {
		db  *pebble.DB
		err error
	}
	// Pebble ends the process on some damage through Logger.Fatalf, which parks its goroutine here: so Open runs in one
	// that may be left behind.
	done := make(chan opening, 1)
	log.fatal = make(chan error, 1)
	go func() {
		var o opening
		defer func() {
			if p := recover(); p != nil {
				o.err = fmt.Errorf("%w: %v", ErrBroken, p)
			}
			done <- o
		}()
		o.db, o.err = pebble.Open(cfg.Dir, opts)
	}()
	select {
	case o := <-done:
		if o.err != nil {
			compactions.Unregister()
			return nil, openError(&cfg, s.fence.options.blame(o.err))
		}
		return o.db, nil
	case err := <-log.fatal:
		compactions.Unregister()
		return nil, fmt.Errorf("%w; %w", openError(&cfg, err), ErrHeld)
	}
}

func openError(cfg *Config, err error) error {
	var named *Corrupt
	if !errors.As(err, &named) && (pebble.IsCorruptionError(err) || !cfg.Create && incomplete(err)) {
		return fmt.Errorf("open %s: %w", cfg.Dir, &Corrupt{File: cfg.Dir, Cause: err})
	}
	return fmt.Errorf("open %s: %w", cfg.Dir, err)
}

// incomplete tells of files that are missing from a database, or have another size than they had. Pebble has no error of its own for the size.
func incomplete(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, pebble.ErrDBDoesNotExist) || errors.Is(err, pebble.ErrDBNotPristine) ||
		strings.Contains(err.Error(), "object size mismatch")
}

func (s *Store) readState() (state, error) {
	v, closer, err := s.db.Get([]byte{rowState})
	if errors.Is(err, pebble.ErrNotFound) {
		return state{Stats: Stats{NextOid: 1}}, nil // 0 is the root's: DB() never asks for it
	}
	if err != nil {
		if pebble.IsCorruptionError(err) {
			err = &Corrupt{File: "the state row", Cause: err}
		}
		return state{}, fmt.Errorf("read the state row: %w", err)
	}
	st, err := decodeState(v)
	return st, errors.Join(err, closer.Close())
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
