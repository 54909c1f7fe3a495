package index

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// fence stands between Pebble and the file system. Once it is down nothing changes the disk any more: Pebble's background work
// repeats what failed, and it must neither succeed after a failed sync nor write beside whoever opens the directory next.
//
// It also keeps errors from Pebble that would end the process: Pebble panics, with its own lock released that a defer releases
// again, if a write-ahead log can't be closed or made, and in goroutines of its own if a directory can't be synced. Whoever asks
// for one of these is parked instead, as by Fatalf.
type fence struct {
	fell    chan struct{} // closed when it is down
	down    atomic.Bool
	closing atomic.Bool // Pebble is being closed: there, a log that does not close is an error
	spent   atomic.Bool // what the logs hold is in tables: they are about to be removed
	left    atomic.Bool // nobody reads tables any more but compactions, which are not waited for
	broken  func(error)
	park    func(error)
	names   names
	options options
	held    held
}

// String is errorfs.Injector's.
func (f *fence) String() string { return "fence" }

// MaybeError is errorfs.Injector's.
func (f *fence) MaybeError(op errorfs.Op) error {
	if f.down.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
		return fmt.Errorf("%s is left as it is: %w", op.Path, ErrBroken)
	}
	return nil
}

// wrap puts the fence around fsys.
func (f *fence) wrap(fsys vfs.FS) *fenced { return &fenced{FS: errorfs.Wrap(fsys, f), fence: f} }

type fenced struct {
	vfs.FS
	fence *fence
}

// Unwrap is vfs.FS's.
func (f *fenced) Unwrap() vfs.FS { return f.FS }

// OpenDir is vfs.FS's.
func (f *fenced) OpenDir(name string) (vfs.File, error) {
	d, err := f.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &fencedDir{File: d, name: name, fence: f.fence}, nil
}

// Open is vfs.FS's.
func (f *fenced) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	file, err := f.FS.Open(name, opts...)
	f.fence.options.note(name)
	if err != nil || !strings.HasSuffix(name, ".sst") {
		return file, err
	}
	return &fencedTable{File: file, left: &f.fence.left}, nil
}

// Create is vfs.FS's.
func (f *fenced) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.fence.settle(); err != nil {
		return f.log(name, nil, err)
	}
	file, err := f.FS.Create(f.fence.held.draft(name), category)
	switch {
	case err != nil:
	case strings.HasSuffix(name, draftSuffix):
		return &fencedDraft{File: file, fsys: f.FS, name: name, options: &f.fence.options}, nil
	case strings.HasSuffix(name, ".sst") || strings.HasPrefix(f.PathBase(name), "MANIFEST-"):
		file = &heldFile{File: file, name: name, fence: f.fence}
	}
	return f.log(name, file, f.made(name, err))
}

// ReuseForWrite is vfs.FS's.
func (f *fenced) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.fence.settle(); err != nil {
		return f.log(newname, nil, err)
	}
	file, err := f.FS.ReuseForWrite(oldname, newname, category)
	return f.log(newname, file, f.made(newname, err))
}

// Remove is vfs.FS's.
func (f *fenced) Remove(name string) error {
	if f.fence.held.remove(name) {
		return nil
	}
	return f.FS.Remove(name)
}

// settle is held.settle; a failure breaks the store.
func (f *fence) settle() error {
	err := f.held.settle()
	if err != nil {
		f.broken(err)
	}
	return err
}

// Rename is vfs.FS's.
func (f *fenced) Rename(oldname, newname string) error {
	if err := f.fence.settle(); err != nil {
		return err
	}
	return f.made(newname, f.fence.options.rename(f.FS, oldname, newname))
}

// Link is vfs.FS's.
func (f *fenced) Link(oldname, newname string) error {
	return f.made(newname, f.FS.Link(oldname, newname))
}

// MkdirAll is vfs.FS's.
func (f *fenced) MkdirAll(dir string, perm fs.FileMode) error {
	var missing []string
	for path := dir; ; path = f.PathDir(path) {
		if _, err := f.Stat(path); err == nil || f.PathDir(path) == path {
			break
		}
		missing = append(missing, path)
	}
	if err := f.FS.MkdirAll(dir, perm); err != nil {
		return err
	}
	for _, path := range missing {
		f.fence.names.add(path)
	}
	return nil
}

