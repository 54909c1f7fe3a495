package node

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"

	"github.com/zodb-dht/zodb_dht/internal/blob"
	"github.com/zodb-dht/zodb_dht/internal/index"
)

// A peer directory:
//
//	format   lines of text: "zodb_dht peer directory", "format 1", "group <32 hex digits>", sealed; written last of all when a
//	         directory is made, so that one without it holds nothing that was ever acknowledged
//	lock     locked (flock) while a process serves the directory; its content is that process' pid
//	db/      Pebble
//	blobs/   the blob directory (internal/blob), unless blob-dir says where it is: a path and a newline, sealed
const (
	formatFile    = "format"
	lockFile      = "lock"
	databaseDir   = "db"
	markFile      = "mark" // in it, the log's: internal/replica/mark.go
	blobsDir      = "blobs"
	blobDirFile   = "blob-dir"
	formatTitle   = "zodb_dht peer directory"
	formatVersion = 1
)

// What a directory can be besides a peer's.
var (
	ErrNotDirectory = errors.New("not a directory")
	ErrNoPeer       = errors.New("not a peer directory")
	ErrPermission   = errors.New("missing permission")
)

// InUse says that another process (or this one) serves the directory.
type InUse struct {
	Path string
	PID  int // 0 if the holder did not say
}

func (e *InUse) Error() string {
	if e.PID == os.Getpid() {
		return fmt.Sprintf("peer directory %s is in use by this process (%d); a broken peer may keep its directory until the process ends", e.Path, e.PID)
	}
	return fmt.Sprintf("peer directory %s is in use by process %d", e.Path, e.PID)
}

// directory is a locked peer directory.
type directory struct {
	path  string
	lock  *flock.Flock
	fresh bool // it has no format file yet
	// frozen: it was opened for reading, where nothing can be written: nothing is, and others may read beside.
	frozen bool
	group  [16]byte
}

// openDirectory makes the directory if it may, locks it and reads its format file.
func openDirectory(path string, create, readOnly bool) (_ *directory, err error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !create:
		return nil, fmt.Errorf("%s does not exist, and create is off, or read-only on: %w", path, ErrNoPeer)
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(path, 0o700); err != nil {
			return nil, pathError(path, err)
		}
	case err != nil:
		return nil, pathError(path, err)
	case !info.IsDir():
		return nil, fmt.Errorf("%s: %w", path, ErrNotDirectory)
	}
	d := &directory{path: path, lock: flock.New(filepath.Join(path, lockFile))}
	if err := d.checkForeign(create); err != nil {
		return nil, err
	}
	d.frozen = readOnly && !d.writable()
	if err := d.take(); err != nil {
		return nil, err
	}
	if err := d.readFormat(create); err != nil {
		return nil, errors.Join(err, d.lock.Close())
	}
	if d.frozen {
		return d, nil
	}
	name := filepath.Join(path, lockFile)
	if err := sign(name); err != nil { // last: a directory that is refused is left as it was
		return nil, errors.Join(pathError(name, err), d.lock.Close())
	}
	return d, nil
}

func pathError(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%s: %w: %w", path, ErrPermission, err)
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%s: %w: %w", path, ErrNotDirectory, err)
	default:
		return fmt.Errorf("%s: %w", path, err)
	}
}

// writable tells whether this process may write all that an open writes. What is not there or can't be asked for counts as writable: the open tells.
func (d *directory) writable() bool {
	for _, name := range []string{d.path, filepath.Join(d.path, lockFile), d.database()} {
		if err := unix.Access(name, unix.W_OK); errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) {
			return false
		}
	}
	return true
}

func (d *directory) take() error {
	try := d.lock.TryLock
	if d.frozen {
		try = d.lock.TryRLock
	}
	ok, err := try()
	if err != nil {
		return pathError(d.path, err)
	}
	if !ok {
		raw, _ := os.ReadFile(filepath.Join(d.path, lockFile)) // without it the pid is 0: still in use
		pid, _ := strconv.Atoi(strings.TrimSpace(string(raw)))
		return &InUse{Path: d.path, PID: pid}
	}
	return nil
}

