package node

import (
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"

	"github.com/zodb-dht/zodb_dht/internal/replica"
)

// stuck is a log's file that takes nothing for a while.
type stuck struct {
	once        sync.Once
	begun, goOn chan struct{}
}

func (s *stuck) Write(b []byte) (int, error) {
	s.once.Do(func() { close(s.begun) })
	<-s.goOn
	return len(b), nil
}

// Whoever poisons a node relies on it that nothing is acknowledged behind the call, also if another one was a moment earlier.
func TestNothingIsAcknowledgedBehindAPoison(t *testing.T) {
	file := &stuck{begun: make(chan struct{}), goOn: make(chan struct{})}
	n, err := Open(t.Context(), Config{Path: filepath.Join(t.TempDir(), "peer"), Create: true, Logger: slog.New(slog.NewTextHandler(file, nil))})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { n.Poison(errors.New("the disk burns")) })
	<-file.begun
	var broken *replica.Broken
	n.Poison(errors.New("a blob is not in its place"))
	if _, err := n.log.NewOids(t.Context(), 1); !errors.As(err, &broken) {
		t.Error("the log goes on:", err)
	}
	close(file.goOn)
	wg.Wait()
	_ = n.Close() // it was told
}