// made counts a new name.
func (f *fenced) made(name string, err error) error {
	if err == nil {
		f.fence.names.add(name)
	}
	return err
}

// log takes a write-ahead log that was made; other files pass.
func (f *fenced) log(name string, file vfs.File, err error) (vfs.File, error) {
	if !strings.HasSuffix(name, ".log") {
		return file, err
	}
	if err != nil {
		f.fence.park(fmt.Errorf("make %s: %w", name, err))
		return nil, err
	}
	log := &fencedLog{File: file, name: name, fence: f.fence, fsys: f.FS}
	info, err := log.Stat()
	if err != nil {
		return nil, err
	}
	log.length = info.Size() // a recycled one has bytes already
	return log, nil
}

type fencedTable struct {
	vfs.File
	left *atomic.Bool
}

// errLeft ends a compaction: Pebble takes it for one that another operation made useless, and removes what it wrote.
var errLeft = fmt.Errorf("the store is being closed: %w", pebble.ErrCancelledCompaction)

// ReadAt is vfs.File's.
func (t *fencedTable) ReadAt(p []byte, off int64) (int, error) {
	if t.left.Load() {
		return 0, errLeft
	}
	return t.File.ReadAt(p, off)
}

type fencedDir struct {
	vfs.File
	name  string
	fence *fence
}

// Sync returns no error.
func (d *fencedDir) Sync() error {
	if d.fence.held.syncDir(d.name) {
		return nil
	}
	if err := d.fence.settle(); err != nil {
		d.fence.park(err)
	}
	if err := d.fence.names.sync(d.File, d.name); err != nil {
		d.fence.park(err)
	}
	return nil
}

// fencedLog is a write-ahead log. It keeps up to zeroAhead bytes of zeros behind what was written: a sync that need not make the
// file longer takes two thirds of the time (measured on ext4; docs/adr/0002). Pebble reads zeros as the end of the log.
type fencedLog struct {
	vfs.File
	name  string
	fence *fence
	fsys  vfs.FS

	// Written by Pebble's one writer of the log, one call at a time.
	settled  bool  // its name is durable
	written  int64 // offset of the next write
	length   int64 // of the file, zeros or an older log's bytes included
	unsynced int64 // written since the last sync
}

const (
	// firstZeros and zeroAhead are how many zeros are written at once: a small site's log stays small.
	firstZeros = 64 << 10
	zeroAhead  = 256 << 10
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
	end := l.written + int64(len(p))
	// A long write without a sync, an import's, does not wait for the disk: it would only write everything twice.
	if l.unsynced += int64(len(p)); end > l.length && l.unsynced <= zeroAhead && !l.fence.down.Load() && !l.fence.spent.Load() {
		if err := l.prepare(end); err != nil {
			return 0, l.failed("write", err)
		}
	}
	n, err := l.File.Write(p)
	l.written += int64(n)
	l.length = max(l.length, l.written)
	return n, l.failed("write", err)
}

// prepare writes zeros behind end, where the next write will end. A full disk is no error: there may be room for that.
func (l *fencedLog) prepare(end int64) error {
	n := zeroAhead
	if l.length < zeroAhead {
		n = firstZeros
	}
	n, err := l.WriteAt(zeros[:n], end)
	l.length = end + int64(n)
	if errors.Is(err, syscall.ENOSPC) {
		return nil
	}
	return err
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
	err := l.failed("close", l.File.Close())
	if err != nil {
		l.again()
	}
	return err
}

// shed removes the write-ahead logs from dir: those of a store that was flushed, not written to since, and closed. Pebble would keep
// them for recycling. What can't be removed the next open removes.
func (f *fence) shed(fsys vfs.FS, dir string) {
	names, err := fsys.List(dir)
	if err != nil {
		return
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".log") {
			_ = fsys.Remove(fsys.PathJoin(dir, name))
		}
	}
}
