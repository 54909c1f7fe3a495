package blob_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Transactions that are given up remove the directories that they leave empty, which others are just about to use.
func TestDirectoriesThatComeAndGoAreInNobodysWay(t *testing.T) {
	const writers, rounds = 8, 150
	p := newPeer(t)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for round := range rounds {
				var id zodb.TxnID
				binary.BigEndian.PutUint32(id[:], uint32(w*rounds+round))
				oid := zodb.Oid(w % 2)
				name := filepath.Join(p.Temp(), id.String())
				err := os.WriteFile(name, []byte(name), 0o600)
				if err == nil {
					err = p.Stage(ctx, id, oid, name, false)
				}
				if err == nil {
					_, err = p.Seal(ctx, id)
				}
				if err == nil && w < 2 {
					if err = p.Commit(id, zodb.Tid(round+1)); err == nil {
						err = os.Remove(p.Path(oid, zodb.Tid(round+1))) // as a pack
					}
				} else {
					err = errors.Join(err, p.Discard(id))
				}
				if err != nil {
					t.Error(fmt.Errorf("round %d of writer %d: %w", round, w, err))
					return
				}
			}
		})
	}
	wg.Wait()
}
