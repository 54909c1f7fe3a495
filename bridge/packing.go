package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/node"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// loadPinned loads for a view's snapshot.
func (s service) loadPinned(ctx context.Context, r *request) ([]byte, error) {
	oid, at, quiet := r.oid(), r.tid(), r.byte() != 0
	if r.err != nil {
		return nil, r.err
	}
	rev, err := s.n.LoadPinned(ctx, oid, at)
	if quiet && errors.Is(err, index.ErrNoRevision) {
		return nil, nil
	}
	if err != nil {
		return nil, aboutOid(oid, fmt.Errorf("load oid %s at tid %s: %w", oid, at, err))
	}
	dst := make([]byte, 0, 20+len(rev.Data))
	return appendBytes(u64(u64(dst, rev.Tid), rev.Next), rev.Data), nil
}

func (s service) packBegin(ctx context.Context, r *request) ([]byte, error) {
	to, refs, thread := r.tid(), node.References(r.byte()), r.uint64()
	if r.err != nil {
		return nil, r.err
	}
	begun, err := s.n.PackBegin(ctx, to, refs, thread)
	if begun {
		return []byte{1}, err
	}
	return []byte{0}, err
}

func (s service) packStep(ctx context.Context, r *request) ([]byte, error) {
	step, err := s.n.PackStep(ctx, r.oids())
	if err != nil {
		return nil, err
	}
	size := 64
	for i := range step.Records {
		size += 20 + len(step.Records[i].Data)
	}
	dst := appendBytes(make([]byte, 0, size), []byte(step.Phase))
	dst = u64(u64(dst, zodb.Oid(step.Done)), zodb.Oid(step.Total))
	if step.Finished {
		dst = append(dst, 1)
	} else {
		dst = append(dst, 0)
	}
	for i := range step.Records {
		rev := &step.Records[i]
		dst = appendBytes(u64(u64(dst, rev.Oid), rev.Tid), rev.Data)
	}
	return dst, nil
}
