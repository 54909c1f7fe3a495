package node

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	ds "github.com/ipfs/go-ds-pebble"

	"github.com/zodb-dht/zodb_dht/internal/blob"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/replica"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// openBlobs is called before the log is: what it applies may have staged files.
func (n *Node) openBlobs() error {
	path, err := n.dir.placeBlobs(n.cfg.BlobDir)
	if err != nil {
		return pathError(path, err)
	}
	// Not closed: that would close the instance, which is the state's. Not synced: a file's references precede its transaction's entry in
	// the write-ahead log, and the entry is.
	refs, err := ds.NewDatastore("", ds.WithPebbleDB(n.store.DB()), ds.WithPebbleWriteOptions(pebble.NoSync))
	if err != nil {
		return err
	}
	n.refs = blob.NewRefs(refs, n.store)
	if n.dir.frozen {
		n.blobs, err = blob.OpenFrozen(path, hex.EncodeToString(n.dir.group[:]), n.refs)
		return openError(path, err)
	}
	n.blobs, err = blob.Open(path, hex.EncodeToString(n.dir.group[:]), n.refs)
	if err != nil {
		return openError(path, err)
	}
	if !n.cfg.ReadOnly && n.cfg.TempDir != "" {
		n.blobs.Follow(n.cfg.TempDir)
	}
	return openError(path, n.dir.rememberBlobs(path))
}

// placeBlobs returns where the blobs are, which the peer directory remembers: all programs find them by it. The option moves nothing; it
// is refused where it would leave blobs behind.
func (d *directory) placeBlobs(option string) (string, error) {
	note, have := filepath.Join(d.path, blobDirFile), filepath.Join(d.path, blobsDir)
	raw, err := os.ReadFile(note)
	if err == nil {
		text, whole := unsealText(raw)
		if !whole {
			return note, &index.Corrupt{File: note, Cause: errors.New("it does not have the checksum that it names; to go on, remove it and give the option blob-dir once")}
		}
		have = strings.TrimSuffix(text, "\n")
	} else if !errors.Is(err, fs.ErrNotExist) {
		return note, err
	}
	if option == "" || option == have {
		return have, nil
	}
	raw, err = os.ReadFile(filepath.Join(option, blob.PeerFile))
	moved := err == nil && strings.TrimSpace(string(raw)) == "group "+hex.EncodeToString(d.group[:])
	if !moved && !blob.Vacant(have) {
		return option, fmt.Errorf("%w: blob-dir is %s, but this peer's blobs are in %s; move them there first", ErrUsage, option, have)
	}
	return option, nil
}

// rememberBlobs is called once the directory is known to be this peer's.
func (d *directory) rememberBlobs(path string) error {
	note := filepath.Join(d.path, blobDirFile)
	raw, err := os.ReadFile(note)
	text := sealText(path + "\n")
	if bytes.Equal(text, raw) || errors.Is(err, fs.ErrNotExist) && path == filepath.Join(d.path, blobsDir) {
		return nil
	}
	if err := writeSynced(note+".new", text); err != nil {
		return err
	}
	if err := os.Rename(note+".new", note); err != nil {
		return err
	}
	return blob.SyncDir(d.path)
}

// BlobDir is where the blobs are.
func (n *Node) BlobDir() string { return n.blobs.Root() }

// StageBlob is Operations.StageBlob.
func (n *Node) StageBlob(ctx context.Context, id zodb.TxnID, oid zodb.Oid, path string, keep bool) error {
	if err := n.enterWrite(); err != nil {
		return err
	}
	defer n.calls.RUnlock()
	err := n.blobs.Stage(ctx, id, oid, path, keep)
	if errors.Is(err, context.Canceled) {
		err = fmt.Errorf("%w: %w", replica.ErrBusy, err)
	}
	return err
}

// BlobFile is Operations.BlobFile.
func (n *Node) BlobFile(ctx context.Context, oid zodb.Oid, tid zodb.Tid, whole bool) (string, error) {
	if err := n.enter(); err != nil {
		return "", err
	}
	defer n.calls.RUnlock()
	rev, err := n.store.LoadSerial(oid, tid)
	if errors.Is(err, index.ErrNotFound) { // a snapshot from before a pack may still see it
		if rev, err = n.store.LoadPinned(oid, tid); err == nil && rev.Tid != tid {
			err = index.ErrNotFound
		}
		if err = n.packedAway(oid, tid, err); errors.Is(err, index.ErrNoRevision) {
			err = index.ErrNotFound
		}
	}
	if err == nil && !rev.Blob.Exists() {
		err = index.ErrNotFound
	}
	if err != nil {
		return "", err
	}
	return n.lookAtBlob(ctx, oid, tid, rev.Blob, whole)
}

