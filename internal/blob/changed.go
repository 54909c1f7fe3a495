package blob

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// ErrChanged says that a file was written to after it was handed over.
var ErrChanged = errors.New("the file was changed after it was handed over")

// Unchanged is ErrChanged unless all that is staged for a transaction still is what Seal returned. Called last before the transaction is
// proposed; what is changed behind that is damage, which Check finds.
func (d *Dir) Unchanged(id zodb.TxnID) error {
	for oid, s := range d.files(id) {
		if err := still(d.run, oid, s); err != nil {
			return err
		}
	}
	return nil
}

// still says nothing of a file that is not read yet. The file system's note of a file's last change is believed if it is what it was; else the file is read
// again, since links that come and go, and owners, move it, too.
func still(ctx context.Context, oid zodb.Oid, s *staged) error {
	select {
	case <-s.done:
	default:
		return nil
	}
	if s.info == nil {
		return nil
	}
	now, err := os.Lstat(s.name)
	if err == nil && !sameChange(now, s.info) {
		var got zodb.Blob
		if got, err = Identify(ctx, s.name); err == nil && got != s.blob {
			err = fmt.Errorf("%w: %w", ErrChanged, block.ErrMismatch)
		}
	}
	if err == nil {
		return nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: it is gone", ErrChanged)
	}
	return fmt.Errorf("the blob of oid %s, %s: %w", oid, s.name, err)
}
