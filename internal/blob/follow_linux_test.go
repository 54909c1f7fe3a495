package blob_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/zodb-dht/zodb_dht/internal/blob"
	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// following is a peer that hashes ahead, and where ZODB writes the files of blobs without a connection.
func following(t *testing.T) (p *peer, temp string) {
	t.Helper()
	p, temp = newPeer(t), t.TempDir()
	p.Follow(temp)
	return p, temp
}

// until waits for what the follower's goroutine does in its own time.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("it never came: " + what)
		}
	}
}

// write makes a file as an application does, which has it open still, and waits until all its whole chunks are hashed.
func (p *peer) write(dir, name string, content []byte) *os.File {
	p.t.Helper()
	t, _ := p.t.(*testing.T)
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		_, err = f.Write(content)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	until(t, "hashed ahead", func() bool {
		size, _ := p.Ahead(f.Name())
		return size == int64(len(content)/block.ChunkSize*block.ChunkSize)
	})
	return f
}

// is stages a file and compares what it is named with what its bytes are.
func (p *peer) is(id byte, path string) {
	p.t.Helper()
	if err := p.Stage(ctx, zodb.TxnID{id}, zodb.Oid(id), path, false); err != nil {
		p.t.Fatal(err)
	}
	got := p.seal(id)[zodb.Oid(id)]
	p.apply(id, zodb.Tid(id), map[zodb.Oid]zodb.Blob{zodb.Oid(id): got})
	if err := p.Commit(zodb.TxnID{id}, zodb.Tid(id)); err != nil {
		p.t.Fatal(err)
	}
	if err := p.Check(ctx, zodb.Oid(id), zodb.Tid(id), got); err != nil { // reads it anew
		p.t.Error(err)
	}
	if n := p.Followed(); n != 0 {
		p.t.Error(n, "files are followed still")
	}
}

