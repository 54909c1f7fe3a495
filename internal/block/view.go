package block

import (
	"context"
	"errors"
	"fmt"

	"github.com/ipfs/boxo/blockstore"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
)

// ErrRecord says that a block is a record's: records are made and deleted by commits and pack, not through the view.
var ErrRecord = errors.New("the block is a record, kept by the commit log")

// Records is where the view finds records by their hash; the state is one. Any goroutine may call it.
type Records interface {
	// Data returns a record's data, verified, the caller's to keep; found is false if there is none.
	Data(h Hash) (data []byte, found bool, err error)
	// Size is Data without the data.
	Size(h Hash) (size int, found bool, err error)
	// Hashes calls yield for every record until it returns false; a hash may come more than once.
	Hashes(yield func(Hash) bool) error
}

// View is a boxo Blockstore over the records of a peer, joined with the blocks that are none (others). Any goroutine may use
// it. Get verifies what it returns; Put is durable when others' is.
type View struct {
	records Records
	others  blockstore.Blockstore
}

var _ blockstore.Blockstore = (*View)(nil)

// NewView joins records and others. Neither is the view's to close.
func NewView(records Records, others blockstore.Blockstore) *View {
	return &View{records: records, others: others}
}

// Get returns a block whose bytes match its CID, ipld.ErrNotFound, or an error that wraps ErrMismatch.
func (v *View) Get(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	if h, err := HashOf(c); err == nil {
		data, found, err := v.records.Data(h)
		if err != nil {
			return nil, fmt.Errorf("block %s: %w", c, err)
		}
		if found {
			return blocks.NewBlockWithCid(data, c)
		}
	}
	b, err := v.others.Get(ctx, c)
	if err != nil {
		return nil, err
	}
	if h, err := HashOf(c); err == nil {
		if err := Check(h, b.RawData()); err != nil {
			return nil, fmt.Errorf("block %s: %w", c, err)
		}
	}
	return b, nil
}

// GetSize returns the length of a block, ipld.ErrNotFound if there is none.
func (v *View) GetSize(ctx context.Context, c cid.Cid) (int, error) {
	if h, err := HashOf(c); err == nil {
		if n, found, err := v.records.Size(h); err != nil || found {
			return n, err
		}
	}
	return v.others.GetSize(ctx, c)
}

// Has tells whether GetSize would find the block.
func (v *View) Has(ctx context.Context, c cid.Cid) (bool, error) {
	_, err := v.GetSize(ctx, c)
	if ipld.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// Put keeps a block that is no record; one that is a record already is kept anyway. Its bytes must match its CID.
func (v *View) Put(ctx context.Context, b blocks.Block) error {
	return v.PutMany(ctx, []blocks.Block{b})
}

// PutMany is Put for several; all are checked before any is kept.
func (v *View) PutMany(ctx context.Context, bs []blocks.Block) error {
	var fresh []blocks.Block
	for _, b := range bs {
		h, err := HashOf(b.Cid())
		if err == nil {
			err = Check(h, b.RawData())
		}
		if err != nil {
			return fmt.Errorf("put block %s: %w", b.Cid(), err)
		}
		if _, found, err := v.records.Size(h); err != nil {
			return err
		} else if !found {
			fresh = append(fresh, b)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	return v.others.PutMany(ctx, fresh)
}

// DeleteBlock forgets a block that is no record: ErrRecord for one that is.
func (v *View) DeleteBlock(ctx context.Context, c cid.Cid) error {
	if h, err := HashOf(c); err == nil {
		if _, found, err := v.records.Size(h); err != nil {
			return err
		} else if found {
			return fmt.Errorf("delete block %s: %w", c, ErrRecord)
		}
	}
	return v.others.DeleteBlock(ctx, c)
}

// AllKeysChan sends the CID of every block at least once, with the codec raw, and closes the channel. It ends early when ctx
// does, or when a record can't be read: verify tells which.
func (v *View) AllKeysChan(ctx context.Context) (<-chan cid.Cid, error) {
	others, err := v.others.AllKeysChan(ctx)
	if err != nil {
		return nil, err
	}
	out := make(chan cid.Cid) // the goroutine's owner is ctx, as boxo's interface has it
	go func() {
		defer close(out)
		send := func(c cid.Cid) bool {
			select {
			case out <- c:
				return true
			case <-ctx.Done():
				return false
			}
		}
		for c := range others {
			if !send(c) {
				return
			}
		}
		_ = v.records.Hashes(func(h Hash) bool { return send(h.CID()) }) // AllKeysChan has no place for an error
	}()
	return out, nil
}
