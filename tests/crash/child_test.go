package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/node"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// childEnv makes the test binary the committing process; its value is the JSON of an order.
const childEnv = "ZODB_DHT_CRASH_CHILD"

type order struct {
	Dir     string
	Seed    uint64
	Round   int
	Threads int
	Commits int // of each thread; 0: until killed
}

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // node.Verify on damage: each damaged block with Pebble's stack traces
	if raw := os.Getenv(childEnv); raw != "" {
		var o order
		err := json.Unmarshal([]byte(raw), &o)
		if err == nil {
			err = o.run()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		// Not closed: what ends here has left its last transactions in the write-ahead log.
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func open(dir string) (*node.Node, error) {
	return node.Open(context.Background(), node.Config{
		Path: dir, Create: true, CacheSize: 8 << 20, Logger: slog.New(slog.DiscardHandler),
	})
}

// run commits and tells the parent, one write(2) a line: "open", then "begin THREAD N" before each Finish and
// "done THREAD N TID" after it.
func (o order) run() error {
	n, err := open(o.Dir)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, "open")
	errs := make([]error, o.Threads)
	var wg sync.WaitGroup
	for thread := range o.Threads {
		wg.Go(func() {
			for i := 0; errs[thread] == nil && (o.Commits == 0 || i < o.Commits); i++ {
				errs[thread] = commit(n, name{o.Seed, o.Round, thread, i})
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// commit commits one transaction, resolving its conflicts by overwriting.
func commit(n *node.Node, nm name) error {
	ctx := context.Background()
	txn := nm.draw()
	txn.Floor = uint64(n.Stats().Applied)
	for i := range txn.Writes {
		rev, err := n.Load(ctx, txn.Writes[i].Oid, zodb.MaxTid)
		if err != nil && !errors.Is(err, index.ErrNotFound) {
			return fmt.Errorf("load: %w", err)
		}
		txn.Writes[i].Base = rev.Tid
	}
	for {
		stale, err := n.Vote(ctx, &txn)
		if err != nil {
			return fmt.Errorf("vote: %w", err)
		}
		if len(stale) == 0 {
			break
		}
		for _, s := range stale {
			for i := range txn.Writes {
				if txn.Writes[i].Oid == s.Oid {
					txn.Writes[i].Base = s.Committed
				}
			}
		}
	}
	fmt.Fprintf(os.Stdout, "begin %d %d\n", nm.Thread, nm.N)
	tid, err := n.Finish(ctx, txn.ID, false)
	if err != nil {
		return fmt.Errorf("finish: %w", err)
	}
	fmt.Fprintf(os.Stdout, "done %d %d %d\n", nm.Thread, nm.N, uint64(tid))
	return nil
}
