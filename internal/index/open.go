package index

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"runtime"
	"strings"

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

const (
	defaultBlockCache = 64 << 20
	defaultMemTable   = 16 << 20
	maxManifest       = 8 << 10
	// minLZBalanced is MinLZ's second level (github.com/minio/minlz, LevelBalanced): as fast to decompress as the first.
	minLZBalanced = 2
	// headCache bounds the known heads: two generations of this many, about 5 MiB.
	headCache = 1 << 16
)

// ErrMoved says that a directory is not any more where it was opened.
var ErrMoved = errors.New("it was moved, removed or replaced while it was open; end this process, nothing is written there any more")

// ErrUnclosed says that a directory was not closed in order, so that an open has to write.
var ErrUnclosed = errors.New("it was not closed in order, and nothing can be written here; open it once where that is possible")

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
	opts := s.pebbleOptions(&cfg, wrapped, log, compactions)
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

// pebbleOptions says how Pebble works here, and why.
func (s *Store) pebbleOptions(cfg *Config, fsys vfs.FS, log *pebbleLog, compactions *compactions) *pebble.Options {
	opts := &pebble.Options{
		FS:                 fsys,
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
	return opts
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
