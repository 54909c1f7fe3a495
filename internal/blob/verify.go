package blob

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Look returns the name of a committed file after a look at its length: *index.Corrupt if it is missing or has another one. An error of the
// process, such as a missing permission, is no damage.
func (d *Dir) Look(oid zodb.Oid, tid zodb.Tid, want zodb.Blob) (string, error) {
	name := d.Path(oid, tid)
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = fs.ErrNotExist // without the name, which is in Corrupt
	case err == nil && info.Size() != want.Size:
		err = fmt.Errorf("it has %d bytes, not %d", info.Size(), want.Size)
	}
	if err != nil {
		return "", damage(oid, tid, want, name, err)
	}
	return name, nil
}

// damage tells what is wrong with a file from what is wrong with the process that reads it.
func damage(oid zodb.Oid, tid zodb.Tid, want zodb.Blob, name string, err error) error {
	for _, ours := range []error{fs.ErrPermission, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
		if errors.Is(err, ours) {
			return fmt.Errorf("the blob of oid %s at tid %s: %w", oid, tid, err)
		}
	}
	return &index.Corrupt{Oid: oid, Tid: tid, Blob: want, File: name, Cause: err}
}

// Check reads a committed file to its end: *index.Corrupt unless it is what its root CID names.
func (d *Dir) Check(ctx context.Context, oid zodb.Oid, tid zodb.Tid, want zodb.Blob) error {
	name, err := d.Look(oid, tid, want)
	if err != nil {
		return err
	}
	got, err := Identify(ctx, name)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil && got != want {
		err = fmt.Errorf("its bytes have %s: %w", got.CID(), block.ErrMismatch)
	}
	if err != nil {
		return damage(oid, tid, want, name, err)
	}
	return nil
}

// Files calls yield for every committed file, ordered by oid and tid; name is relative to the directory. A file that this program does
// not name so has known false. What is staged or temporary is left out.
func (d *Dir) Files(yield func(name string, oid zodb.Oid, tid zodb.Tid, known bool) bool) error {
	err := filepath.WalkDir(d.path, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone meanwhile
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(d.path, path)
		if err != nil {
			return err
		}
		switch {
		case name == tempDir || name == stagedDir:
			return fs.SkipDir
		case e.IsDir() || name == layoutFile || name == PeerFile:
			return nil
		}
		oid, tid, ok := d.parse(name)
		if !yield(name, oid, tid, ok) {
			return fs.SkipAll
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("blob directory: %w", err)
	}
	return nil
}

// parse reads a committed file's name, relative to the directory.
func (d *Dir) parse(name string) (zodb.Oid, zodb.Tid, bool) {
	hexes := strings.ReplaceAll(filepath.Dir(name), string(filepath.Separator), "")
	oid, err := strconv.ParseUint(strings.ReplaceAll(hexes, "0x", ""), 16, 64)
	tid, err2 := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(name), "0x"), suffix), 16, 64)
	if err != nil || err2 != nil {
		return 0, 0, false
	}
	o, t := zodb.Oid(oid), zodb.Tid(tid)
	return o, t, d.Path(o, t) == filepath.Join(d.path, name)
}
