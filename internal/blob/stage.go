package blob

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// staged is one file of a transaction without an outcome.
type staged struct {
	name     string
	proposed bool // guarded by Dir.mu

	// What follows is written before done is closed, then by Seal.
	done chan struct{}
	blob zodb.Blob
	info fs.FileInfo // of the file before it was read; nil: from before this open
	tree *tree       // nil: its references are written, or it is from before this open
	open *os.File    // a small one that Seal has to sync; else nil
	kept bool        // its references are written and counted
	err  error
}

func stagedName(id zodb.TxnID, oid zodb.Oid) string {
	return fmt.Sprintf("%s-%016x", id, uint64(oid))
}

func parseStaged(name string) (id zodb.TxnID, oid zodb.Oid, err error) {
	const idLen = 2 * len(id)
	if len(name) != idLen+1+16 || name[idLen] != '-' {
		return id, 0, fmt.Errorf("a file %q that this program does not name so: %w", name, ErrForeign)
	}
	raw, err := hex.DecodeString(name[:idLen])
	n, err2 := strconv.ParseUint(name[idLen+1:], 16, 64)
	if err != nil || err2 != nil {
		return id, 0, fmt.Errorf("a file %q that this program does not name so: %w", name, ErrForeign)
	}
	return zodb.TxnID(raw), zodb.Oid(n), nil
}

// Stage takes the file at path over for a transaction's write of oid, and starts to read and sync it. By a rename, or a copy where path lies
// on another file system; with keep the file at path stays as it is, and the staged one is a hard link or a copy. A file
// that was staged before for the same object is replaced. A transaction's calls come one after another; a context that has ended copies nothing.
func (d *Dir) Stage(ctx context.Context, id zodb.TxnID, oid zodb.Oid, path string, keep bool) error {
	s := &staged{name: filepath.Join(d.path, stagedDir, stagedName(id, oid)), done: make(chan struct{})}
	if err := d.at.There(); err != nil {
		return fmt.Errorf("stage the blob of oid %s: %w", oid, err)
	}
	if err := d.drop(d.take(id, oid)); err != nil {
		return err
	}
	take := moveOrCopy
	if keep {
		take = linkOrCopy
	}
	size, err := take(ctx, path, s.name)
	if err != nil {
		return errors.Join(fmt.Errorf("stage the blob of oid %s: %w", oid, err), removeIfThere(s.name))
	}
	d.relieve(id, d.add(id, oid, s))
	if size <= smallFile {
		s.err = d.readSmall(oid, s)
		close(s.done)
		return nil
	}
	d.wg.Go(func() {
		defer close(s.done)
		select {
		case d.slots <- struct{}{}:
			defer func() { <-d.slots }()
			s.err = d.read(oid, s)
		case <-d.run.Done():
			s.err = d.run.Err()
		}
	})
	return nil
}

// syncAtOnce is the size of the largest file whose sync takes longer than its hashing.
const syncAtOnce = 512 << 10

// window is how much of a file startWrite is asked for at once: more would wait in it for the disk.
const window = 16 << 20

// read hashes a staged file while the disk takes it, and makes it durable under its staged name.
func (d *Dir) read(oid zodb.Oid, s *staged) (err error) {
	f, err := os.Open(s.name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	s.info = info
	if err := d.makeRoom(oid); err != nil { // now, not beside the sync: a journal would have it wait
		return err
	}
	var wg sync.WaitGroup
	if info.Size() <= syncAtOnce {
		var named error
		wg.Go(func() { named = d.name(s, f, info) })
		err := d.durable(f)
		wg.Wait()
		return errors.Join(named, err)
	}
	d.startWrites(f, info.Size(), &wg)
	err = d.name(s, f, info)
	wg.Wait()
	if err != nil {
		return err
	}
	return d.durable(f)
}

// durable syncs a staged file, its name and those above it: at once, since a journalling file system waits for one commit of its journal then.
func (d *Dir) durable(f *os.File) error {
	var wg sync.WaitGroup
	var dir, above error
	wg.Go(func() { dir = SyncDir(filepath.Dir(f.Name())) })
	wg.Go(func() { above = d.names.sync(d.path) })
	err := f.Sync()
	wg.Wait()
	return errors.Join(err, dir, above)
}

// startWrites has the disk begin to take a file. Not its sync at once, if it is large: until the runtime notices that this waits for the disk, it
// holds a processor that could hash.
func (d *Dir) startWrites(f *os.File, size int64, wg *sync.WaitGroup) {
	startWrite(f, 0, min(window, size))
	if size <= window {
		return
	}
	wg.Go(func() {
		for at := int64(window); at < size && d.run.Err() == nil; at += window {
			startWrite(f, at, window)
		}
	})
}

// name hashes a staged file.
func (d *Dir) name(s *staged, f *os.File, info fs.FileInfo) (err error) {
	s.tree = &tree{}
	s.blob.Size = info.Size()
	s.blob.Root, err = d.follow.take(info, &d.buffers).Import(d.run, f, info.Size(), s.tree)
	return err
}

// Staged tells whether a transaction has files.
func (d *Dir) Staged(id zodb.TxnID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.staged[id]) > 0
}

