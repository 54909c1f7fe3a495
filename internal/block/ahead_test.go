package block_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/zodb-dht/zodb_dht/internal/block"
)

// counted counts the bytes that are read.
type counted struct {
	*bytes.Reader
	read atomic.Int64
}

func (c *counted) ReadAt(b []byte, at int64) (int, error) {
	n, err := c.Reader.ReadAt(b, at)
	c.read.Add(int64(n))
	return n, err
}

func content(seed uint64, size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(b)
	return b
}

// hashed is all that can be hashed ahead of a file.
func hashed(t *testing.T, b []byte) *block.Ahead {
	t.Helper()
	a := block.NewAhead(new(block.Buffers))
	for before := int64(-1); a.Size() > before; {
		before = a.Size()
		if err := a.Hash(bytes.NewReader(b), int64(len(b)), 2, new(atomic.Bool)); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

func TestAnImportReadsOnlyWhatIsDoubted(t *testing.T) {
	const size = 200*block.ChunkSize + 17
	b := content(1, size)
	want, err := block.Import(context.Background(), bytes.NewReader(b), size, nil)
	if err != nil {
		t.Fatal(err)
	}
	sure, doubted := hashed(t, b), hashed(t, b)
	doubted.Doubt()
	for name, c := range map[string]struct {
		a    *block.Ahead
		read int64
	}{"sure": {sure, 17}, "doubted": {doubted, size}, "not hashed": {block.NewAhead(new(block.Buffers)), size}} {
		file := &counted{Reader: bytes.NewReader(b)}
		got, err := c.a.Import(context.Background(), file, size, nil)
		if err != nil || got != want || file.read.Load() != c.read {
			t.Errorf("%s: %s, want %s; %d bytes read, want %d; %v", name, got, want, file.read.Load(), c.read, err)
		}
	}
}

func TestAnImportOfAnotherLengthTakesNoHashOfABytePastIt(t *testing.T) {
	b := content(1, 5*block.ChunkSize)
	for _, size := range []int64{0, 1, block.ChunkSize, block.ChunkSize + 1, 3*block.ChunkSize - 1, 4 * block.ChunkSize} {
		want, err := block.Import(context.Background(), bytes.NewReader(b), size, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := hashed(t, b).Import(context.Background(), bytes.NewReader(b), size, nil); err != nil || got != want {
			t.Error(size, got, want, err)
		}
	}
}

func TestAStoppedHashKeepsWhatItDid(t *testing.T) {
	b := content(1, 8*block.ChunkSize)
	stop, a := new(atomic.Bool), block.NewAhead(new(block.Buffers))
	stop.Store(true)
	if err := a.Hash(bytes.NewReader(b), int64(len(b)), 2, stop); err != nil || a.Size() != 0 {
		t.Error(a.Size(), err)
	}
	if err := a.Hash(bytes.NewReader(b[:3*block.ChunkSize]), int64(len(b)), 2, new(atomic.Bool)); err != nil || a.Size() != 0 {
		t.Error("of a file that was cut meanwhile:", a.Size(), err)
	}
}
