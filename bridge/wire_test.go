package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/node"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// A pack takes revisions away that a read of the newest is about to look at; the object stays.
func TestTheNewestIsFoundBesideCommitsAndPacks(t *testing.T) {
	ctx := t.Context()
	n, err := node.Open(ctx, node.Config{Path: filepath.Join(t.TempDir(), "peer"), Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	s, oid := service{n}, binary.BigEndian.AppendUint64(nil, 1)
	var base zodb.Tid
	commit := func(i int) {
		data := []byte{byte(i), byte(i >> 8)}
		x := &zodb.Txn{ID: zodb.TxnID{1, byte(i), byte(i >> 8)}, Writes: []zodb.Write{{Oid: 1, Base: base, Kind: zodb.WriteData, Hash: block.Sum(data), Data: data}}}
		if _, err := n.Vote(ctx, x); err != nil {
			t.Fatal(err)
		}
		if base, err = n.Finish(ctx, x.ID, false); err != nil {
			t.Fatal(err)
		}
	}
	commit(0)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	defer readers.Wait()
	defer close(stop)
	max64 := bytes.Repeat([]byte{0xff}, 8)
	for what, read := range map[string]func() ([]byte, error){
		"history": func() ([]byte, error) {
			return s.history(ctx, &request{b: slices.Concat(oid, binary.BigEndian.AppendUint64(nil, 1000))})
		},
		"load_before": func() ([]byte, error) { return s.loadBefore(ctx, &request{b: slices.Concat(oid, max64)}) },
		"load_many": func() ([]byte, error) {
			b, err := s.loadMany(ctx, &request{b: slices.Concat(max64, oid)})
			return b[min(12, len(b)):], err // tid and length
		},
		"current": func() ([]byte, error) {
			return s.current(ctx, &request{b: slices.Concat(oid, binary.BigEndian.AppendUint64(nil, 10))})
		},
	} {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if b, err := read(); err != nil || len(b) == 0 {
					t.Error(what, len(b), err)
					return
				}
			}
		})
	}
	for round := range 40 {
		for i := range 3 {
			commit(1 + 3*round + i)
		}
		if _, err := n.PackBegin(ctx, zodb.MaxTid, node.NoReferences, 0); err != nil {
			t.Fatal(err)
		}
		for step := (node.PackStep{}); !step.Finished; {
			if step, err = n.PackStep(ctx, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// What is missing though no pack came is damage: nobody waits for a pack that took it.
func TestAMissingTransactionBelowTheHorizonIsDamage(t *testing.T) {
	ctx, path := t.Context(), filepath.Join(t.TempDir(), "peer")
	n, err := node.Open(ctx, node.Config{Path: path, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	data := []byte("data")
	x := &zodb.Txn{ID: zodb.TxnID{1}, Writes: []zodb.Write{{Oid: 1, Kind: zodb.WriteData, Hash: block.Sum(data), Data: data}}}
	if _, err := n.Vote(ctx, x); err != nil {
		t.Fatal(err)
	}
	tid, err := n.Finish(ctx, x.ID, false)
	if err == nil {
		_, err = n.PackBegin(ctx, zodb.MaxTid, node.NoReferences, 0)
	}
	for step := (node.PackStep{}); err == nil && !step.Finished; {
		step, err = n.PackStep(ctx, nil)
	}
	if err = errors.Join(err, n.Close()); err != nil {
		t.Fatal(err)
	}
	rows, err := index.Open(index.Config{Dir: filepath.Join(path, "db")})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(rows.DB().Delete(append([]byte("t"), tid.Bytes()...), nil), rows.Close()); err != nil {
		t.Fatal(err)
	}
	if n, err = node.Open(ctx, node.Config{Path: path}); err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if n.Stats().Horizon < tid {
		t.Fatal("nothing was packed")
	}
	var damage *index.Corrupt
	b, err := service{n}.history(ctx, &request{b: binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, 1), 10)})
	if !errors.As(err, &damage) || damage.Tid != tid {
		t.Error(b, err)
	}
}