// Seal waits until a transaction's files are on disk, with their names and their references' bytes in Pebble's write-ahead log, where
// the transaction's entry will follow; it returns what the files hold. Nothing is staged: nil. ErrChanged: somebody writes to one. An error is not repaired by another
// Seal, since a second fsync would not tell of what the first one lost: stage again, or discard.
func (d *Dir) Seal(ctx context.Context, id zodb.TxnID) (map[zodb.Oid]zodb.Blob, error) {
	files := d.files(id)
	if len(files) == 0 {
		return nil, nil
	}
	for oid, s := range files {
		select {
		case <-s.done: // what is ready is taken, even if ctx has ended
		default:
			select {
			case <-s.done:
			case <-ctx.Done():
				return nil, fmt.Errorf("stage the blob of oid %s: %w", oid, ctx.Err())
			}
		}
	}
	if err := d.syncSmall(ctx, files); err != nil {
		return nil, fmt.Errorf("stage blobs: %w", err)
	}
	blobs := make(map[zodb.Oid]zodb.Blob, len(files))
	for oid, s := range files {
		if s.err != nil {
			return nil, fmt.Errorf("stage the blob of oid %s: %w", oid, s.err)
		}
		if err := still(ctx, oid, s); err != nil {
			return nil, err
		}
		blobs[oid] = s.blob
	}
	for _, s := range files {
		if s.tree == nil {
			continue
		}
		if err := d.refs.keep(ctx, s.blob.Root, s.tree); err != nil {
			return nil, fmt.Errorf("stage blobs: %w", err)
		}
		s.tree, s.kept = nil, true
	}
	return blobs, nil
}

// Commit moves a transaction's files to their final names. A transaction without any is no error; after an error the files are still
// staged, for Resolve at the next open.
func (d *Dir) Commit(id zodb.TxnID, tid zodb.Tid) error {
	for oid, s := range d.files(id) {
		if err := d.place(s.name, oid, tid); err != nil {
			return fmt.Errorf("put the blob of oid %s at tid %s into place: %w", oid, tid, err)
		}
		d.take(id, oid)
		if s.kept {
			d.refs.release(s.blob.Root)
		}
	}
	return nil
}

// place renames a staged file. Its directory is there unless another transaction for the same object was discarded meanwhile.
func (d *Dir) place(name string, oid zodb.Oid, tid zodb.Tid) error {
	if err := d.at.There(); err != nil {
		return err
	}
	d.dirs.RLock()
	defer d.dirs.RUnlock()
	to := d.Path(oid, tid)
	err := os.Rename(name, to)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := makeDirs(filepath.Dir(to)); err != nil {
		return err
	}
	return os.Rename(name, to)
}

// Propose notes that a transaction may be in the log from here on: Forget then leaves its files to its outcome.
func (d *Dir) Propose(id zodb.TxnID) { d.propose(id, true) }

// Withdraw undoes Propose for a transaction that the log did not take.
func (d *Dir) Withdraw(id zodb.TxnID) { d.propose(id, false) }

func (d *Dir) propose(id zodb.TxnID, proposed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.staged[id] {
		s.proposed = proposed
	}
}

// Forget is Discard for a client that gives a transaction up: it keeps what was proposed.
func (d *Dir) Forget(id zodb.TxnID) error {
	d.mu.Lock()
	for _, s := range d.staged[id] {
		if s.proposed {
			d.mu.Unlock()
			return nil
		}
	}
	d.mu.Unlock()
	return d.Discard(id)
}

// Discard removes what is staged for a transaction that never commits; unknown ones are no error.
func (d *Dir) Discard(id zodb.TxnID) error { return d.Narrow(id, nil) }

// Narrow removes what is staged for a transaction but for these objects.
func (d *Dir) Narrow(id zodb.TxnID, to map[zodb.Oid]bool) error {
	var errs []error
	for oid := range d.files(id) {
		if to[oid] {
			continue
		}
		errs = append(errs, d.drop(d.take(id, oid)))
		d.prune(oid)
	}
	return errors.Join(errs...)
}

// makeRoom makes an object's directory.
func (d *Dir) makeRoom(oid zodb.Oid) error {
	d.dirs.RLock()
	defer d.dirs.RUnlock()
	return makeDirs(d.oidPath(oid))
}

// prune removes an object's directory, and those above it, if they are empty.
func (d *Dir) prune(oid zodb.Oid) {
	d.dirs.Lock()
	defer d.dirs.Unlock()
	for path := d.oidPath(oid); path != d.path; path = filepath.Dir(path) {
		if os.Remove(path) != nil {
			return // not empty, not there, or somebody else's
		}
	}
}

// drop removes one staged file, after it was read, and its references.
func (d *Dir) drop(s *staged) error {
	if s == nil {
		return nil
	}
	<-s.done
	s.shut()
	err := removeIfThere(s.name)
	if s.kept {
		err = errors.Join(err, d.refs.drop(d.run, s.blob.Root))
	}
	return err
}

// add returns how many files are staged for the transaction then.
func (d *Dir) add(id zodb.TxnID, oid zodb.Oid, s *staged) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.staged[id] == nil {
		d.staged[id] = make(map[zodb.Oid]*staged)
	}
	d.staged[id][oid] = s
	return len(d.staged[id])
}

// take forgets a staged file and returns it, nil if there is none.
func (d *Dir) take(id zodb.TxnID, oid zodb.Oid) *staged {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.staged[id][oid]
	delete(d.staged[id], oid)
	if len(d.staged[id]) == 0 {
		delete(d.staged, id)
	}
	return s
}

// files is what is staged for a transaction.
func (d *Dir) files(id zodb.TxnID) map[zodb.Oid]*staged {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.staged[id]) == 0 {
		return nil
	}
	files := make(map[zodb.Oid]*staged, len(d.staged[id]))
	for oid, s := range d.staged[id] {
		files[oid] = s
	}
	return files
}