// sign writes this process' pid over the last holder's. A file is not cut to nothing first: that alone takes some file systems as long
// as ten opens of it.
func sign(name string) (err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	pid := fmt.Appendf(nil, "%d\n", os.Getpid())
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if _, err := f.Write(pid); err != nil || info.Size() <= int64(len(pid)) {
		return err
	}
	return f.Truncate(int64(len(pid)))
}

func (d *directory) readFormat(create bool) error {
	raw, err := os.ReadFile(filepath.Join(d.path, formatFile))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(filepath.Join(d.path, formatFile)); err == nil {
			return d.badFormat("it is a link to nothing")
		}
		d.fresh = true
		return d.checkForeign(create)
	}
	if err != nil {
		return pathError(filepath.Join(d.path, formatFile), err)
	}
	lines := strings.Split(string(raw), "\n")
	if len(lines) < 3 || lines[0] != formatTitle {
		return d.badFormat("it does not begin as one")
	}
	version, err := strconv.Atoi(strings.TrimPrefix(lines[1], "format "))
	if err != nil || version < 1 {
		return d.badFormat("its version is unreadable")
	}
	if version > formatVersion {
		return fmt.Errorf("%s has format %d, this program knows %d: %w", d.path, version, formatVersion, index.ErrNewerFormat)
	}
	if _, whole := unsealText(raw); !whole { // behind the version: a newer program may seal otherwise
		return d.badFormat("it does not have the checksum that it names")
	}
	group, err := hex.DecodeString(strings.TrimPrefix(lines[2], "group "))
	if err != nil || len(group) != len(d.group) {
		return d.badFormat("its group id is unreadable")
	}
	d.group = [16]byte(group)
	return nil
}

func (d *directory) badFormat(why string) error {
	name := filepath.Join(d.path, formatFile)
	return &index.Corrupt{File: name, Cause: fmt.Errorf("%s: %w", why, ErrNoPeer)}
}

// checkForeign refuses to make a peer among foreign files, or of one that has lost its format file; before anything is written to the
// directory.
func (d *directory) checkForeign(create bool) error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return pathError(d.path, err)
	}
	foreign := ""
	for _, e := range entries {
		switch e.Name() {
		case formatFile:
			return nil
		case lockFile, databaseDir, blobsDir, blobDirFile, formatFile + ".new":
		default:
			foreign = e.Name()
		}
	}
	if _, err := os.Lstat(filepath.Join(d.database(), markFile)); err == nil {
		return d.badFormat("it is missing, and the log's mark, which is made behind it, is there")
	}
	if foreign != "" {
		return fmt.Errorf("%s has no file %q, but other files such as %q: %w", d.path, formatFile, foreign, ErrNoPeer)
	}
	if !create {
		return fmt.Errorf("%s has no file %q, and create is off, or read-only on: %w", d.path, formatFile, ErrNoPeer)
	}
	return nil
}

// found writes the format file: from here on this is a peer, of a group of its own.
func (d *directory) found() error {
	if _, err := rand.Read(d.group[:]); err != nil {
		return err
	}
	name := filepath.Join(d.path, formatFile)
	text := sealText(fmt.Sprintf("%s\nformat %d\ngroup %s\n", formatTitle, formatVersion, hex.EncodeToString(d.group[:])))
	if err := writeSynced(name+".new", text); err != nil {
		return pathError(name, err)
	}
	// The names above are durable before this one is there: who finds it relies on them.
	if err := blob.SyncNames(d.path); err != nil {
		return pathError(d.path, err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		return pathError(name, err)
	}
	return blob.SyncDir(d.path)
}

func writeSynced(name string, text []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

func (d *directory) database() string { return filepath.Join(d.path, databaseDir) }

func (d *directory) close() error { return d.lock.Close() }
