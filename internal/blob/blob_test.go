package blob_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	ipld "github.com/ipfs/go-ipld-format"
	"go.uber.org/goleak"

	"github.com/zodb-dht/zodb_dht/internal/blob"
	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/block/blocktest"
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

func TestACommittedFileIsTheOneThatWasHandedOver(t *testing.T) {
	p := newPeer(t)
	content := random(1, many)
	got := p.store(1, 0x2a, 7, content)
	want, err := block.Import(ctx, bytes.NewReader(content), many, nil)
	if err != nil || got != (zodb.Blob{Root: want, Size: many}) {
		t.Fatal(got, want, err)
	}
	name := filepath.Join(p.path, filepath.FromSlash("0x00/0x00/0x00/0x00/0x00/0x00/0x00/0x2a/0x0000000000000007.blob"))
	if read, err := os.ReadFile(name); err != nil || !bytes.Equal(read, content) || p.Path(0x2a, 7) != name {
		t.Fatal(p.Path(0x2a, 7), len(read), err)
	}
	if info, err := os.Stat(name); err != nil || info.Mode()&0o222 != 0 {
		t.Error("it may be written to", info, err)
	}
	if err := p.Check(ctx, 0x2a, 7, got); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(p.Temp()); err != nil || len(left) != 0 {
		t.Error("it was copied, not renamed", left, err)
	}
}

