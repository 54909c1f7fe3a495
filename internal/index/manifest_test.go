package index_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"github.com/zodb-dht/zodb_dht/internal/index"
)

// leaveManifest makes a directory as a kill leaves it, after some flushes, and names its newest manifest.
func leaveManifest(t *testing.T) (dir, name string) {
	t.Helper()
	made := t.TempDir()
	s, err := index.Open(index.Config{Dir: made, Create: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if err := errors.Join(s.DB().Set([]byte{'/', byte(i)}, []byte{byte(i)}, pebble.Sync), s.DB().Flush()); err != nil {
			t.Fatal(err)
		}
	}
	dir = filepath.Join(t.TempDir(), "killed")
	if err := errors.Join(os.CopyFS(dir, os.DirFS(made)), s.Close()); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "MANIFEST-*"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no manifest: %v", err)
	}
	return dir, names[len(names)-1]
}

// told opens dir and returns what is said of its manifest: by the open, or by the log and verify.
func told(t *testing.T, dir, name string) string {
	t.Helper()
	var out strings.Builder
	s, err := index.Open(index.Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(&out, nil))})
	if err != nil {
		return "refused"
	}
	r, err := s.Verify(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range r.Damaged {
		if r.Damaged[i].File == name && strings.Contains(out.String(), filepath.Base(name)) {
			return "reported"
		}
	}
	return ""
}

func TestEachFlipInAManifestIsTold(t *testing.T) {
	dir, name := leaveManifest(t)
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]int{}
	for at := range raw {
		copied := filepath.Join(t.TempDir(), "copy")
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		changed := append([]byte(nil), raw...)
		changed[at] ^= 1 << (at % 8)
		to := filepath.Join(copied, filepath.Base(name))
		if err := os.WriteFile(to, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		how := told(t, copied, to)
		if how == "" {
			t.Errorf("byte %d of %d: nobody tells", at, len(raw))
		}
		said[how]++
	}
	t.Log(said)
	if said["reported"] == 0 {
		t.Error("no flip leaves a whole state: is the manifest read at all?")
	}
}

// What a crash leaves of the last write is no damage: the file ends within it, or with sectors that were never written.
func TestATornManifestIsNoDamage(t *testing.T) {
	dir, name := leaveManifest(t)
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for what, torn := range map[string][]byte{
		"a head's beginning": append(raw[:len(raw):len(raw)], 1, 2, 3),
		"a record's":         append(raw[:len(raw):len(raw)], 9, 9, 9, 9, 200, 0, 1, 7, 7),
		"zeros":              append(raw[:len(raw):len(raw)], make([]byte, 700)...),
		"a sector, no more":  append(append(raw[:len(raw):len(raw)], 9, 9, 9, 9, 200, 8, 1, 7, 7), make([]byte, 4000)...),
	} {
		if err := os.WriteFile(name, torn, 0o600); err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(t.TempDir(), "copy")
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		if how := told(t, copied, filepath.Join(copied, filepath.Base(name))); how != "" {
			t.Errorf("%s: %s", what, how)
		}
	}
}
