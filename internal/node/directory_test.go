package node_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/node"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

func TestASecondOpenNamesTheHolder(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	_, err := tryOpen(dir)
	var used *node.InUse
	if !errors.As(err, &used) || used.PID != os.Getpid() {
		t.Fatal(err)
	}
}

func TestADirectoryThatIsNoPeersIsNotTouched(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	noCreate := func(c *node.Config) { c.Create = false }
	newer := filepath.Join(dir, "newer")
	torn := filepath.Join(dir, "torn")
	for path, text := range map[string]string{newer: "zodb_dht peer directory\nformat 2\ngroup 00\n", torn: "zodb_dht peer dir"} {
		if err := errors.Join(os.Mkdir(path, 0o700), os.WriteFile(filepath.Join(path, "format"), []byte(text), 0o600),
			os.WriteFile(filepath.Join(path, "lock"), []byte("1234567\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		path string
		edit func(*node.Config)
		want error
	}{
		{file, func(*node.Config) {}, node.ErrNotDirectory},
		{filepath.Join(file, "below"), func(*node.Config) {}, node.ErrNotDirectory},
		{dir, func(*node.Config) {}, node.ErrNoPeer},
		{filepath.Join(dir, "new"), noCreate, node.ErrNoPeer},
		{newer, func(*node.Config) {}, index.ErrNewerFormat},
		{torn, func(*node.Config) {}, node.ErrNoPeer},
		{"", func(*node.Config) {}, node.ErrUsage},
		{dir, func(c *node.Config) { c.CacheSize = 1 }, node.ErrUsage},
		{dir, func(c *node.Config) { c.VoteWait = node.Duration(20 * time.Second) }, node.ErrUsage},
	} {
		if _, err := tryOpen(c.path, c.edit); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.path, err, c.want)
		}
	}
	for _, path := range []string{newer, torn} {
		if b, err := os.ReadFile(filepath.Join(path, "lock")); err != nil || string(b) != "1234567\n" {
			t.Errorf("%s: its lock says %q, %v", path, b, err)
		}
	}
}

// written makes a peer in dir with one transaction, and closes it.
func written(t *testing.T, dir string, writes ...zodb.Write) zodb.Tid {
	t.Helper()
	n, err := tryOpen(dir)
	if err != nil {
		t.Fatal(err)
	}
	tid := commit(t, n, writes...)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	return tid
}

func TestReadOnlyRefusesWhatWrites(t *testing.T) {
	dir := t.TempDir()
	tid := written(t, dir, write(1, 0, "a"))
	n := open(t, dir, func(c *node.Config) { c.ReadOnly = true })
	if got := load(t, n, 1, tid); got != "a" {
		t.Fatal(got)
	}
	_, err := n.Vote(ctx, txn(write(1, tid, "b")))
	_, oids := n.NewOids(ctx, 1)
	for _, err := range []error{err, oids, n.Restore(ctx, txn())} {
		if !errors.Is(err, node.ErrReadOnly) {
			t.Error(err)
		}
	}
}
