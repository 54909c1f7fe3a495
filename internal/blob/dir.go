// Package blob keeps the files of a peer's blobs: ZODB's directory layout, files staged for transactions, content addresses, and
// where in which file each block of a UnixFS tree lies.
//
// The committed file is the store: a blob's bytes enter neither the log nor Pebble. A file is staged (Stage), read to the end, made
// durable and named by its content (Seal) before its transaction is proposed, and moved to its final name (Commit) after
// Apply gave the tid, before readers see the transaction. Renames are atomic, so a crash leaves it under one of the two names;
// Resolve gives what it finds staged at an open its due. Any goroutine may call any method.
//
// Carries G2 and G4 for blobs. Names and crash cases: docs/format.md.
package blob

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/gofrs/flock"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// A blob directory:
//
//	.layout                    "bushy", ZODB's marker
//	.zodb_dht                  "group <32 hex digits>\n"; locked (flock) while a peer uses the directory
//	tmp/                       where applications write; emptied at each open
//	staged/<txn id>-<oid>      files of transactions without an outcome: 32 and 16 hex digits
//	0x00/.../0x2a/0x<tid>.blob committed: a directory for each byte of the oid
const (
	layoutFile  = ".layout"
	layout      = "bushy"
	otherLayout = "lawn" // ZODB's other one
	tempDir     = "tmp"
	stagedDir   = "staged"
	suffix      = ".blob"
	markDraft   = ".new" // behind a marker's name, until it is whole
)

// PeerFile is the marker that says whose a blob directory is: "group <32 hex digits>".
const PeerFile = ".zodb_dht"

// ErrForeign says that a directory holds something else than this peer's blobs.
var ErrForeign = errors.New("not this peer's blob directory")

// ErrInUse says that another open peer uses the directory.
var ErrInUse = errors.New("another open peer uses this blob directory")

// Dir is one peer's blob directory, locked.
type Dir struct {
	path  string
	at    Place // of path, from when it was locked
	lock  *flock.Flock
	refs  *Refs
	run   context.Context //nolint:containedctx // ends with Close: the context of what Stage starts
	end   context.CancelFunc
	wg    sync.WaitGroup // Stage's goroutines; Close waits
	slots chan struct{}  // bounds how many files are hashed and synced at once
	names names
	// dirs is held to remove empty directories, for reading by who makes some, until a file is in them or nobody relies on it. Stands alone;
	// held across those few operations, not a sync.
	dirs sync.RWMutex

	buffers block.Buffers
	follow  *follower // nil: files are hashed when they are staged

	mu     sync.Mutex // guards staged; never held across I/O
	staged map[zodb.TxnID]map[zodb.Oid]*staged
}

// Open makes the directory if there is none, locks it, and takes stock of what is staged. refs outlives it. ErrForeign: something else is
// there, or nothing where the peer has blobs; it was not touched. *index.Corrupt: a marker is damaged.
func Open(path, group string, refs *Refs) (_ *Dir, err error) {
	d := &Dir{path: path, refs: refs, slots: make(chan struct{}, 2), staged: make(map[zodb.TxnID]map[zodb.Oid]*staged)}
	if err := claim(path, group, refs); err != nil {
		return nil, err
	}
	for _, name := range []string{path, d.Temp(), filepath.Join(path, stagedDir)} {
		if err := os.MkdirAll(name, 0o777); err != nil { // within a peer directory that others can't enter, unless blob-dir says otherwise
			return nil, fmt.Errorf("blob directory: %w", err)
		}
	}
	if err := mark(filepath.Join(path, layoutFile), layout); err != nil {
		return nil, damaged(path, group, refs, err)
	}
	_, unmarked := os.Lstat(filepath.Join(path, PeerFile))
	if unmarked != nil {
		if err := SyncNames(path); err != nil {
			return nil, fmt.Errorf("blob directory: %w", err)
		}
	}
	if err := mark(filepath.Join(path, PeerFile), "group "+group+"\n"); err != nil {
		return nil, damaged(path, group, refs, err)
	}
	if unmarked != nil { // before there is anything that would be foreign without it
		if err := SyncDir(path); err != nil {
			return nil, fmt.Errorf("blob directory: %w", err)
		}
	}
	d.lock = flock.New(filepath.Join(path, PeerFile))
	if ok, err := d.lock.TryLock(); err != nil || !ok {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, ErrInUse), err)
	}
	d.at.Path = path
	if err := errors.Join(d.at.There(), d.takeStock()); err != nil {
		return nil, errors.Join(err, d.lock.Close())
	}
	refs.path = d.Path
	d.run, d.end = context.WithCancel(context.Background())
	return d, nil
}

