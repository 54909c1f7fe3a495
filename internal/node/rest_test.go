package node_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// tables are the names of dir's tables and manifests.
func tables(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "db"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".sst") || strings.HasPrefix(e.Name(), "MANIFEST-") || strings.HasSuffix(e.Name(), ".log") {
			names = append(names, e.Name())
		}
	}
	return names
}

// Whoever only reads leaves no table behind: a few of them make a compaction due, which rewrites what they overlap.
func TestAnOpenThatCommitsNothingLeavesNoTable(t *testing.T) {
	dir := t.TempDir()
	tid := written(t, dir, write(1, 0, "a"))
	before := tables(t, dir)
	for range 5 {
		n, err := tryOpen(dir)
		if err != nil {
			t.Fatal(err)
		}
		if rev, err := n.Load(ctx, 1, tid); err != nil || string(rev.Data) != "a" {
			t.Error(rev, err)
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		if after := tables(t, dir); !slices.Equal(before, after) {
			t.Fatalf("left %q, before %q", after, before)
		}
	}
}

// A shorter pid than the last holder's leaves nothing of it.
func TestTheLockNamesItsHolderAlone(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "lock"), []byte("123456789012345\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
	raw, err := os.ReadFile(filepath.Join(dir, "lock"))
	if pid := strconv.Itoa(os.Getpid()) + "\n"; err != nil || string(raw) != pid {
		t.Errorf("%q: %v", raw, err)
	}
}
