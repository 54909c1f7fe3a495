package replica

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3"
)

func reopened(t *testing.T, dir string) (*mark, bool) {
	t.Helper()
	m, sound, err := openMark(vfs.Default, dir, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.close() }) // a second close is an error and no matter
	return m, sound
}

func TestTheMarkKeepsTheLastPromise(t *testing.T) {
	dir := t.TempDir()
	m, sound := reopened(t, dir)
	if m.last != 0 || !sound {
		t.Fatalf("a new mark: %d, %v", m.last, sound)
	}
	// Raft may replace a tail: the mark follows it down, too.
	for _, last := range []uint64{1, 2, 3, 7, 7, 5, 6} {
		if err := m.promise(last); err != nil {
			t.Fatal(err)
		}
	}
	if m, sound = reopened(t, dir); m.last != 6 || !sound {
		t.Errorf("%d, %v", m.last, sound)
	}
	if info, err := os.Stat(filepath.Join(dir, markFile)); err != nil || info.Size() != 2*markSlot {
		t.Errorf("%v %v", info, err)
	}
}

func TestAMarkWithADamagedSlotHoldsTheOther(t *testing.T) {
	for i := range 2 * markSlot {
		dir := t.TempDir()
		m, _ := reopened(t, dir)
		if err := errors.Join(m.promise(1), m.promise(2)); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, markFile)
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		b[i] ^= 4
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		m, sound := reopened(t, dir)
		if want := uint64(1 + i/markSlot); sound || m.last != want { // the second promise lies in slot 0
			t.Errorf("byte %d: %d, want %d, %v", i, m.last, want, sound)
		}
		if err := errors.Join(m.promise(9), m.promise(10)); err != nil {
			t.Fatal(err)
		}
		if m, sound = reopened(t, dir); !sound || m.last != 10 {
			t.Errorf("byte %d: the next promises mend nothing: %d, %v", i, m.last, sound)
		}
	}
}

// Nobody misses a mark that is gone, nor makes one where nothing may be written.
func TestAFrozenLogDoesWithoutAMark(t *testing.T) {
	dir := t.TempDir()
	l := &logStore{MemoryStorage: raft.NewMemoryStorage()}
	if err := l.openMark(Config{FS: vfs.Default, Dir: dir, Frozen: true}); err != nil || l.damaged != nil {
		t.Error(err, l.damaged)
	}
	if err := errors.Join(l.mark.promise(1), l.mark.close()); err != nil {
		t.Error(err)
	}
	if made, err := os.ReadDir(dir); err != nil || len(made) > 0 {
		t.Error(made, err)
	}
}

// counted counts the files that are open.
type counted struct {
	vfs.FS
	open int
}

type countedFile struct {
	vfs.File
	fs *counted
}

func (f *counted) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	file, err := f.FS.OpenReadWrite(name, category, opts...)
	if err != nil {
		return nil, err
	}
	f.open++
	return &countedFile{file, f}, nil
}

func (f *countedFile) Close() error {
	f.fs.open--
	return f.File.Close()
}

func (f *countedFile) Sync() error { return errors.New("the disk burns") }

func TestAMarkThatCanNotBeMadeIsClosed(t *testing.T) {
	fsys := &counted{FS: vfs.Default}
	if _, _, err := openMark(fsys, t.TempDir(), false); err == nil || fsys.open != 0 {
		t.Errorf("%v, %d files are open", err, fsys.open)
	}
}

func TestACutMarkIsNotSound(t *testing.T) {
	for _, size := range []int{1, markSlot, 2*markSlot - 1} {
		dir := t.TempDir()
		m, _ := reopened(t, dir)
		if err := m.promise(4); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(m.name, int64(size)); err != nil {
			t.Fatal(err)
		}
		if _, sound := reopened(t, dir); sound {
			t.Errorf("%d bytes are called sound", size)
		}
	}
}
