package node_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/zodb-dht/zodb_dht/internal/blob"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/node"
	"github.com/zodb-dht/zodb_dht/internal/replica"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// stage hands a file over for a transaction's write.
func stage(t testing.TB, n *node.Node, x *zodb.Txn, oid zodb.Oid, content string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.StageBlob(ctx, x.ID, oid, name, false); err != nil {
		t.Fatal(err)
	}
}

func readBlob(t testing.TB, n *node.Node, oid zodb.Oid, tid zodb.Tid) string {
	t.Helper()
	name, err := n.BlobFile(ctx, oid, tid, false)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func storeBlob(t testing.TB, n *node.Node, oid zodb.Oid, base zodb.Tid, content string) zodb.Tid {
	t.Helper()
	x := txn(write(oid, base, "record"))
	stage(t, n, x, oid, content)
	vote(t, n, x)
	tid, err := n.Finish(ctx, x.ID, false)
	if err != nil {
		t.Fatal(err)
	}
	return tid
}

func TestABlobIsThereWhenItsTransactionIs(t *testing.T) {
	dir := t.TempDir()
	n, err := tryOpen(dir)
	if err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("big ", 100_000)
	first := storeBlob(t, n, 1, 0, big)
	second := storeBlob(t, n, 1, first, "small")
	third := commit(t, n, write(1, second, "no file"), write(2, 0, "another"))
	for range 2 {
		if got := readBlob(t, n, 1, first); got != big {
			t.Error(len(got))
		}
		if got := readBlob(t, n, 1, second); got != "small" {
			t.Error(got)
		}
		for oid, tid := range map[zodb.Oid]zodb.Tid{1: third, 2: third, 3: first} {
			if _, err := n.BlobFile(ctx, oid, tid, false); !errors.Is(err, index.ErrNotFound) {
				t.Error(oid, tid, err)
			}
		}
		rev, err := n.LoadSerial(ctx, 1, second)
		if err != nil {
			t.Fatal(err)
		}
		blocks, err := n.Blocks()
		if err != nil {
			t.Fatal(err)
		}
		if b, err := blocks.Get(ctx, rev.Blob.CID()); err != nil || string(b.RawData()) != "small" {
			t.Error(b, err)
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		r, err := node.Verify(ctx, dir, nil)
		if err != nil || len(r.Damaged) > 0 || len(r.Orphans) > 0 || r.Blobs != 2 || r.BlobSize != uint64(len(big)+5) {
			t.Errorf("%+v %v", r, err)
		}
		n = open(t, dir)
	}
}

func TestARefusedTransactionLeavesNoFile(t *testing.T) {
	dir := t.TempDir()
	n := open(t, dir)
	tid := storeBlob(t, n, 1, 0, "first")
	x := txn(write(1, 0, "stale"))
	stage(t, n, x, 1, "second")
	if stale, err := n.Vote(ctx, x); err != nil || len(stale) != 1 {
		t.Fatal(stale, err)
	}
	if err := n.Abort(ctx, x.ID); err != nil {
		t.Fatal(err)
	}
	y := txn(write(7, 0, "never voted"))
	stage(t, n, y, 7, "third")
	if err := n.Abort(ctx, y.ID); err != nil {
		t.Fatal(err)
	}
	z := txn(write(8, 0, "a restored tid that does not rise"))
	z.Tid = tid
	stage(t, n, z, 8, "fourth")
	if err := errors.Join(n.Restore(ctx, z), n.Drain(ctx)); err == nil {
		t.Fatal("it was restored")
	}
	if got := files(t, filepath.Join(dir, "blobs")); len(got) != 1 || !strings.HasSuffix(got[0], tid.String()+".blob") {
		t.Error(got)
	}
}

// files lists those below a directory, but for the markers.
func files(t testing.TB, dir string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestABlobThatCanNotBePutIntoPlaceIsNotShownAndNotLost(t *testing.T) {
	dir := t.TempDir()
	n, err := tryOpen(dir)
	if err != nil {
		t.Fatal(err)
	}
	x := txn(write(0x0100, 0, "record"))
	stage(t, n, x, 0x0100, "content")
	vote(t, n, x)
	inTheWay := filepath.Join(dir, filepath.FromSlash("blobs/0x00/0x00/0x00/0x00/0x00/0x00/0x01"))
	if err := errors.Join(os.RemoveAll(inTheWay), os.WriteFile(inTheWay, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	var doubt *replica.InDoubt
	var broken *replica.Broken
	if _, err := n.Finish(ctx, x.ID, false); !errors.As(err, &doubt) || !errors.As(err, &broken) {
		t.Fatal(err)
	}
	if _, err := n.Load(ctx, 0x0100, n.Visible()); !errors.Is(err, index.ErrNoRevision) {
		t.Error("readers see it:", err)
	}
	_, _ = n.Abort(ctx, x.ID), n.Close() // they repeat what broke it
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	n = open(t, dir)
	if got := readBlob(t, n, 0x0100, n.Visible()); got != "content" {
		t.Error(got)
	}
}

// unplace undoes a commit's renames: what a crash before them leaves.
func unplace(t testing.TB, dir string, id zodb.TxnID, tid zodb.Tid, oids ...zodb.Oid) {
	t.Helper()
	for _, oid := range oids {
		final := filepath.Join(dir, "blobs")
		for _, b := range oid.Bytes() {
			final = filepath.Join(final, fmt.Sprintf("0x%02x", b))
		}
		staged := filepath.Join(dir, "blobs", "staged", fmt.Sprintf("%s-%016x", id, uint64(oid)))
		if err := os.Rename(filepath.Join(final, tid.String()+".blob"), staged); err != nil {
			t.Fatal(err)
		}
	}
}

func TestACrashBetweenTheLogAndTheRenamesLosesNoBlob(t *testing.T) {
	for name, applied := range map[string]bool{"before Apply": false, "after Apply": true} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			disk := vfs.NewCrashableMem()
			n := open(t, dir, func(c *node.Config) { c.FS = disk })
			first := storeBlob(t, n, 9, 0, "before")
			x := txn(write(1, 0, "a"), write(2, 0, "b"))
			stage(t, n, x, 1, "one")
			stage(t, n, x, 2, strings.Repeat("two ", 100_000))
			vote(t, n, x)
			y := txn(write(3, 0, "never finished"))
			stage(t, n, y, 3, "three")
			vote(t, n, y)
			tid, err := n.Finish(ctx, x.ID, false)
			if err != nil {
				t.Fatal(err)
			}
			if applied {
				commit(t, n, write(4, 0, "its sync takes Apply's batch to disk"))
			}
			disk = disk.CrashClone(vfs.CrashCloneCfg{}) // what was synced, and nothing else
			if err := n.Close(); err != nil {
				t.Fatal(err)
			}
			unplace(t, dir, x.ID, tid, 2, 1)
			n = open(t, dir, func(c *node.Config) { c.FS = disk })
			if got := readBlob(t, n, 1, tid) + readBlob(t, n, 9, first); got != "onebefore" {
				t.Error(got)
			}
			if got := readBlob(t, n, 2, tid); len(got) != 400_000 {
				t.Error(len(got))
			}
			if got := files(t, filepath.Join(dir, "blobs")); len(got) != 3 {
				t.Error(got)
			}
			blocks, err := n.Blocks()
			if err != nil {
				t.Fatal(err)
			}
			rev, err := n.LoadSerial(ctx, 2, tid)
			if err != nil {
				t.Fatal(err)
			}
			if ok, err := blocks.Has(ctx, rev.Blob.CID()); err != nil || !ok {
				t.Error("its references are lost", ok, err)
			}
		})
	}
}

func TestVerifyNamesMissingAndChangedBlobsAndOrphans(t *testing.T) {
	dir := t.TempDir()
	n, err := tryOpen(dir)
	if err != nil {
		t.Fatal(err)
	}
	missing, changed := storeBlob(t, n, 1, 0, "missing"), storeBlob(t, n, 2, 0, "changed")
	whole := storeBlob(t, n, 3, 0, "whole")
	name, err := n.BlobFile(ctx, 2, changed, false)
	if err != nil {
		t.Fatal(err)
	}
	gone, err := n.BlobFile(ctx, 1, missing, false)
	if err != nil {
		t.Fatal(err)
	}
	orphan := filepath.Join(filepath.Dir(gone), "0x0000000000000001.blob")
	strange := filepath.Join(dir, "blobs", "notes.txt")
	err = errors.Join(os.Chmod(name, 0o600), os.WriteFile(name, []byte("CHANGED"), 0o600), os.Rename(gone, orphan),
		os.WriteFile(strange, nil, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	var c *index.Corrupt
	if _, err := n.BlobFile(ctx, 1, missing, false); !errors.As(err, &c) || c.Oid != 1 || c.Tid != missing {
		t.Error(err)
	}
	if got := readBlob(t, n, 3, whole); got != "whole" {
		t.Error(got)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := node.Verify(ctx, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(r.Damaged, func(a, b index.Corrupt) int { return int(a.Oid) - int(b.Oid) })
	if len(r.Damaged) != 2 || r.Damaged[0].Oid != 1 || r.Damaged[0].Tid != missing || r.Damaged[1].Oid != 2 || r.Damaged[1].Tid != changed {
		t.Errorf("%+v", r.Damaged)
	}
	if !slices.Equal(r.Orphans, []string{orphan, strange}) || r.Blobs != 3 {
		t.Errorf("%+v", r)
	}
}

func TestTheBlobDirectoryIsRemembered(t *testing.T) {
	dir, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "elsewhere")
	at := func(path string) func(*node.Config) { return func(c *node.Config) { c.BlobDir = path } }
	n, err := tryOpen(dir, at(elsewhere))
	if err != nil {
		t.Fatal(err)
	}
	tid := storeBlob(t, n, 1, 0, "content")
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "blobs")); !errors.Is(err, os.ErrNotExist) {
		t.Error("a second directory:", err)
	}
	reread := func(edit ...func(*node.Config)) {
		t.Helper()
		n, err := tryOpen(dir, edit...)
		if err != nil {
			t.Fatal(err)
		}
		if got := readBlob(t, n, 1, tid); got != "content" {
			t.Error(got)
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
	reread()
	reread(at(elsewhere))
	third := filepath.Join(t.TempDir(), "third")
	if _, err := tryOpen(dir, at(third)); !errors.Is(err, node.ErrUsage) || !strings.Contains(err.Error(), elsewhere) {
		t.Error("blobs would be left behind:", err)
	}
	if err := os.Rename(elsewhere, third); err != nil {
		t.Fatal(err)
	}
	reread(at(third))
	reread()
	if _, err := tryOpen(t.TempDir(), at(third)); !errors.Is(err, blob.ErrForeign) {
		t.Error("another peer's:", err)
	}
}

// An unmounted disk looks like this, and what is written below its mount point is hidden by it later.
func TestABlobDirectoryThatIsGoneIsNotMadeAgain(t *testing.T) {
	dir, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "disk")
	at := func(c *node.Config) { c.BlobDir = elsewhere }
	for range 2 { // without blobs an empty one will do
		n, err := tryOpen(dir, at)
		if err := errors.Join(err, n.Close(), os.RemoveAll(elsewhere)); err != nil {
			t.Fatal(err)
		}
	}
	n, err := tryOpen(dir, at)
	if err != nil {
		t.Fatal(err)
	}
	tid := storeBlob(t, n, 1, 0, "content")
	away := elsewhere + "-away"
	if err := errors.Join(n.Close(), os.Rename(elsewhere, away)); err != nil {
		t.Fatal(err)
	}
	for _, edit := range []func(*node.Config){at, func(*node.Config) {}, func(c *node.Config) { c.BlobDir = t.TempDir() }} {
		if _, err := tryOpen(dir, edit); !errors.Is(err, blob.ErrForeign) || !strings.Contains(err.Error(), "this peer has blobs") {
			t.Errorf("%v", err)
		}
		if _, err := os.Stat(elsewhere); !errors.Is(err, os.ErrNotExist) {
			t.Error("it was made again:", err)
		}
	}
	if err := os.Mkdir(elsewhere, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := tryOpen(dir); !errors.Is(err, blob.ErrForeign) {
		t.Error("an empty mount point:", err)
	}
	if err := errors.Join(os.Remove(elsewhere), os.Rename(away, elsewhere)); err != nil {
		t.Fatal(err)
	}
	if n, err = tryOpen(dir); err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if got := readBlob(t, n, 1, tid); got != "content" {
		t.Error(got)
	}
}

func TestABlobOfMoreThanMemoryAllowsIsStreamed(t *testing.T) {
	n := open(t, t.TempDir())
	content := bytes.Repeat([]byte("0123456789abcdef"), 4<<20) // 64 MiB
	allocated := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for i := range b.N {
			x := txn(write(zodb.Oid(1000+i), 0, "record"))
			name := filepath.Join(b.TempDir(), "file")
			b.StopTimer()
			if err := os.WriteFile(name, content, 0o600); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			if err := n.StageBlob(ctx, x.ID, x.Writes[0].Oid, name, false); err != nil {
				b.Fatal(err)
			}
			if _, err := n.Vote(ctx, x); err != nil {
				b.Fatal(err)
			}
			if _, err := n.Finish(ctx, x.ID, false); err != nil {
				b.Fatal(err)
			}
			if b.N > 1 { // once is enough
				break
			}
		}
	}).AllocedBytesPerOp()
	if allocated > 32<<20 {
		t.Errorf("%d bytes were allocated for a file of %d", allocated, len(content))
	}
}
