package crash

import (
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/zodb-dht/zodb_dht/internal/index"
)

// On a failed write of the log Pebble panics in the next commit, with the lock held that its close wants: a close that waits for that
// returns when it is told to abandon it.
func TestACloseIsNotHeldUpByAPanicOfPebble(t *testing.T) {
	var failing atomic.Bool
	s, err := index.Open(index.Config{Dir: "db", Create: true, Logger: slog.New(slog.DiscardHandler),
		FS: errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
			if failing.Load() && op.Kind == errorfs.OpFileWrite && strings.HasSuffix(op.Path, ".log") {
				return errorfs.ErrInjected
			}
			return nil
		}))})
	if err != nil {
		t.Fatal(err)
	}
	failing.Store(true)
	b := s.DB().NewBatch()
	if err := errors.Join(b.Set([]byte("/a"), []byte("1"), nil), s.DB().ApplyNoSyncWait(b, pebble.Sync)); err != nil {
		t.Fatal(err)
	}
	if err := b.SyncWait(); !errors.Is(err, errorfs.ErrInjected) {
		t.Fatal("the log was written:", err)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("Pebble did not panic: the care taken of that is for nothing") // a later version may tell instead
			}
			s.Panicked()
		}()
		for range 10_000 { // once more than a block of the log was filled since
			_ = s.DB().LogData(make([]byte, 40<<10), pebble.NoSync)
			runtime.Gosched()
		}
	}()
	if !s.Doubtful() {
		t.Error("the close is not doubted")
	}
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	s.Abandon()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if !s.Abandoned() {
		t.Error("it was not abandoned")
	}
}
