package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

func sample() *zodb.Txn {
	return &zodb.Txn{
		ID: zodb.TxnID{1}, Floor: 3, Tid: 4, Snapshot: 2, Status: ' ', User: []byte("u"), Description: []byte("d"), Extension: []byte("e"), Author: []byte("a"),
		Reads: []zodb.Read{{Oid: 1, Serial: 2}},
		Writes: []zodb.Write{
			{Oid: 5, Base: 6, Kind: zodb.WriteData, Hash: block.Sum([]byte("data")), Data: []byte("data")},
			{Oid: 7, Base: 8, Kind: zodb.WriteDelete},
			{Oid: 9, Kind: zodb.WriteData, Hash: block.Sum([]byte("b")), Data: []byte("b"), Blob: zodb.Blob{Root: block.Sum([]byte("file")), Size: 300}},
		},
	}
}

func TestAnEntryComesBackAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := sample()
		want.Restore = rapid.Bool().Draw(t, "restore")
		want.User = rapid.SliceOf(rapid.Byte()).Draw(t, "user")
		want.Writes[0].Data = rapid.SliceOf(rapid.Byte()).Draw(t, "data")
		b := AppendCommit(nil, want)
		if n := CommitSize(want); len(b) > n {
			t.Fatalf("%d bytes, announced as %d", len(b), n)
		}
		SetEntryTid(b, 99)
		want.Tid = 99
		got, err := decodeEntry(b)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, &got.txn, cmpopts.EquateEmpty()); d != "" {
			t.Fatal(d)
		}
	})
}

// patched returns b with the bytes at off replaced.
func patched(b []byte, off int, with ...byte) []byte {
	b = bytes.Clone(b)
	copy(b[off:], with)
	return b
}