// OpenFrozen is Open where nothing can be written, and nothing is: what lies in tmp and staged stays there. Others may read beside.
func OpenFrozen(path, group string, refs *Refs) (*Dir, error) {
	if err := claim(path, group, refs); err != nil {
		return nil, err
	}
	for name, text := range map[string]string{layoutFile: layout, PeerFile: "group " + group} {
		if err := checkMark(filepath.Join(path, name), text); err != nil {
			return nil, damaged(path, group, refs, fmt.Errorf("blob directory: %w", err))
		}
	}
	d := &Dir{path: path, refs: refs, slots: make(chan struct{}, 2), staged: make(map[zodb.TxnID]map[zodb.Oid]*staged)}
	d.lock = flock.New(filepath.Join(path, PeerFile))
	if ok, err := d.lock.TryRLock(); err != nil || !ok {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, ErrInUse), err)
	}
	d.at.Path = path
	if err := d.at.There(); err != nil {
		return nil, errors.Join(err, d.lock.Close())
	}
	refs.path = d.Path
	d.run, d.end = context.WithCancel(context.Background())
	return d, nil
}

// names makes the names in the directory itself durable, once: what an earlier process made may not be.
type names struct {
	mu   sync.Mutex // guards all below. Stands alone; held during the one sync, which all wait for
	done bool
	err  error
}