func TestWhatIsDiscardedLeavesNothing(t *testing.T) {
	p := newPeer(t)
	p.stage(1, 1, random(1, many))
	p.stage(1, 1, random(2, many)) // stored twice: the second counts
	p.stage(1, 2, nil)
	p.seal(1)
	if len(p.keys()) == 0 {
		t.Fatal("nothing was sealed")
	}
	p.stage(2, 3, random(3, 10)) // never sealed
	for id := range byte(3) {
		if err := p.Discard(zodb.TxnID{id}); err != nil {
			t.Error(err)
		}
	}
	if left := p.tree(); len(left) != 0 {
		t.Error(left)
	}
	if keys := p.keys(); len(keys) != 0 {
		t.Error(len(keys), "references are left")
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

func TestAnOpenGivesWhatWasStagedItsDue(t *testing.T) {
	p := newPeer(t)
	contents := map[zodb.Oid][]byte{1: random(1, many), 2: random(2, 5), 3: random(3, many)}
	// Committed, and the process ended before the renames; another of its files had been renamed already.
	p.stage(1, 1, contents[1])
	p.stage(1, 2, contents[2])
	blobs := p.seal(1)
	p.apply(1, 9, blobs)
	// Sealed, never committed; staged, not sealed; half copied.
	p.stage(2, 3, contents[3])
	p.seal(2)
	p.stage(3, 4, []byte("not sealed"))
	p.reopen()
	for oid, b := range blobs {
		if err := p.Check(ctx, oid, 9, b); err != nil {
			t.Error(err)
		}
	}
	if err := p.Files(func(name string, oid zodb.Oid, tid zodb.Tid, known bool) bool {
		if !known || oid > 2 || tid != 9 {
			t.Errorf("%s is left", name)
		}
		return true
	}); err != nil {
		t.Error(err)
	}
	if read := fetch(t, block.NewView(p.refs, block.NewOthers(p.ds)), blobs[1]); !bytes.Equal(read, contents[1]) {
		t.Error("it reads differently by its CID")
	}
	if want, n := 181+2+1+1, len(p.keys()); n != want {
		t.Errorf("%d references, want %d", n, want)
	}
	if left, err := os.ReadDir(filepath.Join(p.path, "staged")); err != nil || len(left) != 0 {
		t.Error(left, err)
	}
}

func TestAnOpenEmptiesTheApplicationsDirectory(t *testing.T) {
	p := newPeer(t)
	p.temp([]byte("half a blob"))
	if err := os.Mkdir(filepath.Join(p.Temp(), "savepoint"), 0o700); err != nil {
		t.Fatal(err)
	}
	p.reopen()
	if left, err := os.ReadDir(p.Temp()); err != nil || len(left) != 0 {
		t.Error(left, err)
	}
}

func TestWithKeepTheSourceStaysAsItIs(t *testing.T) {
	p := newPeer(t)
	source := filepath.Join(t.TempDir(), "source.blob")
	for n, mode := range []fs.FileMode{0o444, 0o640} {
		linked := mode&0o222 == 0
		if err := os.WriteFile(source, []byte("content"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(source, mode); err != nil {
			t.Fatal(err)
		}
		before, err := os.Stat(source)
		if err != nil {
			t.Fatal(err)
		}
		id, tid := zodb.TxnID{byte(n)}, zodb.Tid(n+1)
		if err := p.Stage(ctx, id, 1, source, true); err != nil {
			t.Fatal(err)
		}
		p.apply(byte(n), tid, p.seal(byte(n)))
		if err := p.Commit(id, tid); err != nil {
			t.Fatal(err)
		}
		after, err := os.Stat(source)
		mine, err2 := os.Stat(p.Path(1, tid))
		if err != nil || err2 != nil || after.Mode() != before.Mode() || !os.SameFile(before, after) {
			t.Error(mode, after, err, err2)
		}
		if os.SameFile(after, mine) != linked {
			t.Errorf("a source of mode %o: linked %v", mode, !linked)
		}
		if err := os.Remove(source); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhatWasProposedIsForgottenByItsOutcomeOnly(t *testing.T) {
	p := newPeer(t)
	p.stage(1, 1, []byte("a"))
	blobs := p.seal(1)
	p.Propose(zodb.TxnID{1})
	if err := p.Forget(zodb.TxnID{1}); err != nil {
		t.Fatal(err)
	}
	p.apply(1, 3, blobs)
	if err := p.Commit(zodb.TxnID{1}, 3); err != nil {
		t.Fatal(err)
	}
	if err := p.Check(ctx, 1, 3, blobs[1]); err != nil {
		t.Error(err)
	}
	p.stage(2, 2, []byte("b"))
	p.Propose(zodb.TxnID{2})
	p.Withdraw(zodb.TxnID{2})
	if err := p.Forget(zodb.TxnID{2}); err != nil || len(p.seal(2)) != 0 {
		t.Error("a withdrawn file is kept", err)
	}
}

func TestRemoveTakesAFileAndWhatOnlyItUsed(t *testing.T) {
	p := newPeer(t)
	content := random(1, many)
	one, other := p.store(1, 1, 5, content), p.store(2, 2, 6, content)
	keys := len(p.keys())
	first, second := blob.Revision{Oid: 1, Tid: 5, Blob: one}, blob.Revision{Oid: 2, Tid: 6, Blob: other}
	remove := func(revs ...blob.Revision) {
		t.Helper()
		if err := p.Remove(ctx, revs); err != nil {
			t.Fatal(err)
		}
	}
	remove(first)
	if err := p.Check(ctx, 2, 6, other); err != nil || len(p.keys()) != keys {
		t.Errorf("%d of %d references, %v", len(p.keys()), keys, err)
	}
	p.stage(3, 3, content)
	p.seal(3)
	remove(first, second)
	if len(p.keys()) != keys {
		t.Error("a staged file lost its references")
	}
	if err := p.Discard(zodb.TxnID{3}); err != nil {
		t.Fatal(err)
	}
	remove(first, second, first) // as after a crash, before their rows are deleted
	if len(p.keys()) != 0 {
		t.Error(len(p.keys()), "references are left")
	}
	if left := p.tree(); len(left) != 0 {
		t.Error(left)
	}
}

func TestAFileThatIsNotWhatItWasIsCorrupt(t *testing.T) {
	p := newPeer(t)
	b := p.store(1, 1, 2, random(1, 1000))
	name := p.Path(1, 2)
	if err := os.Chmod(name, 0o600); err != nil {
		t.Fatal(err)
	}
	changed := random(1, 1000)
	changed[500] ^= 1
	for what, break_ := range map[string]func() error{
		"a flipped bit": func() error { return os.WriteFile(name, changed, 0o600) },
		"cut off":       func() error { return os.Truncate(name, 999) },
		"missing":       func() error { return os.Rename(name, name+"x") },
	} {
		if err := break_(); err != nil {
			t.Fatal(err)
		}
		var c *index.Corrupt
		if err := p.Check(ctx, 1, 2, b); !errors.As(err, &c) || c.Oid != 1 || c.Tid != 2 || c.CID() != b.CID().String() || c.File != name {
			t.Errorf("%s: %v", what, err)
		} else if !strings.Contains(err.Error(), b.CID().String()) {
			t.Errorf("%s: %v", what, err)
		}
		_ = os.Remove(name + "x")
		if err := os.WriteFile(name, random(1, 1000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Check(ctx, 1, 2, b); err != nil {
		t.Error(err)
	}
	if _, err := p.Look(1, 3, b); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestADirectoryOfSomebodyElseIsLeftAlone(t *testing.T) {
	p := newPeer(t)
	if _, err := blob.Open(p.path, "00", p.refs); !errors.Is(err, blob.ErrInUse) {
		t.Error(err)
	}
	p.close()
	for what, edit := range map[string]func(string) error{
		"another group's": func(string) error { return nil },
		"another layout": func(path string) error {
			return os.WriteFile(filepath.Join(path, ".layout"), []byte("lawn"), 0o600)
		},
		"a staged file of another name": func(path string) error {
			return os.WriteFile(filepath.Join(path, "staged", "what"), nil, 0o600)
		},
	} {
		group := "00"
		if what == "another group's" {
			group = "11"
		}
		if err := edit(p.path); err != nil {
			t.Fatal(err)
		}
		before := p.tree()
		if _, err := blob.Open(p.path, group, blob.NewRefs(p.ds, p.state)); !errors.Is(err, blob.ErrForeign) {
			t.Errorf("%s: %v", what, err)
		}
		if d := cmp.Diff(before, p.tree()); d != "" {
			t.Error(what, d)
		}
		_ = os.WriteFile(filepath.Join(p.path, ".layout"), []byte("bushy"), 0o600)
		_ = os.Remove(filepath.Join(p.path, "staged", "what"))
	}
	p.open()
}

func TestAMarkerThatNobodyWritesIsDamageWhereThePeerHasBlobs(t *testing.T) {
	for _, blobs := range []bool{false, true} {
		p := newPeer(t)
		if blobs {
			p.store(1, 1, 7, []byte("content"))
		}
		p.close()
		for name, text := range map[string]string{".layout": "bu\x00hy", ".zodb_dht": "group 0"} {
			marker := filepath.Join(p.path, name)
			good, err := os.ReadFile(marker)
			if err := errors.Join(err, os.WriteFile(marker, []byte(text), 0o600)); err != nil {
				t.Fatal(err)
			}
			_, err = blob.Open(p.path, "00", blob.NewRefs(p.ds, p.state))
			var damage *index.Corrupt
			if errors.As(err, &damage) != blobs || errors.Is(err, blob.ErrForeign) == blobs || blobs && damage.File != marker {
				t.Errorf("blobs %t, %s: %v", blobs, name, err)
			}
			if err := os.WriteFile(marker, good, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		p.open()
	}
}

// A directory whose tmp would be emptied: / has one, and a FileStorage's blobs.
func TestADirectoryWithoutAMarkerIsTakenOnlyIfItIsEmpty(t *testing.T) {
	p := newPeer(t)
	p.close()
	for _, name := range []string{"tmp/precious", "tmp/below/precious", "staged/precious", "precious", "0x00/precious"} {
		dir := t.TempDir()
		precious := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(precious), 0o700), os.WriteFile(precious, []byte("mine"), 0o600)); err != nil {
			t.Fatal(err)
		}
		if _, err := blob.Open(dir, "00", blob.NewRefs(p.ds, p.state)); !errors.Is(err, blob.ErrForeign) || !strings.Contains(err.Error(), "group 00") {
			t.Errorf("%s: %v", name, err)
		}
		if b, err := os.ReadFile(precious); string(b) != "mine" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
		for _, made := range []string{".layout", ".zodb_dht"} {
			if _, err := os.Stat(filepath.Join(dir, made)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %s was made: %v", name, made, err)
			}
		}
	}
	// What a crash within an open leaves is no stranger's.
	if err := os.Remove(filepath.Join(p.path, ".zodb_dht")); err != nil {
		t.Fatal(err)
	}
	p.open()
	p.close()
	for _, name := range []string{".zodb_dht", ".layout"} {
		if err := os.Truncate(filepath.Join(p.path, name), 0); err != nil {
			t.Fatal(err)
		}
	}
	p.open()
	p.close()
	p.open()
}

func TestAFileThatDoesNotReadIsRefusedBySeal(t *testing.T) {
	p := newPeer(t)
	if err := p.Stage(ctx, zodb.TxnID{1}, 1, filepath.Join(p.Temp(), "nothing"), false); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	dir := filepath.Join(p.Temp(), "directory")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := p.Stage(ctx, zodb.TxnID{1}, 1, dir, true); err == nil {
		_, err = p.Seal(ctx, zodb.TxnID{1})
		if err == nil {
			t.Error("a directory was sealed")
		}
	}
	if left, err := os.ReadDir(filepath.Join(p.path, "staged")); err != nil || len(left) != 0 {
		t.Error(left, err)
	}
}

// A vote that keeps Python's lock asks with a context that has ended.
func TestWhatIsReadyIsSealedWithoutWaiting(t *testing.T) {
	p := newPeer(t)
	ended, cancel := context.WithCancel(ctx)
	cancel()
	p.stage(1, 1, random(1, 200_000))
	p.stage(1, 2, random(2, 300_000))
	for {
		if _, err := p.Seal(ended, zodb.TxnID{1}); err == nil {
			break
		} else if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		runtime.Gosched()
	}
	for range 100 {
		if blobs, err := p.Seal(ended, zodb.TxnID{1}); err != nil || len(blobs) != 2 {
			t.Fatal(blobs, err)
		}
	}
}

// Small files wait for Seal to sync them, at most 64 of a transaction with a descriptor each.
func TestSmallFilesAreSyncedTogether(t *testing.T) {
	p := newPeer(t)
	ended, cancel := context.WithCancel(ctx)
	cancel()
	waiting := func() (n int) {
		t.Helper()
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil && runtime.GOOS == "linux" {
			t.Fatal(err)
		}
		for _, fd := range fds {
			if to, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(to, filepath.Join(p.path, "staged")) {
				n++
			}
		}
		return n
	}
	want := make(map[zodb.Oid]int64)
	for n := range 150 {
		size := []int{0, 1, 5000, 128 << 10}[n%4]
		p.stage(1, zodb.Oid(n+1), random(uint64(n), size))
		want[zodb.Oid(n+1)] = int64(size)
		if n := waiting(); n > 64 {
			t.Fatal(n, "descriptors")
		}
	}
	if n := waiting(); n == 0 && runtime.GOOS == "linux" {
		t.Error("none waits")
	}
	if _, err := p.Seal(ended, zodb.TxnID{1}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for _, at := range []context.Context{ctx, ended} { // what is synced is ready
		blobs, err := p.Seal(at, zodb.TxnID{1})
		if err != nil || len(blobs) != len(want) {
			t.Fatal(len(blobs), err)
		}
		for oid, b := range blobs {
			if b.Size != want[oid] {
				t.Error(oid, b)
			}
		}
		if n := waiting(); n != 0 {
			t.Error(n, "descriptors")
		}
	}
	p.stage(2, 1, random(1, 10))
	if err := p.Discard(zodb.TxnID{2}); err != nil || waiting() != 0 {
		t.Error(waiting(), err)
	}
	p.stage(3, 1, random(1, 10))
	p.close()
	if n := waiting(); n != 0 {
		t.Error(n, "descriptors")
	}
	p.open()
}

func TestAFileThatIsWrittenToAfterItWasHandedOverIsRefused(t *testing.T) {
	p := newPeer(t)
	for id, change := range map[byte]func(name string) error{
		1: func(name string) error { return os.WriteFile(name, random(2, 1000), 0o600) },
		2: func(name string) error { return os.Truncate(name, 999) },
		3: os.Remove,
	} {
		for _, sealed := range []bool{false, true} {
			p.stage(id, 1, random(1, 1000))
			if _, err := p.Seal(ctx, zodb.TxnID{id}); err != nil {
				t.Fatal(err)
			}
			name := filepath.Join(p.path, "staged", fmt.Sprintf("%s-%016x", zodb.TxnID{id}, 1))
			if err := errors.Join(os.Chmod(name, 0o600), p.Unchanged(zodb.TxnID{id}), change(name)); err != nil {
				t.Fatal(err)
			}
			err := p.Unchanged(zodb.TxnID{id})
			if !sealed {
				_, err = p.Seal(ctx, zodb.TxnID{id})
			}
			if !errors.Is(err, blob.ErrChanged) || !strings.Contains(err.Error(), name) {
				t.Error(id, err)
			}
			if err := p.Discard(zodb.TxnID{id}); err != nil {
				t.Error(err)
			}
		}
	}
}
