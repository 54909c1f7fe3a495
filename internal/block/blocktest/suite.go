// Package blocktest is the suite that every block store of this project passes, a fresh store for each promise.
package blocktest

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/ipfs/boxo/blockstore"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"

	"github.com/zodb-dht/zodb_dht/internal/block"
)

// Store is a block store, with a way to put what it holds as a record and one to damage it.
type Store struct {
	blockstore.Blockstore
	// Keep puts data where the store keeps such blocks.
	Keep func(data []byte)
	// Damage changes the stored bytes behind the store's back.
	Damage func(data []byte)
}

// Run holds open's stores to every promise.
func Run(t *testing.T, open func(t *testing.T) Store) {
	ctx := context.Background()
	data := []byte("some bytes")
	c := block.Sum(data).CID()
	for _, p := range []struct {
		name string
		run  func(t *testing.T, s Store)
	}{
		{"what was kept comes back by its CID, of any codec", func(t *testing.T, s Store) {
			s.Keep(data)
			for _, c := range []cid.Cid{c, block.Sum(data).TxnCID(), cid.NewCidV0(c.Hash())} {
				if b, err := s.Get(ctx, c); err != nil || !bytes.Equal(b.RawData(), data) || b.Cid() != c {
					t.Fatal(b, err)
				}
				if n, err := s.GetSize(ctx, c); err != nil || n != len(data) {
					t.Fatal(n, err)
				}
				if ok, err := s.Has(ctx, c); err != nil || !ok {
					t.Fatal(ok, err)
				}
			}
		}},
		{"the empty block is a block", func(t *testing.T, s Store) {
			s.Keep(nil)
			if b, err := s.Get(ctx, block.Sum(nil).CID()); err != nil || len(b.RawData()) != 0 {
				t.Fatal(b, err)
			}
		}},
		{"what was never kept is not found", func(t *testing.T, s Store) {
			if _, err := s.Get(ctx, c); !ipld.IsNotFound(err) {
				t.Fatal(err)
			}
			if _, err := s.GetSize(ctx, c); !ipld.IsNotFound(err) {
				t.Fatal(err)
			}
			if ok, err := s.Has(ctx, c); ok || err != nil {
				t.Fatal(ok, err)
			}
		}},
		{"changed bytes are ErrMismatch, never returned", func(t *testing.T, s Store) {
			s.Keep(data)
			s.Damage(data)
			if b, err := s.Get(ctx, c); !errors.Is(err, block.ErrMismatch) {
				t.Fatal(b, err)
			}
		}},
		{"a block put under another's CID is refused", func(t *testing.T, s Store) {
			b, err := blocks.NewBlockWithCid([]byte("other bytes"), c)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Put(ctx, b); !errors.Is(err, block.ErrMismatch) {
				t.Fatal(err)
			}
			if ok, err := s.Has(ctx, c); ok || err != nil {
				t.Fatal(ok, err)
			}
		}},
		{"every block is listed at least once", func(t *testing.T, s Store) {
			want := map[string]bool{}
			for _, d := range []string{"a", "b", "c"} {
				s.Keep([]byte(d))
				b := blocks.NewBlock([]byte(d + d))
				if err := s.Put(ctx, b); err != nil {
					t.Fatal(err)
				}
				want[string(block.Sum([]byte(d)).CID().Hash())], want[string(b.Cid().Hash())] = true, true
			}
			keys, err := s.AllKeysChan(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for c := range keys {
				delete(want, string(c.Hash()))
			}
			if len(want) > 0 {
				t.Fatal(want)
			}
		}},
		{"a put block goes away when deleted", func(t *testing.T, s Store) {
			b := blocks.NewBlock(data)
			if err := s.PutMany(ctx, []blocks.Block{b}); err != nil {
				t.Fatal(err)
			}
			if err := s.DeleteBlock(ctx, b.Cid()); err != nil {
				t.Fatal(err)
			}
			if ok, err := s.Has(ctx, b.Cid()); ok || err != nil {
				t.Fatal(ok, err)
			}
		}},
	} {
		t.Run(p.name, func(t *testing.T) { p.run(t, open(t)) })
	}
}
