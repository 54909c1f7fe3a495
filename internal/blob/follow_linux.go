package blob

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zodb-dht/zodb_dht/internal/block"
)

const (
	// A smaller file is hashed while its sync waits for the disk.
	followFrom = 4 * block.ChunkSize
	// A file that has not grown for this long is let go: a slow upload that pauses has time at its end, too.
	followFor = time.Minute
	// firstLook is when a new file is looked at, and how often one that grows; lastLook how seldom one that does not, so how long the
	// space of a removed one stays taken.
	firstLook = 100 * time.Microsecond
	lastLook  = time.Second
	// maxAsked bounds the files that are looked at, maxFollowed those that are open, maxAhead what is hashed of each: 2.5 MiB of memory.
	maxAsked    = 64
	maxFollowed = 8
	maxAhead    = 16 << 30
	// blobPrefix begins the names of the files that ZODB makes for applications, ours and those of other processes.
	blobPrefix = "BUC"
)

// follower hashes files that this process is writing, before they are staged, and has the disk begin to take them. It only helps: a file
// that it does not know, or whose bytes are others by then, is hashed when it is staged, and its errors end with it. One goroutine
// looks at all of them; the kernel tells of new files, so that nothing runs where nobody writes blobs. Why that is safe: docs/adr/0006-blobs.md.
type follower struct {
	own     string // files in this directory are this process'
	device  uint64
	events  *events
	buffers *block.Buffers
	wg      sync.WaitGroup
	names   chan string // paths of new files: bounded, and what does not fit is not followed

	// mu guards files. Before events.mu. Never held across I/O.
	mu    sync.Mutex
	files map[fileID]*followed
}

// fileID is what a file keeps when it is renamed.
type fileID struct{ device, inode uint64 }

// followed is one file. The follower's goroutine has it until take; then the taker does.
type followed struct {
	path    string
	file    *os.File // nil: not large enough yet
	id      fileID
	due     time.Time
	wait    time.Duration
	grew    time.Time // or was made
	started int64     // write-back was begun up to here

	starting atomic.Bool // a goroutine has the disk begin
	watch    int32       // of events.changes; guarded by events.mu
	changed  bool        // guarded by events.mu

	// mu is held while the file is read, for some 64 chunks.
	mu    sync.Mutex
	stop  atomic.Bool // set by take
	ahead *block.Ahead
}

func newFollower(own, temp string, buffers *block.Buffers) (*follower, error) {
	id, _, err := identify(own)
	if err != nil {
		return nil, err
	}
	dirs := []string{own}
	if dir, err := filepath.EvalSymlinks(temp); err == nil {
		dirs = append(dirs, dir)
	}
	e, err := openEvents(dirs...)
	if err != nil {
		return nil, err
	}
	return &follower{own: own, device: id.device, buffers: buffers, events: e, names: make(chan string, maxAsked), files: make(map[fileID]*followed)}, nil
}

// run follows files until ctx ends.
func (w *follower) run(ctx context.Context) {
	w.wg.Go(func() { w.events.read(w.created) })
	var asked []*followed
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			for _, f := range asked {
				w.forget(f)
			}
			w.events.stop()
			w.wg.Wait()
			return
		case path := <-w.names:
			now := time.Now()
			if len(asked) < maxAsked {
				asked = append(asked, &followed{path: path, due: now.Add(firstLook), wait: firstLook, grew: now})
			}
		case <-timer.C:
		}
		asked = w.lookAll(asked)
		if len(asked) > 0 {
			due := asked[0].due
			for _, f := range asked[1:] {
				if f.due.Before(due) {
					due = f.due
				}
			}
			timer.Reset(time.Until(due))
		}
	}
}

// lookAll looks at the files whose time has come, and returns those that are still followed.
func (w *follower) lookAll(asked []*followed) []*followed {
	left := asked[:0]
	for _, f := range asked {
		now := time.Now()
		if f.due.After(now) {
			left = append(left, f)
			continue
		}
		grew, more := w.look(f)
		switch {
		case !more || now.Sub(f.grew) > followFor && !grew:
			w.forget(f)
			continue
		case grew:
			f.grew, f.wait, f.due = now, 0, now
		default:
			f.wait = min(max(2*f.wait, firstLook), lastLook)
			f.due = now.Add(f.wait)
		}
		left = append(left, f)
	}
	clear(asked[len(left):])
	return left
}

