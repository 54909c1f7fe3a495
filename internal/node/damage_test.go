package node_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/node"
)

// edited makes a peer, closes it, and changes one of its files.
func edited(t *testing.T, name string, edit func(string) string, more ...func(*node.Config)) (dir string) {
	t.Helper()
	dir = t.TempDir()
	n, err := tryOpen(dir, more...)
	if err != nil {
		t.Fatal(err)
	}
	commit(t, n, write(1, 0, "a"))
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(edit(string(raw))), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func replace(old, by string) func(string) string {
	return func(s string) string { return strings.Replace(s, old, by, 1) }
}

func TestAFormatFileThatIsNotWholeIsRefused(t *testing.T) {
	for what, edit := range map[string]func(string) string{
		"another title":           replace("peer", "Peer"),
		"no version":              replace("format 1", "format I"),
		"version 0":               replace("format 1", "format 0"),
		"another group":           func(s string) string { return s[:45] + string(s[45]^1) + s[46:] },
		"another checksum":        func(s string) string { return s[:len(s)-2] + string(s[len(s)-2]^1) + "\n" },
		"no checksum":             func(s string) string { return strings.Split(s, "crc32c")[0] },
		"cut":                     func(s string) string { return s[:len(s)-1] },
		"something behind":        func(s string) string { return s + "x" },
		"nothing":                 func(string) string { return "" },
		"a line in another place": replace("format 1\n", "format 1\n\n"),
	} {
		dir := edited(t, "format", edit)
		_, err := tryOpen(dir)
		var c *index.Corrupt
		if !errors.As(err, &c) || c.File != filepath.Join(dir, "format") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := tryOpen(edited(t, "format", replace("format 1", "format 2"))); !errors.Is(err, index.ErrNewerFormat) {
		t.Error(err)
	}
}

func TestAnOptionsFileThatCannotBeReadIsNamedAndNotNeeded(t *testing.T) {
	for what, edit := range map[string]func(string) string{
		"no text":          func(s string) string { return strings.Repeat("\x00", len(s)) },
		"another comparer": replace("comparer=zodb_dht", "comparer=zodb_dhu"),
		"another merger":   replace("merger=pebble", "merger=pebblf"),
	} {
		dir := edited(t, "lock", replace("", ""))
		names, err := filepath.Glob(filepath.Join(dir, "db", "OPTIONS-*"))
		if err != nil || len(names) != 1 {
			t.Fatal(names, err)
		}
		raw, err := os.ReadFile(names[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(names[0], []byte(edit(string(raw))), 0o600); err != nil {
			t.Fatal(err)
		}
		var c *index.Corrupt
		if _, err := tryOpen(dir); !errors.As(err, &c) || c.File != names[0] {
			t.Errorf("%s: %v", what, err)
		}
		if err := os.Remove(names[0]); err != nil { // as the error proposes
			t.Fatal(err)
		}
		if r, err := node.Verify(ctx, dir, nil); err != nil || len(r.Damaged) > 0 || r.Records != 1 {
			t.Errorf("%s: %v %v", what, r, err)
		}
	}
}

// A peer without it is not made anew: that would give what is there to another group.
func TestAFormatFileThatIsGoneIsRefusedAndNotWrittenAnew(t *testing.T) {
	for what, instead := range map[string]func(name string) error{
		"nothing":           func(string) error { return nil },
		"a link to nothing": func(name string) error { return os.Symlink(name+".elsewhere", name) },
	} {
		dir := edited(t, "format", replace("", ""))
		name := filepath.Join(dir, "format")
		if err := errors.Join(os.Remove(name), instead(name)); err != nil {
			t.Fatal(err)
		}
		for _, create := range []bool{true, false} {
			_, err := tryOpen(dir, func(c *node.Config) { c.Create = create })
			var c *index.Corrupt
			if !errors.As(err, &c) || c.File != name {
				t.Errorf("%s, create %t: %v", what, create, err)
			}
			if _, err := os.Stat(name); err == nil {
				t.Fatalf("%s, create %t: it was written anew", what, create)
			}
		}
	}
}

func TestABlobDirFileThatIsNotWholeIsRefused(t *testing.T) {
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	at := func(c *node.Config) { c.BlobDir = elsewhere }
	for what, edit := range map[string]func(string) string{
		"another path": replace("elsewhere", "elsewhera"),
		"no checksum":  func(s string) string { return strings.Split(s, "crc32c")[0] },
		"nothing":      func(string) string { return "" },
	} {
		dir := edited(t, "blob-dir", edit, at)
		for _, option := range []func(*node.Config){func(*node.Config) {}, at} {
			var c *index.Corrupt
			if _, err := tryOpen(dir, option); !errors.As(err, &c) || c.File != filepath.Join(dir, "blob-dir") {
				t.Errorf("%s: %v", what, err)
			}
		}
		// What the error proposes.
		if err := os.Remove(filepath.Join(dir, "blob-dir")); err != nil {
			t.Fatal(err)
		}
		n, err := tryOpen(dir, at)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(elsewhere); err != nil { // the next peer is another one
			t.Fatal(err)
		}
	}
}

func TestVerifyNamesAMarkWithAnUnreadableSlot(t *testing.T) {
	for _, at := range []int{0, 10, 23, 24, 47} {
		dir := edited(t, "db/mark", func(s string) string { return s[:at] + string(s[at]^1) + s[at+1:] })
		for i, want := range []int{1, 0} { // the open writes it anew
			r, err := node.Verify(ctx, dir, nil)
			if err != nil || len(r.Damaged) != want || want == 1 && r.Damaged[0].File != filepath.Join(dir, "db", "mark") {
				t.Errorf("byte %d, verify %d: %v %v", at, i, r.Damaged, err)
			}
		}
	}
}

func TestAFileThatTheDatabaseLacksOrThatHasAnotherSizeIsDamage(t *testing.T) {
	for _, pattern := range []string{"*.sst", "MANIFEST-*", "marker.manifest.*"} {
		for what, edit := range map[string]func(string) error{
			"removed":        os.Remove,
			"cut":            func(name string) error { return os.Truncate(name, 7) },
			"longer":         func(name string) error { return os.Truncate(name, 1<<20) },
			"nothing but 0s": func(name string) error { return errors.Join(os.Truncate(name, 0), os.Truncate(name, 1500)) },
		} {
			if pattern != "*.sst" && what != "removed" { // other tests' subject; a marker is a name
				continue
			}
			dir := edited(t, "lock", func(s string) string { return s })
			names, err := filepath.Glob(filepath.Join(dir, "db", pattern))
			if err != nil || len(names) == 0 {
				t.Fatal(names, err)
			}
			for _, name := range names {
				if err := edit(name); err != nil {
					t.Fatal(err)
				}
			}
			_, err = tryOpen(dir)
			var c *index.Corrupt
			if !errors.As(err, &c) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s, %s: %v", pattern, what, err)
			}
			if _, err := node.Verify(t.Context(), dir, func(uint64, uint64) {}); !errors.As(err, &c) {
				t.Errorf("%s, %s: verify: %v", pattern, what, err)
			}
		}
	}
}
