package blob_test

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/ipfs/go-datastore"
	ipld "github.com/ipfs/go-ipld-format"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/block/blocktest"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

func TestARowThatIsNoReferenceIsMalformed(t *testing.T) {
	content := []byte("content") // one leaf, the root itself
	leaf := block.Sum(content)
	name := leaf.String()
	for _, c := range []struct {
		name, key string
		value     []byte
		listed    bool // its key is right, which is all that Hashes looks at
	}{
		{name: "a short key", key: "/blobs/ab/cd", value: []byte{2}},
		{name: "a key of no hex digits", key: "/blobs/" + name[1:] + "x/" + name, value: []byte{2}},
		{name: "a key of one hash", key: "/blobs/" + name, value: []byte{2}},
		{name: "an unknown kind", key: "/blobs/" + name + "/" + name, value: []byte{7}, listed: true},
		{name: "a leaf that is cut", key: "/blobs/" + name + "/" + name, value: []byte{1, 0}, listed: true},
		{name: "nothing", key: "/blobs/" + name + "/" + name, listed: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPeer(t)
			p.store(1, 1, 10, content)
			if err := p.ds.Put(ctx, datastore.RawKey(c.key), c.value); err != nil {
				t.Fatal(err)
			}
			if err := p.refs.Hashes(func(block.Hash) bool { return true }); errors.Is(err, zodb.ErrMalformed) == c.listed {
				t.Error("Hashes:", err)
			}
			if !c.listed {
				return
			}
			if _, _, err := p.refs.Data(leaf); !errors.Is(err, zodb.ErrMalformed) {
				t.Error("Data:", err)
			}
			if _, _, err := p.refs.Size(leaf); !errors.Is(err, zodb.ErrMalformed) {
				t.Error("Size:", err)
			}
		})
	}
}

func TestABlockThatTwoFilesShareOutlivesOne(t *testing.T) {
	p := newPeer(t)
	content := random(1, many)
	kept := p.store(1, 1, 5, content)
	p.stage(2, 2, content)                                    // the same file
	p.stage(2, 3, append(slices.Clone(content), "longer"...)) // the same chunks, another root
	p.seal(2)
	if err := p.Discard(zodb.TxnID{2}); err != nil {
		t.Fatal(err)
	}
	view := block.NewView(p.refs, block.NewOthers(p.ds))
	read := fetch(t, view, kept)
	if !bytes.Equal(read, content) {
		t.Error("it reads differently by its CID")
	}
	n := 0
	for range p.keys() {
		n++
	}
	if want := 181 + 2 + 1; n != want {
		t.Errorf("%d references, want %d", n, want)
	}
}

func TestABlobsBlocksAreServedByTheirCIDs(t *testing.T) {
	p := newPeer(t)
	blocktest.Run(t, func(t *testing.T) blocktest.Store {
		p := newPeer(t)
		id, oid := byte(0), zodb.Oid(0)
		return blocktest.Store{
			Blockstore: block.NewView(p.refs, block.NewOthers(p.ds)),
			Keep:       func(data []byte) { id, oid = id+1, oid+1; p.store(id, oid, zodb.Tid(id), data) },
			Damage: func([]byte) {
				name := p.Path(oid, zodb.Tid(id))
				if err := errors.Join(os.Chmod(name, 0o600), os.WriteFile(name, bytes.Repeat([]byte{'?'}, 10), 0o600)); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
	b := p.store(1, 1, 1, random(4, many))
	view := block.NewView(p.refs, block.NewOthers(p.ds))
	if read := fetch(t, view, b); !bytes.Equal(read, random(4, many)) {
		t.Error("it reads differently")
	}
	p.stage(2, 2, random(5, many))
	sealed := p.seal(2)[2]
	if _, err := view.Get(ctx, sealed.CID()); !ipld.IsNotFound(err) {
		t.Error("a block is served before its transaction committed:", err)
	}
}
