package index_test

import (
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Prepare changes nothing: its Apply, or that of another entry in its place, makes the rows of an Apply alone.
func TestPreparedOrNotTheRowsAreTheSame(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		plain, ahead := openAt(t, vfs.NewMem(), true), openAt(t, vfs.NewMem(), true)
		defer plain.Close()
		defer ahead.Close()
		for i, e := range entries(rt) {
			pos := index.Position(i + 1)
			data := []byte{'n', 'e', 'v', 'e', 'r', byte(i)}
			other := index.AppendCommit(nil, &zodb.Txn{ID: zodb.TxnID{0xff, byte(i)}, Status: ' ', Writes: []zodb.Write{
				{Oid: 1000 + zodb.Oid(i), Kind: zodb.WriteData, Hash: block.Sum(data), Data: data}}})
			switch rapid.IntRange(0, 2).Draw(rt, "prepare") {
			case 1:
				ahead.Prepare(pos, e)
			case 2:
				ahead.Prepare(pos, other)
				if _, err := ahead.Find(block.Sum(data)); !errors.Is(err, index.ErrNotFound) {
					rt.Fatal("a record is found that nobody committed:", err)
				}
			}
			want, err := plain.Apply(pos, e)
			got, err2 := ahead.Apply(pos, e)
			if err := errors.Join(err, err2); err != nil {
				rt.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" {
				rt.Fatal(d)
			}
		}
		if d := cmp.Diff(rows(t, plain), rows(t, ahead)); d != "" {
			rt.Fatal(d)
		}
		verified(rt, ahead)
	})
}
