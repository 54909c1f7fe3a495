package block_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"runtime"
	"testing"

	"github.com/zodb-dht/zodb_dht/internal/block"
)

// pattern is the content of testdata/unixfs.py: byte i is 7i + 13(i >> 8) + (i >> 16).
type pattern int64

func (p pattern) ReadAt(b []byte, off int64) (int, error) {
	if off+int64(len(b)) > int64(p) {
		return 0, io.ErrUnexpectedEOF
	}
	for k := range b {
		i := off + int64(k)
		b[k] = byte(7*i + 13*(i>>8) + i>>16)
	}
	return len(b), nil
}

// told keeps what Import tells of a tree.
type told struct {
	leaves []block.Hash
	next   int64
	nodes  map[block.Hash][]byte
	last   block.Hash
}

func (t *told) Leaf(h block.Hash, offset int64, size int) error {
	if offset != t.next {
		return errors.New("leaves out of order")
	}
	t.next += int64(size)
	t.leaves, t.last = append(t.leaves, h), h
	return nil
}

func (t *told) Node(h block.Hash, data []byte) error {
	t.nodes[h], t.last = data, h
	return nil
}

func TestAFileHasTheCIDThatIPFSGives(t *testing.T) {
	raw, err := os.ReadFile("testdata/unixfs.json") // made by unixfs.py from the specifications
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Size int64
		CID  string
	}
	if err := json.Unmarshal(raw, &vectors); err != nil {
		t.Fatal(err)
	}
	for _, v := range vectors {
		tree := &told{nodes: make(map[block.Hash][]byte)}
		root, err := block.Import(context.Background(), pattern(v.Size), v.Size, tree)
		if err != nil {
			t.Fatal(err)
		}
		if got := root.FileCID(v.Size).String(); got != v.CID {
			t.Errorf("%d bytes: %s, want %s", v.Size, got, v.CID)
		}
		if tree.last != root || tree.next != v.Size {
			t.Errorf("%d bytes: the tree was told %d of them, ending in %s", v.Size, tree.next, tree.last)
		}
		for h, data := range tree.nodes {
			if block.Sum(data) != h {
				t.Errorf("%d bytes: node %s does not match its bytes", v.Size, h)
			}
		}
		for i, h := range tree.leaves {
			b := make([]byte, min(block.ChunkSize, v.Size-int64(i)*block.ChunkSize))
			if _, err := pattern(v.Size).ReadAt(b, int64(i)*block.ChunkSize); err != nil || block.Sum(b) != h {
				t.Errorf("%d bytes: leaf %d is not its chunk's hash (%v)", v.Size, i, err)
			}
		}
	}
}

func TestAFileThatShrinksOrDoesNotReadIsAnError(t *testing.T) {
	_, err := block.Import(context.Background(), bytes.NewReader(make([]byte, block.ChunkSize)), block.ChunkSize+1, nil)
	if !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := block.Import(ctx, pattern(1<<20), 1<<20, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// fast is a file of zeros that costs no time to read.
type fast struct{}

func (fast) ReadAt(b []byte, _ int64) (int, error) { return len(b), nil }

func BenchmarkImport(b *testing.B) {
	const size = 64 << 20
	b.SetBytes(size)
	for b.Loop() {
		if _, err := block.Import(context.Background(), fast{}, size, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(runtime.GOMAXPROCS(0)), "processors")
}
