package index_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
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

// Pebble takes what comes before the damage for all: of the tables that are named behind it nobody would hear again.
func TestEachFlipInTheManifestIsRefusedAndNothingIsRemoved(t *testing.T) {
	dir, name := leaveManifest(t)
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	before := names(t, copied)
	to := filepath.Join(copied, filepath.Base(name))
	for at := range raw {
		changed := append([]byte(nil), raw...)
		changed[at] ^= 1 << (at % 8)
		if err := os.WriteFile(to, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := index.Open(index.Config{Dir: copied, Logger: slog.New(slog.DiscardHandler)})
		var damage *index.Corrupt
		switch {
		case err == nil:
			t.Fatalf("byte %d of %d: it opens; %v", at, len(raw), s.Close())
		case !errors.As(err, &damage) || damage.File != to:
			t.Fatalf("byte %d of %d: %v", at, len(raw), err)
		}
		if after := names(t, copied); !slices.Equal(before, after) {
			t.Fatalf("byte %d of %d: %q are left of %q", at, len(raw), after, before)
		}
	}
}

func names(t *testing.T, dir string) (found []string) {
	t.Helper()
	listed, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range listed {
		found = append(found, e.Name())
	}
	return found
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
		s, err := index.Open(index.Config{Dir: copied, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if r, err := s.Verify(t.Context(), nil); err != nil || len(r.Damaged) > 0 {
			t.Errorf("%s: %v, %v", what, r.Damaged, err)
		}
		shut(t, s)
	}
}

// Nothing is read from a manifest that is out of force; somebody who changed bytes hears of it all the same.
func TestDamageInAManifestOutOfForceIsTold(t *testing.T) {
	dir, name := leaveManifest(t)
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 1
	other := filepath.Join(dir, "MANIFEST-000000")
	if err := os.WriteFile(other, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := index.Open(index.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer shut(t, s)
	if r, err := s.Verify(t.Context(), nil); err != nil || len(r.Damaged) != 1 || r.Damaged[0].File != other {
		t.Errorf("%v, %v", r.Damaged, err)
	}
}
