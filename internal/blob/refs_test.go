package blob_test

import (
	"errors"
	"testing"

	"github.com/ipfs/go-datastore"

	"github.com/zodb-dht/zodb_dht/internal/block"
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
