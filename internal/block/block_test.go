package block_test

import (
	"errors"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	"github.com/multiformats/go-multihash"
	"go.uber.org/goleak"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/block/blocktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMemory(t *testing.T) {
	blocktest.Run(t, func(*testing.T) blocktest.Store {
		m := block.NewMemory()
		return blocktest.Store{
			Blockstore: block.NewView(m, block.NewOthers(dssync.MutexWrap(datastore.NewMapDatastore()))),
			Keep:       func(data []byte) { m.Keep(data) },
			Damage:     func(data []byte) { m.Set(block.Sum(data), append(data[:len(data):len(data)], 1)) },
		}
	})
}

// The values are those of `ipfs block put --cid-codec=raw` for "hello".
func TestACIDIsTheOneThatIPFSGives(t *testing.T) {
	if got := block.Sum([]byte("hello")).CID().String(); got != "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq" {
		t.Error(got)
	}
}

func TestAnotherHashFunctionIsForeign(t *testing.T) {
	mh, err := multihash.Sum([]byte("x"), multihash.SHA2_512, -1)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []cid.Cid{cid.Undef, cid.NewCidV1(cid.Raw, mh)} {
		if _, err := block.HashOf(c); !errors.Is(err, block.ErrForeign) {
			t.Errorf("%s: %v", c, err)
		}
	}
	h := block.Sum([]byte("x"))
	if got, err := block.HashOf(h.CID()); err != nil || got != h {
		t.Error(got, err)
	}
}