func TestWhatWasHashedAheadIsBelievedOnlyIfItIsStillWhatTheFileHolds(t *testing.T) {
	const chunk = block.ChunkSize
	content := random(1, 9*chunk+17)
	other := random(2, chunk)
	at := func(f *os.File, b []byte, off int64) error { _, err := f.WriteAt(b, off); return err }
	// Stores by a mapping are told of only when it ends.
	mapped := func(f *os.File, unmap bool) error {
		m, err := syscall.Mmap(int(f.Fd()), 0, 2*chunk, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
		m[chunk+5]++
		if unmap {
			return syscall.Munmap(m)
		}
		t.Cleanup(func() { _ = syscall.Munmap(m) })
		return nil
	}
	for name, change := range map[string]func(f *os.File) error{
		"nothing, closed":                 (*os.File).Close,
		"nothing, open":                   func(*os.File) error { return nil },
		"rewritten, open":                 func(f *os.File) error { return at(f, other, 3*chunk) },
		"rewritten, closed":               func(f *os.File) error { return errors.Join(at(f, other, 3*chunk), f.Close()) },
		"a byte across two chunks":        func(f *os.File) error { return errors.Join(at(f, []byte{1, 2}, 4*chunk-1), f.Close()) },
		"grown":                           func(f *os.File) error { return errors.Join(at(f, other, 9*chunk+17), f.Close()) },
		"cut":                             func(f *os.File) error { return errors.Join(f.Truncate(2*chunk+5), f.Close()) },
		"cut to nothing":                  func(f *os.File) error { return errors.Join(f.Truncate(0), f.Close()) },
		"cut, and grown by a hole":        func(f *os.File) error { return errors.Join(f.Truncate(chunk), f.Truncate(9*chunk), f.Close()) },
		"mapped, stored to":               func(f *os.File) error { return mapped(f, false) },
		"mapped, stored to, and unmapped": func(f *os.File) error { return mapped(f, true) },
		"rewritten after it was closed": func(f *os.File) error {
			if err := f.Close(); err != nil {
				return err
			}
			again, err := os.OpenFile(f.Name(), os.O_RDWR, 0)
			if err != nil {
				return err
			}
			return errors.Join(at(again, other, 0), again.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, temp := newPeer(t), t.TempDir()
			if err := p.FollowAside(temp); err != nil {
				t.Fatal(err)
			}
			f, err := os.Create(filepath.Join(temp, "BUC1"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = f.Close() })
			if _, err := f.Write(content); err != nil || !p.LookAt(f.Name()) {
				t.Fatal("not followed", err)
			}
			if size, _ := p.Ahead(f.Name()); size != 9*chunk {
				t.Fatal(size, "bytes are hashed ahead")
			}
			if err := change(f); err != nil {
				t.Fatal(err)
			}
			p.is(1, f.Name())
		})
	}
}

func TestAFileThatIsCutByItsNameIsDoubted(t *testing.T) {
	p := newPeer(t)
	if err := p.FollowAside(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	name := p.temp(random(1, 9*block.ChunkSize))
	if !p.LookAt(name) {
		t.Fatal("not followed")
	}
	if err := errors.Join(os.Truncate(name, block.ChunkSize), os.Truncate(name, 9*block.ChunkSize)); err != nil {
		t.Fatal(err)
	}
	p.is(1, name)
}

func TestAFileIsFollowedUnderAnotherNameAndForItsLastPart(t *testing.T) {
	p, _ := following(t)
	content := random(1, 12*block.ChunkSize)
	f := p.write(p.Temp(), "any name", content[:6*block.ChunkSize])
	renamed := filepath.Join(p.Temp(), "renamed")
	if err := os.Rename(f.Name(), renamed); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(content[6*block.ChunkSize:]); err != nil {
		t.Fatal(err)
	}
	until(t, "the rest", func() bool { size, _ := p.Ahead(renamed); return size == int64(len(content)) })
	p.is(1, renamed)
	if read, err := os.ReadFile(p.Path(1, 1)); err != nil || !bytes.Equal(read, content) {
		t.Error(len(read), err)
	}
}

func TestARemovedFileIsLetGo(t *testing.T) {
	p, temp := following(t)
	f := p.write(temp, "BUC1", random(1, 4*block.ChunkSize))
	if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
		t.Fatal(err)
	}
	until(t, "its space is free", func() bool { return p.Followed() == 0 })
}

func TestOnlySoManyFilesAreFollowedAndTheOthersAreHashedLater(t *testing.T) {
	p, temp := following(t)
	names := make(map[byte]string)
	for id := byte(1); id <= 3*blob.MaxFollowed; id++ {
		f, err := os.CreateTemp(temp, "BUC")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		if _, err := f.Write(random(uint64(id), 4*block.ChunkSize)); err != nil {
			t.Fatal(err)
		}
		names[id] = f.Name()
	}
	until(t, "as many as may be", func() bool { return p.Followed() == blob.MaxFollowed })
	for id := byte(1); id <= byte(len(names)); id++ {
		if err := p.Stage(ctx, zodb.TxnID{id}, zodb.Oid(id), names[id], false); err != nil {
			t.Fatal(err)
		}
		if n := p.Followed(); n > blob.MaxFollowed {
			t.Error(n, "files are followed")
		}
	}
	for id := byte(1); id <= byte(len(names)); id++ {
		blobs := p.seal(id)
		p.apply(id, zodb.Tid(id), blobs)
		if err := errors.Join(p.Commit(zodb.TxnID{id}, zodb.Tid(id)), p.Check(ctx, zodb.Oid(id), zodb.Tid(id), blobs[zodb.Oid(id)])); err != nil {
			t.Error(err)
		}
	}
}

func TestFilesOfOthersAreNotRead(t *testing.T) {
	p, temp := following(t)
	content := random(1, 4*block.ChunkSize)
	elsewhere := t.TempDir()
	outside, others := filepath.Join(elsewhere, "outside"), filepath.Join(elsewhere, "others")
	for _, name := range []string{outside, others} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// A link, so that it is new there and this process never had it open there: another one's that has it open, or none.
	if err := errors.Join(os.Link(others, filepath.Join(temp, "BUC1")), os.Symlink(outside, filepath.Join(temp, "BUC2"))); err != nil {
		t.Fatal(err)
	}
	other, err := os.Create(filepath.Join(temp, "not a blob's name"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.Write(content); err != nil {
		t.Fatal(err)
	}
	p.write(temp, "BUC3", content) // made after them, so that they were looked at before
	if n := p.Followed(); n != 1 {
		t.Error(n, "files are followed")
	}
}

func TestACloseLetsFollowedFilesGo(t *testing.T) {
	p, temp := following(t)
	p.write(temp, "BUC1", random(1, 8*block.ChunkSize))
	p.reopen() // TestMain looks for goroutines
	if p.Follow(temp); p.Followed() != 0 {
		t.Error("followed from before")
	}
}
