package zodb

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/zodb-dht/zodb_dht/internal/block"
)

func drawRecord(t *rapid.T) Record {
	bs := func(name string) []byte {
		b := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, name)
		if len(b) == 0 {
			return []byte{}
		}
		return b
	}
	r := Record{
		Tid: Tid(rapid.Uint64().Draw(t, "tid")), Status: rapid.Byte().Draw(t, "status"),
		User: bs("user"), Description: bs("description"), Extension: bs("extension"), Author: bs("author"),
	}
	copy(r.ID[:], bs("id"))
	if rapid.Bool().Draw(t, "has prev") {
		r.Prev = block.Sum(r.User)
	}
	for range rapid.IntRange(0, 40).Draw(t, "writes") {
		w := Write{Oid: Oid(rapid.Uint64().Draw(t, "oid")), Base: Tid(rapid.Uint64().Draw(t, "base")), Kind: WriteDelete}
		if rapid.Bool().Draw(t, "data") {
			w.Kind, w.Hash = WriteData, block.Sum(bs("data"))
			if rapid.Bool().Draw(t, "file") {
				w.Blob = Blob{Root: block.Sum(bs("file")), Size: rapid.Int64Range(0, 1<<40).Draw(t, "size")}
			}
		}
		r.Writes = append(r.Writes, w)
	}
	return r
}

func TestARecordComesBackAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawRecord(t)
		got, err := DecodeRecord(want.AppendTo(nil))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
	})
}

// The library's canonical encoder is the oracle of the one written out.
func TestTheEncodingIsWhatACanonicalEncoderMakes(t *testing.T) {
	mode, err := cbor.EncOptions{Sort: cbor.SortLengthFirst}.EncMode()
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		b := func() []byte { r := drawRecord(t); return r.AppendTo(nil) }()
		var tree map[string]any
		if err := cbor.Unmarshal(b, &tree); err != nil {
			t.Fatal(err)
		}
		again, err := mode.Marshal(tree)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, again) {
			t.Fatalf("ours %x\nlibrary %x", b, again)
		}
	})
}

type vector struct {
	Name   string `json:"name"`
	Hex    string `json:"hex"`
	CID    string `json:"cid"`
	Record Record `json:"record"`
}

func vectors() []vector {
	first := Record{Tid: 1, Status: ' ', User: []byte{}, Description: []byte("initial database creation"), Extension: []byte{}, Author: []byte{},
		Writes: []Write{{Oid: 0, Base: 0, Kind: WriteData, Hash: block.Sum([]byte("root"))}}}
	second := Record{Prev: first.Digest(nil), Tid: 0x03f0a1b2c3d4e5f6, ID: TxnID{1, 2, 3}, Status: 'p', User: []byte(" admin"), Description: []byte("/a"),
		Extension: []byte{0x80}, Author: []byte("peer"), Writes: []Write{{Oid: 7, Base: 1, Kind: WriteDelete}, {Oid: 300, Base: 0, Kind: WriteData, Hash: block.Sum(nil)}}}
	third := Record{Prev: second.Digest(nil), Tid: 0x03f0a1b2c3d4e5f7, ID: TxnID{4}, Status: ' ', User: []byte{}, Description: []byte{}, Extension: []byte{}, Author: []byte{},
		Writes: []Write{
			{Oid: 8, Kind: WriteData, Hash: block.Sum([]byte("blob")), Blob: Blob{Root: block.Sum([]byte("small")), Size: 5}},
			{Oid: 9, Kind: WriteData, Hash: block.Sum([]byte("blob")), Blob: Blob{Root: block.Sum([]byte("a root")), Size: 1 << 30}},
		}}
	return []vector{
		{Name: "the first transaction", Record: first}, {Name: "a deletion behind it", Record: second},
		{Name: "two blobs, of one chunk and of many", Record: third},
	}
}

