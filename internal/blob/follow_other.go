//go:build !linux

package blob

import (
	"context"
	"errors"
	"io/fs"

	"github.com/zodb-dht/zodb_dht/internal/block"
)

// follower follows nothing here: files are hashed when they are staged.
type follower struct{}

func newFollower(string, string, *block.Buffers) (*follower, error) {
	return nil, errors.ErrUnsupported
}

func (w *follower) run(context.Context) {}

func (w *follower) take(_ fs.FileInfo, buffers *block.Buffers) *block.Ahead {
	return block.NewAhead(buffers)
}

func (w *follower) close() {}
