package index_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"github.com/zodb-dht/zodb_dht/internal/index"
)

// leaveLog makes a directory as a kill leaves it: rows in the write-ahead log only. It returns the log's name.
func leaveLog(t *testing.T) (dir, name string) {
	t.Helper()
	made := t.TempDir()
	s, err := index.Open(index.Config{Dir: made, Create: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if err := s.DB().Set([]byte{'/', byte(i)}, bytes.Repeat([]byte{byte(i)}, 5000), pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	dir = filepath.Join(t.TempDir(), "killed")
	if err := os.CopyFS(dir, os.DirFS(made)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(logs) == 0 {
		t.Fatalf("no log: %v", err)
	}
	slices.Sort(logs)
	return dir, logs[len(logs)-1]
}

// openTold opens dir and says whether the log told of a torn tail, and how many rows are left.
func openTold(t *testing.T, dir string) (told bool, rows int) {
	t.Helper()
	var out bytes.Buffer
	s, err := index.Open(index.Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(&out, nil))})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if v, closer, err := s.DB().Get([]byte{'/', byte(i)}); err == nil && len(v) == 5000 {
			rows++
			_ = closer.Close()
		}
	}
	r, err := s.Verify(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	told = strings.Contains(out.String(), "was cut there")
	if told != (r.Torn != nil) {
		t.Errorf("the log says %q, the report %v", out.String(), r.Torn)
	}
	return told, rows
}

func TestAWholeLogHasNoTornTail(t *testing.T) {
	dir, _ := leaveLog(t)
	if told, rows := openTold(t, dir); told || rows != 20 {
		t.Errorf("told %v, %d rows", told, rows)
	}
}

func TestATornTailIsCutAndTold(t *testing.T) {
	for _, c := range []struct {
		name  string
		zeros bool // what the file system leaves of a write that never reached the disk
		to    int64
		told  bool
		rows  int
	}{
		{"within the last record", false, 19*5040 + 2000, true, 19},
		{"within the last record, zeros behind", true, 19*5040 + 2000, true, 19},
		{"within a chunk's head", false, 4, true, 0},
		{"nothing", false, 0, false, 0},
		{"all zeros", true, 0, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, name := leaveLog(t)
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if c.zeros {
				clear(b[c.to:])
			} else {
				b = b[:c.to]
			}
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if told, rows := openTold(t, dir); told != c.told || rows != c.rows {
				t.Errorf("told %v, %d rows, want %v, %d", told, rows, c.told, c.rows)
			}
			if told, rows := openTold(t, dir); told || rows != c.rows {
				t.Errorf("the second time: told %v, %d rows", told, rows)
			}
		})
	}
}

// The zeros that a log keeps ahead of its end are neither a torn write nor in the way of the next open.
func TestALogEndsInZeros(t *testing.T) {
	dir, name := leaveLog(t)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	end := len(bytes.TrimRight(b, "\x00"))
	if ahead := len(b) - end; ahead < 1000 || ahead > 300<<10 {
		t.Errorf("%d zeros behind %d bytes", ahead, end)
	}
	if told, rows := openTold(t, dir); told || rows != 20 {
		t.Errorf("told %v, %d rows", told, rows)
	}
}
