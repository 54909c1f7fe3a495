package node_test

import (
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"go.uber.org/goleak"

	"github.com/zodb-dht/zodb_dht/internal/node"
	"github.com/zodb-dht/zodb_dht/internal/replica"
)

// A failed sync of the log poisons the peer; nothing is parked by it, so Close leaves no goroutine, and the directory opens again
// in the same process once the disk is mended. (What Pebble can't return from is parked for good: see index.Store.Abandoned, and
// tests/crash for every other operation.)
func TestAfterAFailedSyncNothingIsLeftAndThePeerOpensAgain(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	dir := t.TempDir()
	var failing atomic.Bool
	fs := errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
		sync := op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo
		if sync && failing.Load() && strings.HasSuffix(filepath.Base(op.Path), ".log") {
			return syscall.ENOSPC
		}
		return nil
	}))
	n, err := tryOpen(dir, func(c *node.Config) { c.FS = fs })
	if err != nil {
		t.Fatal(err)
	}
	tid := commit(t, n, write(1, 0, "a"))
	x := txn(write(1, tid, "b"))
	vote(t, n, x)
	failing.Store(true)
	_, err = n.Finish(ctx, x.ID, false)
	var broken *replica.Broken
	if !errors.As(err, &broken) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a failed sync is told as %v", err)
	}
	failing.Store(false)
	if _, err := n.Vote(ctx, txn(write(2, 0, "c"))); !errors.As(err, &broken) {
		t.Errorf("the peer goes on after a failed sync: %v", err)
	}
	if got := load(t, n, 1, tid); got != "a" {
		t.Error(got)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	n, err = tryOpen(dir)
	if err != nil {
		t.Fatal(err)
	}
	if rev, err := n.LoadSerial(ctx, 1, tid); err != nil || string(rev.Data) != "a" {
		t.Error(rev, err)
	}
	commit(t, n, write(9, 0, "again"))
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}
