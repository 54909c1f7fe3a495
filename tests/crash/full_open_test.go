package crash

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/node"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// An open after a crash that has no room for what it replays says so. Pebble never gives such an open up: who opens the directory next is told
// who has it, and nothing is lost.
func TestAnOpenWithoutRoomSaysSoAndKeepsTheDirectory(t *testing.T) {
	quiet := slog.DiscardHandler
	dir, mem := t.TempDir(), vfs.NewCrashableMem()
	n, err := openOn(dir, mem, quiet)
	if err != nil {
		t.Fatal(err)
	}
	data := []byte("data")
	txn := zodb.Txn{ID: zodb.TxnID{1}, Floor: uint64(n.Stats().Applied), Status: ' ',
		Writes: []zodb.Write{{Oid: 1, Kind: zodb.WriteData, Data: data, Hash: block.Sum(data)}}}
	tid, err := voteAndFinish(n, &txn)
	if err != nil {
		t.Fatal(err)
	}
	left := mem.CrashClone(vfs.CrashCloneCfg{})
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	full := errorfs.Wrap(left, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if strings.HasSuffix(op.Path, ".sst") && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return syscall.ENOSPC
		}
		return nil
	}))
	if _, err := openOn(dir, full, quiet); !errors.Is(err, syscall.ENOSPC) || !errors.Is(err, index.ErrHeld) {
		t.Error(err)
	}
	var inUse *node.InUse
	if _, err := openOn(dir, left, quiet); !errors.As(err, &inUse) || inUse.PID != os.Getpid() {
		t.Errorf("the next open: %v", err)
	}
	// The next process: a directory of its own with the same files.
	next, later := t.TempDir(), left.CrashClone(vfs.CrashCloneCfg{})
	format, err := os.ReadFile(filepath.Join(dir, "format"))
	if err == nil {
		err = errors.Join(os.WriteFile(filepath.Join(next, "format"), format, 0o600), later.MkdirAll(next, 0o700),
			later.Rename(filepath.Join(dir, "db"), filepath.Join(next, "db")))
	}
	if err != nil {
		t.Fatal(err)
	}
	if n, err = openOn(next, later, quiet); err != nil {
		t.Fatal(err)
	}
	if err := holdsAll(n, []acked{{tid, txn.Writes}}); err != nil {
		t.Error(err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}
