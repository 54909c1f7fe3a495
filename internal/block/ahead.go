package block

import (
	"errors"
	"hash/maphash"
	"io"
	"sync"
	"sync/atomic"
)

// Ahead hashes a file's chunks while somebody is still writing it, who may yet change them. So of each chunk it keeps a checksum, too, taken
// of the same bytes: Import reads every chunk again, and believes a hash only where the checksum is still right. The checksum
// (hash/maphash, 64 bits, ten times as fast as sha256) has a key that is drawn for each file and never leaves it, so that
// nobody can aim at two chunks with the same one. One goroutine at a time; 40 bytes for each 256 KiB.
type Ahead struct {
	seed    maphash.Seed
	chunks  []aheadChunk
	doubt   int // those before it may have changed since
	buffers *Buffers
}

type aheadChunk struct {
	check uint64
	hash  Hash
}

// NewAhead has hashed nothing yet. It borrows its chunks' memory.
func NewAhead(buffers *Buffers) *Ahead { return &Ahead{seed: maphash.MakeSeed(), buffers: buffers} }

// Buffers lends memory for chunks, and keeps what is given back until the collector has come by twice: new memory for each file is to be cleared, and
// brings the collector. The zero value is ready; any goroutine.
type Buffers struct{ pool sync.Pool }

func (b *Buffers) get() *[ChunkSize]byte {
	if got, ok := b.pool.Get().(*[ChunkSize]byte); ok {
		return got
	}
	return new([ChunkSize]byte)
}

func (b *Buffers) put(buf *[ChunkSize]byte) { b.pool.Put(buf) }

// Size is how many bytes are hashed, from the file's beginning on.
func (a *Ahead) Size() int64 { return int64(len(a.chunks)) * ChunkSize }

// Doubt says that what is hashed may have changed. Until it is called, or after, Import believes a hash without reading again.
func (a *Ahead) Doubt() { a.doubt = len(a.chunks) }

// Hash goes on to hash the whole chunks of what the file holds, size bytes, until stop is set: at most some 64 of them, so that the caller has a
// say in between. Its error takes nothing away from what is hashed.
func (a *Ahead) Hash(file io.ReaderAt, size int64, workers int, stop *atomic.Bool) error {
	first := int64(len(a.chunks))
	n := min(batch, size/ChunkSize-first)
	if n <= 0 {
		return nil
	}
	chunks := make([]int64, n)
	for i := range chunks {
		chunks[i] = first + int64(i)
	}
	more := make([]aheadChunk, n)
	done, err := a.buffers.each(file, size, chunks, workers, stop, func(i int64, b []byte) {
		more[i-first] = aheadChunk{maphash.Bytes(a.seed, b), Sum(b)}
	})
	if errors.Is(err, io.EOF) {
		return nil // it was cut meanwhile
	}
	if err == nil {
		a.chunks = append(a.chunks, more[:done]...)
	}
	return err
}

// sure returns the i-th chunk's hash if nobody doubts it.
func (a *Ahead) sure(i, size int64) (h Hash, ok bool) {
	if i < int64(a.doubt) || i >= int64(len(a.chunks)) || (i+1)*ChunkSize > size {
		return h, false
	}
	return a.chunks[i].hash, true
}

// sum is Sum of the i-th chunk's bytes.
func (a *Ahead) sum(i int64, b []byte) Hash {
	if i < int64(len(a.chunks)) && len(b) == ChunkSize && maphash.Bytes(a.seed, b) == a.chunks[i].check {
		return a.chunks[i].hash
	}
	return Sum(b)
}