// lookAtBlob looks at the file of a revision. Where that was packed away, perhaps since it was found, it may be gone: a sweep removes files before
// their rows.
func (n *Node) lookAtBlob(ctx context.Context, oid zodb.Oid, tid zodb.Tid, b zodb.Blob, whole bool) (string, error) {
	path, err := n.blobs.Look(oid, tid, b)
	if err == nil && whole {
		err = n.blobs.Check(ctx, oid, tid, b)
	}
	if err == nil {
		return path, nil
	}
	if _, now := n.store.LoadSerial(oid, tid); errors.Is(now, index.ErrNotFound) {
		err = &PackedAway{Oid: oid, At: tid, Horizon: n.store.Stats().Horizon}
	}
	return "", err
}

// removeBlobs removes the files of revisions that a sweep is about to delete.
func (n *Node) removeBlobs(ctx context.Context, revs []index.Revision) error {
	files := make([]blob.Revision, len(revs))
	for i := range revs {
		files[i] = blob.Revision{Oid: revs[i].Oid, Tid: revs[i].Tid, Blob: revs[i].Blob}
	}
	return n.blobs.Remove(ctx, files)
}

// seal puts what is staged for txn into its writes, and drops what it does not write after all: the object was deleted behind it. A context that has ended already takes what is ready, else it is busy.
func (n *Node) seal(ctx context.Context, txn *zodb.Txn) error {
	if !n.blobs.Staged(txn.ID) {
		return nil
	}
	written := make(map[zodb.Oid]bool, len(txn.Writes))
	for i := range txn.Writes {
		if w := &txn.Writes[i]; w.Kind == zodb.WriteData {
			written[w.Oid] = true
		}
	}
	var blobs map[zodb.Oid]zodb.Blob
	err := n.apart(func() (err error) {
		if err := n.blobs.Narrow(txn.ID, written); err != nil {
			return err
		}
		blobs, err = n.blobs.Seal(ctx, txn.ID)
		return err
	})
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w: %w", replica.ErrBusy, err)
	}
	if err != nil {
		return err
	}
	for i := range txn.Writes {
		if w := &txn.Writes[i]; w.Kind == zodb.WriteData && w.Blob == (zodb.Blob{}) {
			w.Blob = blobs[w.Oid]
		}
	}
	return nil
}

// apart runs what writes to Pebble in a goroutine, which is lost where Pebble never lets it return: the caller's thread is not.
func (n *Node) apart(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-n.store.Parked():
		return &replica.Broken{Cause: n.Broken()}
	}
}

// forgetBlobs removes what a client staged and gives up. While the transaction is in doubt its files stay: its outcome settles them, at the
// next open if need be.
func (n *Node) forgetBlobs(id zodb.TxnID) error {
	if !n.blobs.Staged(id) {
		return nil
	}
	return n.apart(func() error { return n.blobs.Forget(id) })
}

// settleBlobs is called after Apply, before readers may see the transaction.
func (n *Node) settleBlobs(o index.Outcome) error {
	if o.Verdict != index.Committed {
		return n.blobs.Discard(o.TxnID)
	}
	return n.blobs.Commit(o.TxnID, o.Tid)
}

// verifyBlobs reads every committed blob and looks for files that no revision has.
func (n *Node) verifyBlobs(ctx context.Context, r *Report, progress func(done, total uint64)) error {
	var stop error
	err := n.store.Blobs(zodb.Hash{}, func(rev index.Revision, err error) bool {
		if err == nil {
			if _, hidden := n.store.LoadSerial(rev.Oid, rev.Tid); errors.Is(hidden, index.ErrNotFound) {
				return true // a pack hides it; the sweep removes the file before the row
			}
			r.Blobs++
			r.BlobSize += uint64(rev.Blob.Size)
			err = n.blobs.Check(ctx, rev.Oid, rev.Tid, rev.Blob)
		}
		if progress != nil {
			progress(r.Records+r.Blobs, 0)
		}
		stop = r.Note(err)
		return stop == nil
	})
	if err := errors.Join(stop, err); err != nil {
		return err
	}
	return n.blobs.Files(func(name string, oid zodb.Oid, tid zodb.Tid, known bool) bool {
		if known {
			rev, err := n.store.Row(oid, tid)
			if known = err == nil && rev.Blob.Exists(); !known && !errors.Is(err, index.ErrNotFound) && err != nil {
				return true // a damaged record: named already
			}
		}
		if !known {
			path := filepath.Join(n.blobs.Root(), name)
			if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
				return true // a sweep was faster
			}
			r.Orphans = append(r.Orphans, path)
		}
		return len(r.Orphans) < maxOrphans
	})
}

// maxOrphans bounds the list of files without a revision.
const maxOrphans = 1000