// testdata/records.json is for other implementations: a change of it is a change of the format.
func TestTheVectorsInTheFileAreWhatWeEncode(t *testing.T) {
	raw, err := os.ReadFile("testdata/records.json")
	if err != nil {
		t.Fatal(err)
	}
	var want []vector
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	got := vectors()
	if len(got) != len(want) {
		t.Fatalf("%d vectors in the file, %d here", len(want), len(got))
	}
	for i, v := range got {
		b := v.Record.AppendTo(nil)
		if hex.EncodeToString(b) != want[i].Hex || v.Record.Digest(nil).TxnCID().String() != want[i].CID {
			t.Errorf("%s: %x %s", v.Name, b, v.Record.Digest(nil).TxnCID())
		}
	}
}

func TestAnythingButTheCanonicalFormIsRefused(t *testing.T) {
	v := vectors()[1].Record.AppendTo(nil)
	cases := map[string][]byte{
		"empty":                    {},
		"cut off":                  v[:len(v)-1],
		"a byte too many":          append(bytes.Clone(v), 0),
		"not a map":                {0x80},
		"a longer head than needs": append([]byte{0xb8, 10}, v[1:]...),
		"indefinite length":        append(append([]byte{0xbf}, v[1:]...), 0xff),
		"another key":              bytes.Replace(v, []byte("user"), []byte("uSer"), 1),
		"keys in another order":    bytes.Replace(bytes.Replace(v, []byte("ctid"), []byte("cxxx"), 1), []byte("ctxn"), []byte("ctid"), 1),
		"another tag":              bytes.Replace(v, []byte{0xd8, 42}, []byte{0xd8, 43}, 1),
		"another codec":            bytes.Replace(v, []byte{0, 1, 0x71, 0x12}, []byte{0, 1, 0x70, 0x12}, 1),
		"another hash function":    bytes.Replace(v, []byte{0, 1, 0x55, 0x12}, []byte{0, 1, 0x55, 0x13}, 1),
		"version 0":                bytes.Replace(v, []byte("version\x01"), []byte("version\x00"), 1),
	}
	for name, b := range cases {
		if _, err := DecodeRecord(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b := vectors()[2].Record.AppendTo(nil)
	for name, b := range map[string][]byte{
		"a file of one chunk named as a tree": bytes.Replace(b, []byte{0x05, 0x85, 0x48}, []byte{0x1a, 0x05, 0x85, 0x48}, 1),
		"a size that is not the codec's":      bytes.Replace(b, []byte{0x1a, 0x40, 0, 0, 0}, []byte{0x1a, 0, 3, 0, 0}, 1),
		"a negative size":                     bytes.Replace(b, []byte{0x1a, 0x40, 0, 0, 0}, []byte{0x1b, 0x80, 0, 0, 0, 0, 0, 0, 0}, 1),
		"a write of four":                     bytes.Replace(b, []byte{0x85, 0x48, 0, 0, 0, 0, 0, 0, 0, 9}, []byte{0x84, 0x48, 0, 0, 0, 0, 0, 0, 0, 9}, 1),
		"a size without a file":               bytes.Replace(b, append([]byte{0xd8, 42, 0x58, 37, 0, 1, 0x70, 0x12, 0x20}, vectors()[2].Record.Writes[1].Blob.Root[:]...), []byte{0xf6}, 1),
	} {
		if _, err := DecodeRecord(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	newer := bytes.Replace(v, []byte("version\x01"), []byte("version\x02"), 1)
	if _, err := DecodeRecord(newer); err == nil || errors.Is(err, ErrMalformed) {
		t.Errorf("a newer version is not damage: %v", err)
	}
}

func FuzzDecodeRecord(f *testing.F) {
	for _, v := range vectors() {
		f.Add(v.Record.AppendTo(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeRecord(b)
		if err == nil && !bytes.Equal(r.AppendTo(nil), b) {
			t.Fatalf("%x was accepted and is %x", b, r.AppendTo(nil))
		}
	})
}
