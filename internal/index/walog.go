package index

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// fencedLog is a write-ahead log. It keeps zeros behind what was written: a sync that need not make the file longer takes two thirds
// of the time (measured on ext4; docs/adr/0002). Pebble reads zeros as the end of the log. They are written between the commits, by a
// goroutine that Close waits for, and in the way of one only where that comes too late.
type fencedLog struct {
	vfs.File
	name  string
	fence *fence
	fsys  vfs.FS

	// Written by Pebble's one writer of the log, one call at a time.
	settled  bool  // its name is durable
	written  int64 // offset of the next write
	unsynced int64 // written since the last sync

	length    atomic.Int64   // of the file, zeros or an older log's bytes included
	extending sync.WaitGroup // the goroutine that makes it longer; there is one at most, and none while the writer does
	busy      atomic.Bool    // there is one
}

const (
	// A log grows by zeros as it grew by writes: by as many bytes as it has, within firstZeros and mostZeros, when fewer than
	// half of that many are left. A small site's log stays small.
	firstZeros = 64 << 10
	mostZeros  = 1 << 20
	// zeroAhead is the most of them that a commit waits for, and how much may be written without a sync to get any: an import does not
	// wait for the disk, it would only write everything twice.
	zeroAhead = 256 << 10
)

var zeros [zeroAhead]byte //nolint:gochecknoglobals // a constant: never written to

// failed breaks the store before Pebble hears of the error.
func (l *fencedLog) failed(what string, err error) error {
	if err != nil {
		err = fmt.Errorf("%s %s: %w", what, l.name, err)
		l.fence.broken(err)
	}
	return err
}

func (l *fencedLog) Write(p []byte) (int, error) {
	if err := l.unnote(); err != nil {
		return 0, l.failed("write", err)
	}
	end := l.written + int64(len(p))
	l.unsynced += int64(len(p))
	if end > l.length.Load() {
		l.extending.Wait() // its zeros must not come behind what is written now
		if end > l.length.Load() && l.unsynced <= zeroAhead && l.alive() {
			if err := l.zero(end, min(l.growth(), zeroAhead)); err != nil {
				return 0, l.failed("write", err)
			}
		}
	}
	n, err := l.File.Write(p)
	l.written += int64(n)
	if l.written > l.length.Load() {
		l.length.Store(l.written)
	}
	return n, l.failed("write", err)
}

// unnote removes the closing note before anything is written: durably with the log's name, before the log's next sync. What
// Pebble writes to end a log that nothing was written to is no write.
func (l *fencedLog) unnote() error {
	if !l.fence.noted.Load() || !l.alive() {
		return nil
	}
	name := l.fsys.PathJoin(l.fsys.PathDir(l.name), closedFile)
	if err := l.fsys.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l.fence.noted.Store(false)
	l.fence.names.gone(name)
	l.settled = false
	return nil
}

// alive tells whether what is written matters to anybody.
func (l *fencedLog) alive() bool { return !l.fence.down.Load() && !l.fence.spent.Load() }

// growth is how many zeros the log is to grow by.
func (l *fencedLog) growth() int64 { return min(max(l.length.Load(), firstZeros), mostZeros) }

// zero makes the log longer, up to n bytes behind end. A full disk is no error: there may be room for what is to be written there.
func (l *fencedLog) zero(end, n int64) error {
	for n > 0 {
		some, err := l.WriteAt(zeros[:min(n, zeroAhead)], end)
		end, n = end+int64(some), n-int64(some)
		l.length.Store(end)
		if errors.Is(err, syscall.ENOSPC) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// extend is called after a sync, and writes zeros in a goroutine if few are left. Nobody syncs them but the next commit: each has one
// sync, and it alone hears what the system tells once.
func (l *fencedLog) extend() {
	n := l.growth()
	if l.length.Load()-l.written >= n/2 || !l.alive() || l.busy.Swap(true) {
		return
	}
	l.extending.Go(func() {
		defer l.busy.Store(false)
		_ = l.failed("write zeros ahead of", l.zero(l.length.Load(), n)) // which breaks the store
	})
}

// again parks who comes back to a log that failed: to close it and make the next one, which Pebble can't see fail. A close syncs first.
func (l *fencedLog) again() {
	if l.fence.down.Load() && !l.fence.closing.Load() {
		l.fence.park(fmt.Errorf("%s again: %w", l.name, ErrBroken))
	}
}

// settle makes the log's name durable before the first sync of what is in it.
func (l *fencedLog) settle() error {
	if l.settled {
		return nil
	}
	err := l.fence.held.settle()
	if err == nil {
		err = l.fence.names.settle(l.fsys)
	}
	l.settled = err == nil
	return err
}

func (l *fencedLog) sync(sync func() error) error {
	l.again()
	l.unsynced = 0
	if l.fence.spent.Load() {
		return nil
	}
	err := l.settle()
	if err == nil {
		err = sync()
	}
	if err == nil {
		l.extend()
	}
	return l.failed("sync", err)
}

func (l *fencedLog) Sync() error { return l.sync(l.File.Sync) }

func (l *fencedLog) SyncData() error { return l.sync(l.File.SyncData) }

func (l *fencedLog) SyncTo(length int64) (bool, error) {
	l.again()
	full, err := l.File.SyncTo(length)
	return full, l.failed("sync", err)
}

// Preallocate does nothing: a small site's directory would grow by 18 MB for each of up to five logs, and blocks that were never
// written make a sync dearer than zeros do.
func (l *fencedLog) Preallocate(_, _ int64) error { return nil }

// Stat returns no error: it is asked while a log is made.
func (l *fencedLog) Stat() (vfs.FileInfo, error) {
	info, err := l.File.Stat()
	if err != nil {
		l.fence.park(fmt.Errorf("stat %s: %w", l.name, err))
	}
	return info, err
}

func (l *fencedLog) Close() error {
	l.again()
	l.extending.Wait()
	err := l.failed("close", l.File.Close())
	if err != nil {
		l.again()
	}
	return err
}
