package blob_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/zodb-dht/zodb_dht/internal/blob"
	"github.com/zodb-dht/zodb_dht/internal/index"
)

func TestADirectoryOfSomebodyElseIsLeftAlone(t *testing.T) {
	p := newPeer(t)
	if _, err := blob.Open(p.path, "00", p.refs); !errors.Is(err, blob.ErrInUse) {
		t.Error(err)
	}
	p.close()
	for what, edit := range map[string]func(string) error{
		"another group's": func(string) error { return nil },
		"another layout": func(path string) error {
			return os.WriteFile(filepath.Join(path, ".layout"), []byte("lawn"), 0o600)
		},
		"a staged file of another name": func(path string) error {
			return os.WriteFile(filepath.Join(path, "staged", "what"), nil, 0o600)
		},
	} {
		group := "00"
		if what == "another group's" {
			group = "11"
		}
		if err := edit(p.path); err != nil {
			t.Fatal(err)
		}
		before := p.tree()
		if _, err := blob.Open(p.path, group, blob.NewRefs(p.ds, p.state)); !errors.Is(err, blob.ErrForeign) {
			t.Errorf("%s: %v", what, err)
		}
		if d := cmp.Diff(before, p.tree()); d != "" {
			t.Error(what, d)
		}
		_ = os.WriteFile(filepath.Join(p.path, ".layout"), []byte("bushy"), 0o600)
		_ = os.Remove(filepath.Join(p.path, "staged", "what"))
	}
	p.open()
}

func TestAMarkerThatNobodyWritesIsDamageWhereThePeerHasBlobs(t *testing.T) {
	for _, blobs := range []bool{false, true} {
		p := newPeer(t)
		if blobs {
			p.store(1, 1, 7, []byte("content"))
		}
		p.close()
		for name, text := range map[string]string{".layout": "bu\x00hy", ".zodb_dht": "group 0"} {
			marker := filepath.Join(p.path, name)
			good, err := os.ReadFile(marker)
			if err := errors.Join(err, os.WriteFile(marker, []byte(text), 0o600)); err != nil {
				t.Fatal(err)
			}
			_, err = blob.Open(p.path, "00", blob.NewRefs(p.ds, p.state))
			var damage *index.Corrupt
			if errors.As(err, &damage) != blobs || errors.Is(err, blob.ErrForeign) == blobs || blobs && damage.File != marker {
				t.Errorf("blobs %t, %s: %v", blobs, name, err)
			}
			if err := os.WriteFile(marker, good, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		p.open()
	}
}

// A directory whose tmp would be emptied: / has one, and a FileStorage's blobs.
func TestADirectoryWithoutAMarkerIsTakenOnlyIfItIsEmpty(t *testing.T) {
	p := newPeer(t)
	p.close()
	for _, name := range []string{"tmp/precious", "tmp/below/precious", "staged/precious", "precious", "0x00/precious"} {
		dir := t.TempDir()
		precious := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(precious), 0o700), os.WriteFile(precious, []byte("mine"), 0o600)); err != nil {
			t.Fatal(err)
		}
		if _, err := blob.Open(dir, "00", blob.NewRefs(p.ds, p.state)); !errors.Is(err, blob.ErrForeign) || !strings.Contains(err.Error(), "group 00") {
			t.Errorf("%s: %v", name, err)
		}
		if b, err := os.ReadFile(precious); string(b) != "mine" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
		for _, made := range []string{".layout", ".zodb_dht"} {
			if _, err := os.Stat(filepath.Join(dir, made)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %s was made: %v", name, made, err)
			}
		}
	}
	// What a crash within an open leaves is no stranger's.
	if err := os.Remove(filepath.Join(p.path, ".zodb_dht")); err != nil {
		t.Fatal(err)
	}
	p.open()
	p.close()
	for _, name := range []string{".zodb_dht", ".layout"} {
		if err := os.Truncate(filepath.Join(p.path, name), 0); err != nil {
			t.Fatal(err)
		}
	}
	p.open()
	p.close()
	p.open()
}
