package blob

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// moveOrCopy makes to of the file at from, which is gone afterwards, and returns its length.
func moveOrCopy(ctx context.Context, from, to string) (int64, error) {
	err := os.Rename(from, to)
	if errors.Is(err, syscall.EXDEV) {
		if err = copyFile(ctx, from, to); err == nil {
			err = os.Remove(from)
		}
	}
	if err != nil {
		return 0, err
	}
	return protect(to)
}

// linkOrCopy makes to of the file at from, which stays, and returns its length. A file that somebody may write to is never linked.
func linkOrCopy(ctx context.Context, from, to string) (int64, error) {
	info, err := os.Stat(from)
	if err != nil {
		return 0, err
	}
	if info.Mode()&0o222 == 0 {
		if err := os.Link(from, to); err == nil {
			return info.Size(), nil
		}
	}
	if err := copyFile(ctx, from, to); err != nil {
		return 0, err
	}
	return protect(to)
}

// copyFile copies in the kernel where it can, else through a small buffer.
func copyFile(ctx context.Context, from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if n, err := io.CopyN(out, in, 16<<20); err != nil || n == 0 {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

// protect takes the right to write away, and gives the right to read to whoever may read the directory, as ZODB does. It returns the file's length.
func protect(name string) (int64, error) {
	info, err := os.Stat(name)
	if err != nil {
		return 0, err
	}
	dir, err := os.Stat(filepath.Dir(name))
	if err != nil {
		return 0, err
	}
	return info.Size(), os.Chmod(name, info.Mode().Perm()&^0o222|dir.Mode().Perm()&0o444)
}

func removeIfThere(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
