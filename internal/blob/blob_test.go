package blob_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zodb-dht/zodb_dht/internal/blob"
	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

func TestACommittedFileIsTheOneThatWasHandedOver(t *testing.T) {
	p := newPeer(t)
	content := random(1, many)
	got := p.store(1, 0x2a, 7, content)
	want, err := block.Import(ctx, bytes.NewReader(content), many, nil)
	if err != nil || got != (zodb.Blob{Root: want, Size: many}) {
		t.Fatal(got, want, err)
	}
	name := filepath.Join(p.path, filepath.FromSlash("0x00/0x00/0x00/0x00/0x00/0x00/0x00/0x2a/0x0000000000000007.blob"))
	if read, err := os.ReadFile(name); err != nil || !bytes.Equal(read, content) || p.Path(0x2a, 7) != name {
		t.Fatal(p.Path(0x2a, 7), len(read), err)
	}
	if info, err := os.Stat(name); err != nil || info.Mode()&0o222 != 0 {
		t.Error("it may be written to", info, err)
	}
	if err := p.Check(ctx, 0x2a, 7, got); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(p.Temp()); err != nil || len(left) != 0 {
		t.Error("it was copied, not renamed", left, err)
	}
}

func TestAnOpenGivesWhatWasStagedItsDue(t *testing.T) {
	p := newPeer(t)
	contents := map[zodb.Oid][]byte{1: random(1, many), 2: random(2, 5), 3: random(3, many)}
	// Committed, and the process ended before the renames; another of its files had been renamed already.
	p.stage(1, 1, contents[1])
	p.stage(1, 2, contents[2])
	blobs := p.seal(1)
	p.apply(1, 9, blobs)
	// Sealed, never committed; staged, not sealed; half copied.
	p.stage(2, 3, contents[3])
	p.seal(2)
	p.stage(3, 4, []byte("not sealed"))
	p.reopen()
	for oid, b := range blobs {
		if err := p.Check(ctx, oid, 9, b); err != nil {
			t.Error(err)
		}
	}
	if err := p.Files(func(name string, oid zodb.Oid, tid zodb.Tid, known bool) bool {
		if !known || oid > 2 || tid != 9 {
			t.Errorf("%s is left", name)
		}
		return true
	}); err != nil {
		t.Error(err)
	}
	if read := fetch(t, block.NewView(p.refs, block.NewOthers(p.ds)), blobs[1]); !bytes.Equal(read, contents[1]) {
		t.Error("it reads differently by its CID")
	}
	if want, n := 181+2+1+1, len(p.keys()); n != want {
		t.Errorf("%d references, want %d", n, want)
	}
	if left, err := os.ReadDir(filepath.Join(p.path, "staged")); err != nil || len(left) != 0 {
		t.Error(left, err)
	}
}

func TestAnOpenEmptiesTheApplicationsDirectory(t *testing.T) {
	p := newPeer(t)
	p.temp([]byte("half a blob"))
	if err := os.Mkdir(filepath.Join(p.Temp(), "savepoint"), 0o700); err != nil {
		t.Fatal(err)
	}
	p.reopen()
	if left, err := os.ReadDir(p.Temp()); err != nil || len(left) != 0 {
		t.Error(left, err)
	}
}

func TestRemoveTakesAFileAndWhatOnlyItUsed(t *testing.T) {
	p := newPeer(t)
	content := random(1, many)
	one, other := p.store(1, 1, 5, content), p.store(2, 2, 6, content)
	keys := len(p.keys())
	first, second := blob.Revision{Oid: 1, Tid: 5, Blob: one}, blob.Revision{Oid: 2, Tid: 6, Blob: other}
	remove := func(revs ...blob.Revision) {
		t.Helper()
		if err := p.Remove(ctx, revs); err != nil {
			t.Fatal(err)
		}
	}
	remove(first)
	if err := p.Check(ctx, 2, 6, other); err != nil || len(p.keys()) != keys {
		t.Errorf("%d of %d references, %v", len(p.keys()), keys, err)
	}
	p.stage(3, 3, content)
	p.seal(3)
	remove(first, second)
	if len(p.keys()) != keys {
		t.Error("a staged file lost its references")
	}
	if err := p.Discard(zodb.TxnID{3}); err != nil {
		t.Fatal(err)
	}
	remove(first, second, first) // as after a crash, before their rows are deleted
	if len(p.keys()) != 0 {
		t.Error(len(p.keys()), "references are left")
	}
	if left := p.tree(); len(left) != 0 {
		t.Error(left)
	}
}

func TestAFileThatIsNotWhatItWasIsCorrupt(t *testing.T) {
	p := newPeer(t)
	b := p.store(1, 1, 2, random(1, 1000))
	name := p.Path(1, 2)
	if err := os.Chmod(name, 0o600); err != nil {
		t.Fatal(err)
	}
	changed := random(1, 1000)
	changed[500] ^= 1
	for what, break_ := range map[string]func() error{
		"a flipped bit": func() error { return os.WriteFile(name, changed, 0o600) },
		"cut off":       func() error { return os.Truncate(name, 999) },
		"missing":       func() error { return os.Rename(name, name+"x") },
	} {
		if err := break_(); err != nil {
			t.Fatal(err)
		}
		var c *index.Corrupt
		if err := p.Check(ctx, 1, 2, b); !errors.As(err, &c) || c.Oid != 1 || c.Tid != 2 || c.CID() != b.CID().String() || c.File != name {
			t.Errorf("%s: %v", what, err)
		} else if !strings.Contains(err.Error(), b.CID().String()) {
			t.Errorf("%s: %v", what, err)
		}
		_ = os.Remove(name + "x")
		if err := os.WriteFile(name, random(1, 1000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Check(ctx, 1, 2, b); err != nil {
		t.Error(err)
	}
	if _, err := p.Look(1, 3, b); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
