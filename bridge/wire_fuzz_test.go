package main

import (
	"context"
	"encoding/binary"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/zodb-dht/zodb_dht/internal/node"
)

// A request of any bytes is answered, or refused; nothing panics, and the peer stays well.
func FuzzRequests(f *testing.F) {
	n, err := node.Open(f.Context(), node.Config{Path: filepath.Join(f.TempDir(), "peer"), Create: true})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = n.Close() }) // a broken one was told
	s := service{n}
	none := func(err error) ([]byte, error) { return nil, err }
	calls := []func(context.Context, *request) ([]byte, error){
		s.loadBefore, s.loadPinned, s.loadSerial, s.loadMany, s.loadRevisions, s.prefetch, s.history, s.current, s.vote, s.outcome,
		s.advance, s.blobFile, s.stageBlob, s.packBegin, s.packStep,
		func(ctx context.Context, r *request) ([]byte, error) { return s.transactions(ctx, r, n.Transactions) },
		func(ctx context.Context, r *request) ([]byte, error) {
			return s.transactions(ctx, r, n.TransactionsBackwards)
		},
		func(ctx context.Context, r *request) ([]byte, error) { return none(s.restore(ctx, r)) },
		func(ctx context.Context, r *request) ([]byte, error) { return none(n.Abort(ctx, r.id())) },
		func(ctx context.Context, r *request) ([]byte, error) { n.Unpin(r.uint64()); return nil, r.err },
	}
	u := func(v ...uint64) (b []byte) {
		for _, x := range v {
			b = binary.BigEndian.AppendUint64(b, x)
		}
		return b
	}
	field := []byte{1, 0, 0, 0, 'x'}
	fields := slices.Concat(field, field, field)
	for op := range calls {
		f.Add(byte(op), u(1, 1<<63, 0, 5))
		f.Add(byte(op), slices.Concat(u(1, 2, 3, 4, 0), fields, u(1, 5, 0), field, u(1, 6, 0)))
		f.Add(byte(op), slices.Concat(u(1, 2, 1<<60), []byte{' '}, fields, u(2, 5), field, u(7), field))
		f.Add(byte(op), slices.Concat(u(1, 2, 1<<60), []byte{' '}, fields, u(1, 1<<64-1), []byte{0xff, 0xff, 0xff, 0xff}))
	}
	ended, cancel := context.WithCancel(f.Context())
	cancel()
	f.Fuzz(func(t *testing.T, op byte, b []byte) {
		ctx := ended
		if int(op)%len(calls) != 9 { // a vote would wait for others
			ctx = t.Context()
		}
		_, err := calls[int(op)%len(calls)](ctx, &request{b: b})
		if code, _ := classify(err); err != nil && (code == "broken" || code == "corrupt") {
			t.Fatal(err)
		}
		n.PackEnd()
		if err := n.Broken(); err != nil {
			t.Fatal(err)
		}
		if report, err := n.Verify(t.Context(), nil); err != nil || len(report.Damaged) > 0 {
			t.Fatal(report.Damaged, err)
		}
		if err := n.Drain(t.Context()); err != nil && errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	})
}