// look reads what is new in a file, at most some 64 chunks of it. more is false once it is staged, gone, or none of ours.
func (w *follower) look(f *followed) (grew, more bool) {
	if f.file == nil {
		return false, w.open(f)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stop.Load() {
		return false, false
	}
	info, err := f.file.Stat()
	if err != nil || !linked(info) {
		return false, false
	}
	workers := runtime.GOMAXPROCS(0)
	if w.events.changed(f) {
		f.ahead.Doubt()
		workers = max(1, workers-1) // who writes has one
	}
	size := min(info.Size(), maxAhead)
	before := f.ahead.Size()
	w.startWrite(f, min(size/block.ChunkSize*block.ChunkSize, before+window))
	err = f.ahead.Hash(f.file, size, workers, &f.stop)
	return f.ahead.Size() > before, err == nil
}

// startWrite has the disk begin to take a file up to there, unless it is still busy with what came before.
func (w *follower) startWrite(f *followed, to int64) {
	if to <= f.started || !f.starting.CompareAndSwap(false, true) {
		return
	}
	from := f.started
	f.started = to
	w.wg.Go(func() {
		startWrite(f.file, from, to-from)
		f.starting.Store(false)
	})
}

// open opens a file that has become large enough. It tells whether it may still become one to follow.
func (w *follower) open(f *followed) bool {
	id, info, err := identify(f.path)
	if err != nil || !info.Mode().IsRegular() || id.device != w.device {
		return false
	}
	w.mu.Lock()
	n := len(w.files)
	w.mu.Unlock()
	if info.Size() < followFrom || n >= maxFollowed || filepath.Dir(f.path) != w.own && !openHere(f.path) {
		return true
	}
	file, err := openQuietly(f.path)
	if err != nil {
		return false
	}
	if now, err := file.Stat(); err != nil || !os.SameFile(now, info) {
		_ = file.Close()
		return false
	}
	f.file, f.id, f.ahead, f.wait = file, id, block.NewAhead(w.buffers), 0
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.files[id] != nil || !w.events.begin(f) { // another name of one that is followed
		f.file = nil
		_ = file.Close()
		return false
	}
	w.files[id] = f
	return true
}

// forget closes a file unless it was taken.
func (w *follower) forget(f *followed) {
	if f.file == nil {
		return
	}
	w.mu.Lock()
	mine := w.files[f.id] == f
	if mine {
		delete(w.files, f.id)
	}
	w.mu.Unlock()
	if mine {
		w.release(f)
	}
}

// take ends the following of a file and returns what it brought: nothing hashed, if it was not followed. Called after the application gave
// the file away; waits for the chunks that are being hashed.
func (w *follower) take(info fs.FileInfo, buffers *block.Buffers) *block.Ahead {
	id, ok := idOf(info)
	if w == nil || !ok {
		return block.NewAhead(buffers)
	}
	w.mu.Lock()
	f := w.files[id]
	delete(w.files, id)
	w.mu.Unlock()
	if f == nil {
		return block.NewAhead(buffers)
	}
	f.stop.Store(true)
	f.mu.Lock()
	defer f.mu.Unlock()
	if !unwritten(f.file) || w.events.changed(f) {
		f.ahead.Doubt()
	}
	w.release(f)
	return f.ahead
}

func (w *follower) release(f *followed) {
	w.events.end(f)
	_ = f.file.Close()
}

// close is called after run and the last take.
func (w *follower) close() {
	if w != nil {
		w.events.close()
	}
}

// created is told of a new file by the kernel. It never waits.
func (w *follower) created(path string) {
	if filepath.Dir(path) != w.own && !strings.HasPrefix(filepath.Base(path), blobPrefix) {
		return
	}
	select {
	case w.names <- path:
	default:
	}
}
