package node

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// A reader finds a revision; a pack goes by, and its sweep removes the file; then the reader looks for that.
func TestAFileThatIsPackedAwayWhileItIsLookedForIsNoDamage(t *testing.T) {
	n, err := Open(t.Context(), Config{Path: filepath.Join(t.TempDir(), "peer"), Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}()
	var tids [3]zodb.Tid
	var first zodb.Blob
	for i := range tids {
		name, data := filepath.Join(t.TempDir(), "file"), []byte{'v', byte(i)}
		txn := &zodb.Txn{ID: zodb.TxnID{byte(i + 1)}, Writes: []zodb.Write{{Oid: 1, Kind: zodb.WriteData, Data: data, Hash: block.Sum(data)}}}
		if i > 0 {
			txn.Writes[0].Base = tids[i-1]
		}
		if err := errors.Join(os.WriteFile(name, data, 0o600), n.StageBlob(t.Context(), txn.ID, 1, name, false)); err != nil {
			t.Fatal(err)
		}
		stale, err := n.Vote(t.Context(), txn)
		if err != nil || len(stale) > 0 {
			t.Fatal(stale, err)
		}
		if tids[i], err = n.Finish(t.Context(), txn.ID, false); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = txn.Writes[0].Blob
		}
	}
	found, err := n.lookAtBlob(t.Context(), 1, tids[0], first, true)
	if err != nil {
		t.Fatal(err)
	}
	if begun, err := n.PackBegin(t.Context(), tids[1], NoReferences, 0); err != nil || !begun {
		t.Fatal(begun, err)
	}
	for step := (PackStep{}); !step.Finished; {
		if step, err = n.PackStep(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(found); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("the pack left the file:", err)
	}
	for _, whole := range []bool{false, true} {
		var away *PackedAway
		if _, err := n.lookAtBlob(t.Context(), 1, tids[0], first, whole); !errors.As(err, &away) || away.At != tids[0] {
			t.Error(err)
		}
	}
	if err := os.Remove(n.blobs.Path(1, tids[2])); err != nil {
		t.Fatal(err)
	}
	var damage *index.Corrupt
	if _, err := n.BlobFile(t.Context(), 1, tids[2], false); !errors.As(err, &damage) {
		t.Error(err)
	}
}