// sync remembers what the sync said, since a second one would not tell of what it lost. Where the directory can't be opened, for want of file
// descriptors, nothing is lost, and the next one tries again.
func (n *names) sync(path string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.done {
		return n.err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	n.done, n.err = true, errors.Join(f.Sync(), f.Close())
	return n.err
}

// Vacant tells whether a directory, there or not, holds nothing but what Open makes.
func Vacant(path string) bool {
	entries, err := os.ReadDir(path)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	for _, e := range entries {
		switch e.Name() {
		case layoutFile, PeerFile, tempDir, layoutFile + markDraft, PeerFile + markDraft:
		case stagedDir:
			if left, err := os.ReadDir(filepath.Join(path, stagedDir)); err != nil || len(left) > 0 {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// claim refuses a directory that no peer has marked and that holds more than a crash within Open leaves: its tmp is not ours to empty. An
// empty one is refused if the peer has blobs: a disk that is not mounted must not become a second directory.
func claim(path, group string, refs *Refs) error {
	marker := filepath.Join(path, PeerFile)
	if info, err := os.Lstat(marker); err == nil && info.Size() > 0 {
		return nil // mark reads it
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("blob directory: %w", err)
	}
	entries, err := os.ReadDir(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("blob directory: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		if name == tempDir || name == stagedDir {
			left, err := os.ReadDir(filepath.Join(path, name))
			if err == nil && len(left) == 0 {
				continue
			}
		}
		if name = strings.TrimSuffix(name, markDraft); name != layoutFile && name != PeerFile {
			return fmt.Errorf("%s is not there or empty, but other files such as %q are: %w; if they are this peer's, write %q into it",
				marker, name, ErrForeign, "group "+group)
		}
	}
	if some, err := refs.some(); err != nil || !some {
		return err
	}
	return fmt.Errorf("%s is not there, but this peer has blobs: %w; mount it or put it back; to go on without their files, make it and write %q into it",
		marker, ErrForeign, "group "+group)
}

// mark makes a file that says whose a directory is; one that says otherwise is ErrForeign.
func mark(name, text string) error {
	raw, err := os.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && len(raw) == 0: // what an older version left of a loss of power
		if err := writeMark(name, text); err != nil {
			return fmt.Errorf("blob directory: %w", err)
		}
		return nil
	case err != nil:
		return fmt.Errorf("blob directory: %w", err)
	default:
		return checkMark(name, text)
	}
}

func checkMark(name, text string) error {
	raw, err := os.ReadFile(name)
	if err == nil && strings.TrimSuffix(string(raw), "\n") != strings.TrimSuffix(text, "\n") {
		err = &otherMark{name: name, says: string(raw), want: text}
	}
	return err
}

// otherMark is a marker that says something else: ErrForeign.
type otherMark struct{ name, says, want string }

func (e *otherMark) Error() string {
	return fmt.Sprintf("%s says %q, not %q: %v", e.name, e.says, e.want, ErrForeign)
}

func (e *otherMark) Unwrap() error { return ErrForeign }

// damaged makes *index.Corrupt of an otherMark that no peer and no ZODB writes, where this peer has blobs: those are theirs that say
// otherwise.
func damaged(path, group string, refs *Refs, err error) error {
	var e *otherMark
	if !errors.As(err, &e) {
		return err
	}
	if filepath.Base(e.name) == layoutFile {
		raw, _ := os.ReadFile(filepath.Join(path, PeerFile)) // unreadable: it is not known to be ours
		if strings.TrimSpace(e.says) == otherLayout || strings.TrimSpace(string(raw)) != "group "+group {
			return err
		}
	} else if id, ok := strings.CutPrefix(strings.TrimSuffix(e.says, "\n"), "group "); ok && len(id) == len(group) {
		if _, odd := hex.DecodeString(id); odd == nil {
			return err // another peer's
		}
	}
	if some, failed := refs.some(); failed != nil || !some {
		return errors.Join(err, failed)
	}
	return &index.Corrupt{File: e.name, Cause: fmt.Errorf("it says %q; if the files there are this peer's, write %q into it", e.says, e.want)}
}

// writeMark writes a marker that is there whole or not at all: a loss of power may leave any other name of an empty file, or of zeros, and
// the next open would take the directory for somebody else's.
func writeMark(name, text string) error {
	f, err := os.OpenFile(name+markDraft, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(name+markDraft, name)
}

// takeStock empties the applications' directory and lists the staged files.
func (d *Dir) takeStock() error {
	left, err := os.ReadDir(d.Temp())
	if err != nil {
		return fmt.Errorf("blob directory: %w", err)
	}
	for _, e := range left {
		if err := os.RemoveAll(filepath.Join(d.Temp(), e.Name())); err != nil {
			return fmt.Errorf("blob directory: %w", err)
		}
	}
	entries, err := os.ReadDir(filepath.Join(d.path, stagedDir))
	if err != nil {
		return fmt.Errorf("blob directory: %w", err)
	}
	for _, e := range entries {
		id, oid, err := parseStaged(e.Name())
		if err != nil {
			return fmt.Errorf("%s: %w", filepath.Join(d.path, stagedDir), err)
		}
		s := &staged{name: filepath.Join(d.path, stagedDir, e.Name()), done: make(chan struct{})}
		close(s.done)
		d.add(id, oid, s)
	}
	return nil
}

// Root is the directory.
func (d *Dir) Root() string { return d.path }

// Temp is where applications write blobs that are not committed yet, on the same file system.
func (d *Dir) Temp() string { return filepath.Join(d.path, tempDir) }

// Path is a committed file's name, in ZODB's bushy layout.
func (d *Dir) Path(oid zodb.Oid, tid zodb.Tid) string {
	return filepath.Join(d.oidPath(oid), tid.String()+suffix)
}

func (d *Dir) oidPath(oid zodb.Oid) string {
	parts := make([]string, 0, 9)
	parts = append(parts, d.path)
	for _, b := range oid.Bytes() {
		parts = append(parts, fmt.Sprintf("0x%02x", b))
	}
	return filepath.Join(parts...)
}

// Follow begins to hash what this process writes to Temp, and where ZODB writes blobs that have no connection yet. Without it, or
// where the kernel does not tell of files, they are hashed when they are staged.
func (d *Dir) Follow(temp string) {
	w, err := newFollower(d.Temp(), temp, &d.buffers)
	if err != nil {
		return
	}
	d.follow = w
	d.wg.Go(func() { w.run(d.run) })
}

// Close stops what is being read and gives the directory up. What is staged is resolved by the next open.
func (d *Dir) Close() error {
	d.end()
	d.wg.Wait()
	for _, files := range d.staged {
		for _, s := range files {
			s.shut()
		}
	}
	d.follow.close()
	return d.lock.Close()
}

// makeDirs makes a directory and all missing above it; REQUIRES: Dir.dirs, for reading. They are not synced: a rename into them is, on disk, behind them.
func makeDirs(path string) error {
	err := os.Mkdir(path, 0o777)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeDirs(filepath.Dir(path)); err != nil {
			return err
		}
		err = os.Mkdir(path, 0o777)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// SyncNames makes durable what names a directory holds, and its own and those of all above it: an earlier open may have made them, and have been killed. Who
// may not read one of those did not make what is in it; some file systems sync no directories.
func SyncNames(path string) error {
	if err := SyncDir(path); err != nil {
		return err
	}
	for up := filepath.Dir(path); up != path; path, up = up, filepath.Dir(up) {
		if err := SyncDir(up); err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, syscall.EINVAL) {
			return err
		}
	}
	return nil
}

// SyncDir makes the names in a directory durable, as far as nobody makes or removes some meanwhile.
func SyncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
