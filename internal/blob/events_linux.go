package blob

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// events is two inotify instances: one that wakes us when a file is made in a directory, one that is asked whether a file may have changed.
// Not fsnotify, by which the kernel would wake us for each write to each file in the directory, others' too.
type events struct {
	made    *os.File
	dirs    map[int32]string
	changes int // a file descriptor; closed by close

	// mu guards what follows and reading changes. Held across that, which never waits.
	mu    sync.Mutex
	files map[int32]*followed
}

func openEvents(dirs ...string) (*events, error) {
	made, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	e := &events{made: os.NewFile(uintptr(made), "inotify"), dirs: make(map[int32]string), files: make(map[int32]*followed)}
	for _, dir := range dirs {
		if wd, err := syscall.InotifyAddWatch(made, dir, syscall.IN_CREATE|syscall.IN_ONLYDIR); err == nil {
			e.dirs[int32(wd)] = dir
		}
	}
	changes, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		return nil, errors.Join(err, e.made.Close())
	}
	e.changes = changes
	return e, nil
}

// read calls made with the path of each new file, until stop.
func (e *events) read(made func(path string)) {
	buf := make([]byte, 64<<10)
	for {
		n, err := e.made.Read(buf)
		if err != nil {
			return
		}
		each(buf[:n], func(wd int32, name string) {
			if name != "" && e.dirs[wd] != "" {
				made(filepath.Join(e.dirs[wd], name))
			}
		})
	}
}

// each parses inotify's events.
func each(b []byte, do func(wd int32, name string)) {
	for len(b) >= syscall.SizeofInotifyEvent {
		end := syscall.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		if end > len(b) {
			return
		}
		do(int32(binary.NativeEndian.Uint32(b)), strings.TrimRight(string(b[syscall.SizeofInotifyEvent:end]), "\x00"))
		b = b[end:]
	}
}

// stop ends read.
func (e *events) stop() { _ = e.made.Close() }

// close is called when nobody follows a file any more.
func (e *events) close() { _ = syscall.Close(e.changes) }

// begin has a file tell of changes. A file that somebody has open for writing, or mapped, tells when it is closed for good, too: so, if nobody has
// it open now (unwritten), and nothing was told since a chunk was read, then the chunk is as it was.
func (e *events) begin(f *followed) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	wd, err := syscall.InotifyAddWatch(e.changes, fmt.Sprintf("/proc/self/fd/%d", f.file.Fd()), syscall.IN_MODIFY|syscall.IN_CLOSE_WRITE)
	if err != nil {
		return false
	}
	f.watch = int32(wd)
	e.files[f.watch] = f
	return true
}

func (e *events) end(f *followed) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.files, f.watch)
	_, _ = syscall.InotifyRmWatch(e.changes, uint32(f.watch))
}

// changed tells whether a file told of a change since the last call.
func (e *events) changed(f *followed) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	buf := make([]byte, 4096)
	for {
		n, err := syscall.Read(e.changes, buf)
		if err != nil || n <= 0 {
			if !errors.Is(err, syscall.EAGAIN) {
				f.changed = true
			}
			break
		}
		each(buf[:n], func(wd int32, _ string) {
			if wd < 0 { // the queue was full
				for _, f := range e.files {
					f.changed = true
				}
			} else if f := e.files[wd]; f != nil {
				f.changed = true
			}
		})
	}
	changed := f.changed
	f.changed = false
	return changed
}

// unwritten tells that nobody has a file open for writing: then the kernel grants a read lease on it, which is given back at once. The signal by
// which it would ask for that meanwhile is one that is ignored unless somebody handles it.
func unwritten(f *os.File) bool {
	const setSig = 10 // F_SETSIG
	set := func(cmd, arg int) bool {
		_, _, e := syscall.Syscall(syscall.SYS_FCNTL, f.Fd(), uintptr(cmd), uintptr(arg))
		return e == 0
	}
	return set(setSig, int(syscall.SIGURG)) && set(syscall.F_SETLEASE, syscall.F_RDLCK) && set(syscall.F_SETLEASE, syscall.F_UNLCK)
}

func idOf(info fs.FileInfo) (fileID, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}, false
	}
	return fileID{st.Dev, st.Ino}, true
}

func identify(path string) (fileID, fs.FileInfo, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return fileID{}, nil, err
	}
	id, _ := idOf(info)
	return id, info, nil
}

// linked tells whether an open file still has a name.
func linked(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Nlink > 0
}

// openHere tells whether this process has a file open: else it is another one's, which hashes it itself.
func openHere(path string) bool {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && to == path {
			return true
		}
	}
	return false
}

func openQuietly(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
}
