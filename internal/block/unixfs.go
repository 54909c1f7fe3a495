package block

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/boxo/ipld/unixfs/importer/balanced"
	"github.com/ipfs/boxo/ipld/unixfs/importer/helpers"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/multiformats/go-multihash"
)

const (
	// ChunkSize is the length of a file's leaves but the last one, as in `ipfs add --cid-version=1`.
	ChunkSize = 256 << 10
	// treeWidth is how many links an inner node has at most, there, too.
	treeWidth = 174
	// batch is how many chunks are hashed between two steps of the tree's builder.
	batch = 64
)

// Tree gets a file's blocks, children before parents. Its methods are called from the goroutine that called Import.
type Tree interface {
	// Leaf is size bytes of the file from offset on.
	Leaf(h Hash, offset int64, size int) error
	// Node is an inner node; data is the callee's to keep.
	Node(h Hash, data []byte) error
}

// Import hashes a file of size bytes into a UnixFS tree (boxo's balanced layout, raw leaves) and returns its root. Chunks are read
// and hashed by all processors at once, each with a buffer of ChunkSize; nothing else grows with the file. A nil tree is not
// told. (https://specs.ipfs.tech/unixfs/)
func Import(ctx context.Context, file io.ReaderAt, size int64, tree Tree) (Hash, error) {
	return NewAhead(new(Buffers)).Import(ctx, file, size, tree)
}

// Import is the function of that name. What was hashed ahead is read again, and its hash taken if it is still the same.
func (a *Ahead) Import(ctx context.Context, file io.ReaderAt, size int64, tree Tree) (Hash, error) {
	if err := ctx.Err(); err != nil {
		return Hash{}, fmt.Errorf("import: %w", err)
	}
	if size > 0 && size <= ChunkSize { // one leaf, which is the root
		return a.leaf(file, size, tree)
	}
	l := &leaves{ctx: ctx, file: file, size: size, ahead: a}
	params := helpers.DagBuilderParams{
		Maxlinks: treeWidth, RawLeaves: true, CidBuilder: &builder{leaves: l}, Dagserv: &receiver{tree: tree},
	}
	h, err := params.New(l)
	if err != nil {
		return Hash{}, fmt.Errorf("import: %w", err)
	}
	root, err := balanced.Layout(h)
	if err != nil {
		return Hash{}, fmt.Errorf("import: %w", err)
	}
	return HashOf(root.Cid())
}

// leaf is Import of a file of one chunk.
func (a *Ahead) leaf(file io.ReaderAt, size int64, tree Tree) (Hash, error) {
	buf := a.buffers.get()
	defer a.buffers.put(buf)
	b := buf[:size]
	if _, err := file.ReadAt(b, 0); err != nil {
		return Hash{}, fmt.Errorf("import: read %d bytes at 0: %w", size, err)
	}
	h := Sum(b)
	if tree == nil {
		return h, nil
	}
	return h, tree.Leaf(h, 0, int(size))
}

// leaves is boxo's splitter. The tree's builder asks for each chunk's bytes only to hash them and to know their number: it
// gets zeros in their place, and the hash that was computed beside those of others.
type leaves struct {
	ctx    context.Context //nolint:containedctx // lives as long as one Import
	file   io.ReaderAt
	size   int64
	offset int64 // of the next chunk that is handed out
	ready  []Hash
	taken  Hash // of the chunk that was handed out last
	ahead  *Ahead
}

var zeros [ChunkSize]byte //nolint:gochecknoglobals // a constant: never written to

// Reader is the splitter's; nobody reads by it.
func (l *leaves) Reader() io.Reader { return nil }

// NextBytes stands for the next chunk; the empty file has none, and is one empty leaf all the same, which boxo makes.
func (l *leaves) NextBytes() ([]byte, error) {
	if l.offset >= l.size {
		return nil, io.EOF
	}
	if len(l.ready) == 0 {
		if err := l.hash(); err != nil {
			return nil, err
		}
	}
	l.taken, l.ready = l.ready[0], l.ready[1:]
	n := min(ChunkSize, l.size-l.offset)
	l.offset += n
	return zeros[:n], nil
}

// hash fills ready with the next chunks' hashes.
func (l *leaves) hash() error {
	if err := l.ctx.Err(); err != nil {
		return err
	}
	first := l.offset / ChunkSize
	n := min(batch, (l.size-l.offset+ChunkSize-1)/ChunkSize)
	hashes, left := make([]Hash, n), make([]int64, 0, n)
	for i := first; i < first+n; i++ {
		if h, ok := l.ahead.sure(i, l.size); ok {
			hashes[i-first] = h
		} else {
			left = append(left, i)
		}
	}
	_, err := l.ahead.buffers.each(l.file, l.size, left, runtime.GOMAXPROCS(0), nil, func(i int64, b []byte) { hashes[i-first] = l.ahead.sum(i, b) })
	l.ready = hashes
	return err
}

// each reads chunks of a file by all processors at once. It calls do for those chunks of a file of size bytes, in any order and by several goroutines, until stop, if any, is set. It
// returns how many of them, from the first on, are done. b belongs to do while it runs.
func (b *Buffers) each(file io.ReaderAt, size int64, chunks []int64, workers int, stop *atomic.Bool, do func(i int64, b []byte)) (int, error) {
	workers = min(len(chunks), workers)
	errs := make([]error, workers)
	var next atomic.Int64
	work := func(w int) {
		buf := b.get()
		defer b.put(buf)
		for errs[w] == nil && (stop == nil || !stop.Load()) {
			n := int(next.Add(1)) - 1
			if n >= len(chunks) {
				return
			}
			at := chunks[n] * ChunkSize
			b := buf[:min(ChunkSize, size-at)]
			if _, err := file.ReadAt(b, at); err != nil {
				errs[w] = fmt.Errorf("read %d bytes at %d: %w", len(b), at, err)
				return
			}
			do(chunks[n], b)
			runtime.Gosched() // who calls this process' core meanwhile waits for a chunk, not for the runtime's 10 ms
		}
	}
	var wg sync.WaitGroup
	for w := 1; w < workers; w++ {
		wg.Go(func() { work(w) })
	}
	if workers > 0 {
		work(0)
	}
	wg.Wait()
	return min(int(next.Load()), len(chunks)), errors.Join(errs...)
}

// builder names what the tree is made of. A leaf's hash is known already.
type builder struct {
	leaves *leaves
	codec  uint64
}

func (b *builder) Sum(data []byte) (cid.Cid, error) {
	if b.codec == cid.Raw && len(data) > 0 {
		return b.leaves.taken.CID(), nil
	}
	return cid.Prefix{Version: 1, Codec: b.codec, MhType: multihash.SHA2_256, MhLength: -1}.Sum(data)
}

func (b *builder) GetCodec() uint64 { return b.codec }

func (b *builder) WithCodec(codec uint64) cid.Builder {
	return &builder{leaves: b.leaves, codec: codec}
}

// receiver hands what boxo adds to the tree.
type receiver struct {
	ipld.DAGService // nil: the layout only adds
	tree            Tree
	offset          int64
}

func (r *receiver) Add(_ context.Context, n ipld.Node) error {
	h, err := HashOf(n.Cid())
	if err != nil || r.tree == nil {
		return err
	}
	data := n.RawData()
	if _, ok := n.(*merkledag.RawNode); !ok {
		return r.tree.Node(h, data)
	}
	at := r.offset
	r.offset += int64(len(data))
	return r.tree.Leaf(h, at, len(data))
}
