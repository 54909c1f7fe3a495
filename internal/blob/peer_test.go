package blob_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	"go.uber.org/goleak"

	"github.com/zodb-dht/zodb_dht/internal/blob"
	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ctx = context.Background()

// peer is a blob directory beside a state in memory, and what a node does with both.
type peer struct {
	*blob.Dir
	t     testing.TB
	path  string
	ds    datastore.Batching
	state *index.Memory
	refs  *blob.Refs
}

func newPeer(t testing.TB) *peer {
	p := &peer{t: t, path: filepath.Join(t.TempDir(), "blobs"), ds: dssync.MutexWrap(datastore.NewMapDatastore()), state: index.NewMemory()}
	p.open()
	t.Cleanup(func() { p.close() })
	return p
}

func (p *peer) open() {
	p.t.Helper()
	p.refs = blob.NewRefs(p.ds, p.state)
	d, err := blob.Open(p.path, "00", p.refs)
	if err != nil {
		p.t.Fatal(err)
	}
	p.Dir = d
	if err := d.Resolve(ctx); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) close() {
	p.t.Helper()
	if err := p.Dir.Close(); err != nil {
		p.t.Error(err)
	}
}

// reopen is what a crash leaves, as far as files are concerned.
func (p *peer) reopen() {
	p.t.Helper()
	p.close()
	p.open()
}

// temp writes a file as an application does.
func (p *peer) temp(content []byte) string {
	p.t.Helper()
	f, err := os.CreateTemp(p.Temp(), "")
	if err == nil {
		_, err = f.Write(content)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return f.Name()
}

func (p *peer) stage(id byte, oid zodb.Oid, content []byte) {
	p.t.Helper()
	if err := p.Stage(ctx, zodb.TxnID{id}, oid, p.temp(content), false); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) seal(id byte) map[zodb.Oid]zodb.Blob {
	p.t.Helper()
	blobs, err := p.Seal(ctx, zodb.TxnID{id})
	if err != nil {
		p.t.Fatal(err)
	}
	return blobs
}

// apply commits the transaction in the state alone.
func (p *peer) apply(id byte, tid zodb.Tid, blobs map[zodb.Oid]zodb.Blob) {
	p.t.Helper()
	txn := &zodb.Txn{ID: zodb.TxnID{id}, Tid: tid, Status: ' ', Restore: true}
	for oid, b := range blobs {
		data := fmt.Appendf(nil, "record %d", id)
		txn.Writes = append(txn.Writes, zodb.Write{Oid: oid, Kind: zodb.WriteData, Hash: block.Sum(data), Data: data, Blob: b})
	}
	o, err := p.state.Apply(p.state.Stats().Applied+1, index.AppendCommit(nil, txn))
	if err != nil || o.Verdict != index.Committed {
		p.t.Fatal(o, err)
	}
}

// store commits a blob.
func (p *peer) store(id byte, oid zodb.Oid, tid zodb.Tid, content []byte) zodb.Blob {
	p.t.Helper()
	p.stage(id, oid, content)
	blobs := p.seal(id)
	p.apply(id, tid, blobs)
	if err := p.Commit(zodb.TxnID{id}, tid); err != nil {
		p.t.Fatal(err)
	}
	return blobs[oid]
}

// tree lists the files and empty directories below the blob directory.
func (p *peer) tree() []string {
	p.t.Helper()
	var found []string
	err := filepath.WalkDir(p.path, func(path string, e fs.DirEntry, err error) error {
		name, _ := filepath.Rel(p.path, path)
		if err == nil && !strings.HasPrefix(name, ".") && name != "tmp" && name != "staged" {
			found = append(found, name)
		}
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return found
}

// keys are those in the datastore.
func (p *peer) keys() (hs []block.Hash) {
	p.t.Helper()
	if err := p.refs.Hashes(func(h block.Hash) bool { hs = append(hs, h); return true }); err != nil {
		p.t.Fatal(err)
	}
	return hs
}

func random(seed uint64, size int) []byte {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = r.Read(b)
	return b
}

const many = 180*block.ChunkSize + 17 // a tree of three levels

// fetch reads a file by its root CID, block by block, as any IPFS implementation does.
func fetch(t testing.TB, view *block.View, b zodb.Blob) []byte {
	t.Helper()
	got, err := view.Get(ctx, b.CID())
	if err != nil {
		t.Fatal(err)
	}
	if b.CID().Type() == cid.Raw {
		return got.RawData()
	}
	var read []byte
	var below func(data []byte)
	below = func(data []byte) {
		n, err := merkledag.DecodeProtobuf(data)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range n.Links() {
			child, err := view.Get(ctx, l.Cid)
			if err != nil {
				t.Fatal(err)
			}
			if l.Cid.Type() == cid.Raw {
				read = append(read, child.RawData()...)
			} else {
				below(child.RawData())
			}
		}
	}
	below(got.RawData())
	return read
}
