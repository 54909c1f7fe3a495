package node_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/zodb-dht/zodb_dht/internal/node"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// What was prefetched comes from memory, at the snapshot it was prefetched for; what is not there is no error. With a cache that takes
// everything, and one that does not and so reads nothing by itself at the open.
func TestPrefetchedObjectsComeFromMemory(t *testing.T) {
	const objects = 400
	for _, size := range []int{10, 8000} {
		dir := t.TempDir()
		n, err := tryOpen(dir)
		if err != nil {
			t.Fatal(err)
		}
		var writes []zodb.Write
		data := func(oid zodb.Oid) string { return fmt.Sprintf("%0*d", size, oid) }
		for oid := range zodb.Oid(objects) {
			writes = append(writes, write(oid*3, 0, data(oid*3)))
		}
		first := commit(t, n, writes...)
		last := commit(t, n, write(330, first, data(331)))
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		if n, err = tryOpen(dir, func(c *node.Config) { c.CacheSize = 8 << 20 }); err != nil {
			t.Fatal(err)
		}
		wanted := []zodb.Oid{390, 303, 330, 304, 3 * objects, 360} // not of the root's group, which an open reads ahead and which would push them out
		given := slices.Clone(wanted)
		if err := n.Prefetch(ctx, given, last); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(given, wanted) {
			t.Error("the caller's oids were moved")
		}
		buf := make([]byte, size)
		for _, oid := range []zodb.Oid{303, 360, 390} {
			if n, _, ok := n.TryLoad(oid, last, buf); !ok || string(buf[:n]) != data(oid) {
				t.Errorf("oid %s of %d bytes: from memory %t, %q", oid, size, ok, buf[:n])
			}
		}
		if n, tid, ok := n.TryLoad(330, last, buf); !ok || tid != last || string(buf[:n]) != data(331) {
			t.Errorf("the newest revision: from memory %t at %s", ok, tid)
		}
		if err := n.Prefetch(ctx, []zodb.Oid{330}, first); err != nil {
			t.Fatal(err)
		}
		if size, tid, err := n.LoadTo(ctx, 330, first, buf); err != nil || tid != first || string(buf[:size]) != data(330) {
			t.Errorf("the revision of the older snapshot: %q at %s, %v", buf[:size], tid, err)
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		if err := n.Prefetch(ctx, wanted, last); err == nil {
			t.Error("a closed node prefetches")
		}
	}
}