func TestAnEntryIsRefusedUnlessItIsWhole(t *testing.T) {
	b := AppendCommit(nil, sample())
	const body = entryHead
	fields := body + 26
	reads := fields + 4*2 // four fields of one byte each
	writes := reads + 1 + 16
	for name, bad := range map[string][]byte{
		"empty":                        {},
		"shorter than a head":          b[:entryHead-1],
		"a newer version":              patched(b, 0, 2),
		"an unknown kind":              patched(b, 1, 77),
		"an unknown flag":              patched(b, body+16, 2),
		"a byte too many":              append(bytes.Clone(b), 0),
		"a user longer than the entry": patched(b, fields, 0xff),
		"a length without an end":      append(bytes.Clone(b[:fields]), bytes.Repeat([]byte{0xff}, 10)...),
		"more reads than bytes":        patched(b, reads, 0x7f),
		"more writes than bytes":       patched(b, writes, 0x7f),
		"an unknown kind of write":     patched(b, writes+1+16, 4),
		"a file without a root":        patched(b, len(b)-2-2-32, make([]byte, 32)...),
		"a file of a negative size": append(append(bytes.Clone(b[:len(b)-4]),
			0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1), b[len(b)-2:]...),
		"a deletion with data":         patched(b, writes+1+16, byte(zodb.WriteDelete)),
		"no oids":                      AppendOids(nil, 0, zodb.TxnID{}),
		"too many oids":                AppendOids(nil, 1<<33, zodb.TxnID{}),
		"a tombstone with a body":      append(AppendTombstone(nil, zodb.TxnID{}), 1),
		"an unknown flag of a horizon": patched(AppendHorizon(nil, zodb.TxnID{}, 5, true), entryHead+8, 2),
		"a horizon cut off":            AppendHorizon(nil, zodb.TxnID{}, 5, true)[:entryHead+8],
		"an unknown flag of garbage":   patched(garbage(), entryHead+16, 2),
		"garbage cut off":              garbage()[:len(garbage())-1],
		"garbage whose oids stand":     patched(garbage(), entryHead+27, 0),
		"garbage whose oids overflow":  AppendGarbage(nil, zodb.TxnID{}, &Garbage{Objects: []Change{{9, 1}, {8, 1}}}),
		"garbage without an end":       AppendGarbage(nil, zodb.TxnID{}, &Garbage{Objects: rising(MaxGarbage + 1)}),
	} {
		if _, err := decodeEntry(bad); !errors.Is(err, ErrEntry) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for n := range b {
		if _, err := decodeEntry(b[:n]); !errors.Is(err, ErrEntry) {
			t.Errorf("the first %d bytes: %v", n, err)
		}
	}
}

func rising(n int) []Change {
	out := make([]Change, n)
	for i := range out {
		out[i] = Change{Oid: zodb.Oid(i), Tid: 7}
	}
	return out
}

func garbage() []byte {
	return AppendGarbage(nil, zodb.TxnID{2}, &Garbage{Horizon: 8, Scanned: 9, Fenced: true, Objects: rising(2)})
}

func TestAPacksEntriesComeBackAsTheyWere(t *testing.T) {
	e, err := decodeEntry(AppendHorizon(nil, zodb.TxnID{1}, 77, true))
	if err != nil || e.kind != entryHorizon || e.horizon != 77 || !e.fence || e.txn.ID != (zodb.TxnID{1}) {
		t.Fatal(e, err)
	}
	want := Garbage{Horizon: 8, Scanned: 9, Objects: rising(MaxGarbage)}
	e, err = decodeEntry(AppendGarbage(nil, zodb.TxnID{1}, &want))
	if d := cmp.Diff(want, e.garbage); d != "" || err != nil || e.kind != entryGarbage {
		t.Fatal(d, err)
	}
}

func TestTheSweepRowIsRefusedUnlessItIsWhole(t *testing.T) {
	want := swept{to: 1, compacted: 2, records: 3, dataSize: 4}
	v := want.append(nil)
	if got, err := decodeSwept(v); err != nil || got != want || len(v) != sweepLen {
		t.Fatal(got, err)
	}
	for name, bad := range map[string][]byte{"empty": {}, "cut off": v[:len(v)-1], "a flipped bit": patched(v, 9, 1)} {
		if _, err := decodeSwept(bad); !errors.Is(err, zodb.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := decodeSwept(resum(patched(v, 0, 2))); !errors.Is(err, ErrNewerFormat) {
		t.Errorf("a newer version: %v", err)
	}
}

func FuzzDecodeEntry(f *testing.F) {
	f.Add(AppendCommit(nil, sample()))
	f.Add(AppendOids(nil, 7, zodb.TxnID{1}))
	f.Add(AppendTombstone(nil, zodb.TxnID{1}))
	f.Add(AppendHorizon(nil, zodb.TxnID{1}, 5, true))
	f.Add(garbage())
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEntry(b)
		if err != nil || e.kind != entryCommit {
			return
		}
		if _, err := decodeEntry(AppendCommit(nil, &e.txn)); err != nil {
			t.Fatal(err)
		}
	})
}

// The checksum is right, so that the rest is read.
func FuzzDecodeHeader(f *testing.F) {
	txn := sample()
	f.Add(appendHeader(nil, &zodb.Record{Tid: 90, ID: txn.ID, Status: 'p', User: txn.User, Writes: txn.Writes}, block.Sum(nil)))
	f.Fuzz(func(t *testing.T, v []byte) {
		if len(v) < 4 {
			return
		}
		h, bases, err := decodeHeader(90, resum(v))
		if err != nil {
			if !errors.Is(err, zodb.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		h.Packed = true
		again, same, err := decodeHeader(90, appendPacked(nil, &h, bases))
		if err != nil || !cmp.Equal(h, again) || !cmp.Equal(bases, same) {
			t.Fatal(h, again, err)
		}
	})
}

// A manifest of any bytes is read to its end, or to a place within it.
func FuzzDamagedChunk(f *testing.F) {
	whole := chunks([]byte("one"), bytes.Repeat([]byte("two"), walBlock))
	f.Add(whole, uint(0), byte(0))
	f.Add(whole, uint(len(whole)/2), byte(1))
	f.Add(append(bytes.Clone(whole), make([]byte, 600)...), uint(7), byte(0x80))
	f.Fuzz(func(t *testing.T, raw []byte, at uint, flip byte) {
		if len(raw) > 0 {
			raw[at%uint(len(raw))] ^= flip
		}
		if off := damagedChunk(raw); off < -1 || off >= max(1, len(raw)) {
			t.Fatal(off, len(raw))
		}
	})
}

// chunks writes records as a manifest has them.
func chunks(records ...[]byte) (raw []byte) {
	for _, rec := range records {
		for first := true; first || len(rec) > 0; first = false {
			room := walBlock - len(raw)%walBlock - manifestHead
			if room < 0 {
				raw, room = append(raw, make([]byte, room+manifestHead)...), walBlock-manifestHead
			}
			part := rec[:min(len(rec), room)]
			rec = rec[len(part):]
			kind := byte(3)
			switch {
			case first && len(rec) == 0:
				kind = 1
			case first:
				kind = 2
			case len(rec) == 0:
				kind = 4
			}
			body := append([]byte{kind}, part...)
			raw = binary.LittleEndian.AppendUint32(raw, masked(crc32.Checksum(body, castagnoli)))
			raw = append(binary.LittleEndian.AppendUint16(raw, uint16(len(part))), body...)
		}
	}
	return raw
}

func TestAWholeManifestIsNotDamaged(t *testing.T) {
	raw := chunks([]byte("one"), bytes.Repeat([]byte("two"), walBlock), nil, []byte("three"))
	if off := damagedChunk(raw); off != -1 {
		t.Fatal(off)
	}
	for off := 0; off < len(raw); off += 37 {
		if got := damagedChunk(patched(raw, off, raw[off]^4)); got < 0 && off < len(raw)-len("three")-manifestHead {
			t.Fatalf("a flipped bit at %d of %d was not seen", off, len(raw))
		}
	}
}

func resum(v []byte) []byte {
	v = bytes.Clone(v)
	binary.BigEndian.PutUint32(v[len(v)-4:], crc32.Checksum(v[:len(v)-4], castagnoli))
	return v
}

func TestATransactionRowIsRefusedUnlessItIsWhole(t *testing.T) {
	txn := sample()
	rec := zodb.Record{Tid: 90, ID: txn.ID, Status: 'p', User: txn.User, Description: txn.Description, Extension: txn.Extension, Author: txn.Author, Writes: txn.Writes}
	v := appendHeader(nil, &rec, block.Sum(nil))
	h, bases, err := decodeHeader(90, v)
	if err != nil || h.Status != 'p' || h.Digest != block.Sum(nil) || string(h.Description) != "d" {
		t.Fatal(h, err)
	}
	if d := cmp.Diff([]zodb.Tid{6, 8, 0}, bases); d != "" {
		t.Fatal(d)
	}
	if d := cmp.Diff([]zodb.Oid{5, 7, 9}, h.Oids); d != "" {
		t.Fatal(d)
	}
	for name, bad := range map[string][]byte{
		"empty": {}, "a flipped bit": patched(v, 20, v[20]^1), "cut off": v[:len(v)-1], "a newer version": resum(patched(v, 0, 2)),
		"an unknown flag": resum(patched(v, 1, 2)), "cut off before the checksum": resum(v[:len(v)-1]), "a byte too many": resum(append(bytes.Clone(v), 0)),
	} {
		if _, _, err := decodeHeader(90, bad); !errors.Is(err, zodb.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheStateRowIsRefusedUnlessItIsWhole(t *testing.T) {
	want := state{Stats: Stats{Applied: 1, LastTid: 2, Digest: block.Sum(nil), Objects: 3, Records: 4, DataSize: 5, NextOid: 6,
		Horizon: 8, HorizonDigest: block.Sum([]byte("h")), Fence: 9}, written: 7, undeclared: 10}
	v := want.append(nil)
	if len(v) != stateLen {
		t.Fatalf("%d bytes", len(v))
	}
	if got, err := decodeState(v); err != nil || got != want {
		t.Fatal(got, err)
	}
	for name, bad := range map[string][]byte{"empty": {}, "cut off": v[:stateLen-1], "a flipped bit": patched(v, 30, v[30]^1)} {
		if _, err := decodeState(bad); !errors.Is(err, zodb.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := decodeState(resum(patched(v, 0, 2))); !errors.Is(err, ErrNewerFormat) {
		t.Errorf("a newer version: %v", err)
	}
}

func TestAnOutcomeRowIsRefusedUnlessItIsWhole(t *testing.T) {
	want := Outcome{Verdict: Committed, Position: 9, TxnID: zodb.TxnID{4}, Tid: 5}
	v := appendOutcome(nil, &want)
	got, err := decodeOutcome(9, v)
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Fatal(d, err)
	}
	for name, bad := range map[string][]byte{"empty": {}, "cut off": v[:24], "verdict 0": patched(v, 0, 0), "verdict 8": patched(v, 0, 8)} {
		if _, err := decodeOutcome(9, bad); !errors.Is(err, zodb.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
