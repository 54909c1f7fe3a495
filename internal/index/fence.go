package index

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"strings"
	"sync/atomic"

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
	ending  chan struct{} // closed when Pebble is about to be closed behind the fence
	down    atomic.Bool
	closing atomic.Bool // Pebble is being closed: there, a log that does not close is an error
	spent   atomic.Bool // what the logs hold is in tables: they are about to be removed
	noted   atomic.Bool // the closing note lies there
	left    atomic.Bool // nobody reads tables any more but compactions, which are not waited for
	frozen  bool        // Config.Frozen
	broken  func(error)
	park    func(error)
	there   func() error // Config.There
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
	switch op.Kind {
	case errorfs.OpCreate, errorfs.OpReuseForWrite, errorfs.OpRemove, errorfs.OpRename, errorfs.OpLink:
		return f.check()
	default:
		return nil
	}
}

// check says whether the directory is still there.
func (f *fence) check() error {
	if f.there == nil {
		return nil
	}
	err := f.there()
	if err != nil {
		f.broken(err)
	}
	return err
}

// wrap puts the fence around fsys.
func (f *fence) wrap(fsys vfs.FS) *fenced { return &fenced{FS: errorfs.Wrap(fsys, f), fence: f} }

type fenced struct {
	vfs.FS
	fence *fence
}

// Unwrap is vfs.FS's.
func (f *fenced) Unwrap() vfs.FS { return f.FS }

// Lock is vfs.FS's.
func (f *fenced) Lock(name string) (io.Closer, error) {
	if f.fence.frozen {
		return io.NopCloser(nil), nil
	}
	return f.FS.Lock(name)
}

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
	return &fencedTable{File: file, name: name, left: &f.fence.left}, nil
}

// Create is vfs.FS's.
func (f *fenced) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasSuffix(name, ".sst") && f.fence.down.Load() {
		<-f.fence.ending // Pebble begins a flush or a compaction that failed again, at once and for ever. It holds no lock here
	}
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
	if !isLog(name) {
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
	log.length.Store(info.Size()) // a recycled one has bytes already
	return log, nil
}

type fencedTable struct {
	vfs.File
	name string
	left *atomic.Bool
}

// errLeft ends a compaction: Pebble takes it for one that another operation made useless, and removes what it wrote.
var errLeft = fmt.Errorf("the store is being closed: %w", pebble.ErrCancelledCompaction)

// ReadAt is vfs.File's.
func (t *fencedTable) ReadAt(p []byte, off int64) (int, error) {
	if t.left.Load() {
		return 0, errLeft
	}
	n, err := t.File.ReadAt(p, off)
	if err == nil && n >= largeBlock {
		err = t.check(p[:n], off)
	}
	return n, err
}

// largeBlock is a block with a large record; Pebble reads each block at once, and nothing else is as large.
const largeBlock = 64 << 10

// blockTail is a block's type 1 | checksum 4, little-endian, of all before it.
const blockTail = 5

// check holds a large block to its checksum before Pebble does: that looks whether any one bit of the first 40 KiB was flipped, by 327,680
// checksums of the whole block: three seconds for 225 KB, minutes for 16 MB, in each load.
func (t *fencedTable) check(block []byte, off int64) error {
	end := len(block) - blockTail + 1
	if got, want := masked(crc32.Checksum(block[:end], castagnoli)), binary.LittleEndian.Uint32(block[end:]); got != want {
		return fmt.Errorf("%s: block %d/%d: crc32c checksum mismatch %x != %x: %w", t.name, off, end-1, want, got, pebble.ErrCorruption)
	}
	return nil
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

// shed removes the write-ahead logs from dir: those of a store that was flushed, not written to since, and closed. Pebble would keep
// them for recycling. What can't be removed the next open removes.
func (f *fence) shed(fsys vfs.FS, dir string) {
	names, err := fsys.List(dir)
	if err != nil {
		return
	}
	for _, name := range names {
		if isLog(name) {
			_ = fsys.Remove(fsys.PathJoin(dir, name))
		}
	}
}
