// Package indextest is the suite that every index.State passes: what callers may rely on, a fresh state for each promise.
package indextest

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Open makes a fresh state that lives as long as the test.
type Open func(t testing.TB) index.State

// Run holds open's states to every promise.
func Run(t *testing.T, open Open) {
	for _, p := range []struct {
		name string
		run  func(t *testing.T, d *driver)
	}{
		{"a fresh state is empty and gives oids from 1", fresh},
		{"a committed record is what a load at its tid and later returns", loads},
		{"an older position sees the older revision and its successor", revisions},
		{"a deep history is found at each of its tids", deepHistory},
		{"a deletion hides the object from there on", deletion},
		{"a stale write changes nothing but the outcome", staleWrite},
		{"a stale read changes nothing but the outcome", staleRead},
		{"a tid that does not rise is lifted above the last", tidsRise},
		{"a restored tid is kept, or refused where it does not rise", restore},
		{"the same transaction twice is applied once", once},
		{"the first of commit and tombstone wins", tombstone},
		{"oid ranges do not overlap and stay above every oid written", oids},
		{"a gap in the positions is refused", gap},
		{"bytes that are no entry are refused", garbage},
		{"transactions come in order, within both bounds", transactions},
		{"transactions come newest first, within both bounds", backwards},
		{"what exists comes in order of oid, once, without what is deleted", current},
		{"a record tells which older one it repeats", repeats},
		{"a record is found by its hash", find},
		{"the digests chain", chain},
		{"a horizon hides what was superseded at or before it", horizonHides},
		{"a horizon only rises, and not beyond the last transaction", horizonRises},
		{"a deletion at the horizon takes the whole object along", horizonDeletion},
		{"packed transactions have status p, and vanish without records", horizonTransactions},
		{"the chain can be followed from the horizon's digest on", horizonDigest},
		{"a snapshot from before a pack reads on until the sweep", pinned},
		{"a garbage list removes whole objects", garbageGoes},
		{"a garbage list that a transaction overtook asks for a rescan", garbageOvertaken},
		{"a fenced list is overtaken only by undeclared snapshots", garbageFenced},
		{"a snapshot from before the fence is refused", behind},
		{"an object that went as garbage can be written anew", rebirth},
		{"a blob's file is named by its revision, and found by its root", blobs},
	} {
		t.Run(p.name, func(t *testing.T) { p.run(t, &driver{t: t, s: open(t)}) })
	}
}

// driver applies entries at the next position.
type driver struct {
	t  testing.TB
	s  index.State
	id byte
}

func (d *driver) apply(entry []byte) index.Outcome {
	d.t.Helper()
	o, err := d.s.Apply(d.s.Stats().Applied+1, entry)
	if err != nil {
		d.t.Fatal(err)
	}
	return o
}

func (d *driver) txn(tid zodb.Tid, writes ...zodb.Write) *zodb.Txn {
	d.id++
	return &zodb.Txn{ID: zodb.TxnID{d.id}, Floor: uint64(d.s.Stats().Applied), Tid: tid, Status: ' ', Writes: writes}
}

func (d *driver) commit(tid zodb.Tid, writes ...zodb.Write) index.Outcome {
	d.t.Helper()
	return d.apply(index.AppendCommit(nil, d.txn(tid, writes...)))
}

func write(oid zodb.Oid, base zodb.Tid, data string) zodb.Write {
	return zodb.Write{Oid: oid, Base: base, Kind: zodb.WriteData, Hash: block.Sum([]byte(data)), Data: []byte(data)}
}

func (d *driver) wantLoad(oid zodb.Oid, at zodb.Tid, data string, tid, next zodb.Tid) {
	d.t.Helper()
	rev, err := d.s.Load(oid, at)
	if err != nil {
		d.t.Fatalf("load %s at %s: %v", oid, at, err)
	}
	want := index.Revision{Oid: oid, Tid: tid, Next: next, Kind: zodb.WriteData, Size: len(data), Data: []byte(data)}
	if diff := cmp.Diff(want, rev); diff != "" {
		d.t.Fatalf("load %s at %s: %s", oid, at, diff)
	}
}

func (d *driver) wantErr(err, want error) {
	d.t.Helper()
	if !errors.Is(err, want) {
		d.t.Fatalf("got %v, want %v", err, want)
	}
}
