package main

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"

	"github.com/zodb-dht/zodb_dht/internal/blob"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/node"
	"github.com/zodb-dht/zodb_dht/internal/replica"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// details are what an error's Python class carries besides its text: bytes or int values, in order.
type details []detail

type detail struct {
	key   string
	bytes []byte // nil: number counts
	num   int64
}

func tidDetail(key string, t zodb.Tid) detail { return detail{key: key, bytes: t.Bytes()} }

// errWrongProcess is the forked child's; C answers with it, too.
var errWrongProcess = errors.New("a peer was opened before this process was forked off, so it can open none")

// about is an error with the oid that the caller asked for: POSKeyError carries it.
type about struct {
	oid zodb.Oid
	error
}

func (e *about) Unwrap() error { return e.error }

func aboutOid(oid zodb.Oid, err error) error { return &about{oid, err} }

// codes is the one table from Go's errors to the names that zodb_dht.errors.CODES has classes for; the first that fits counts. A
// node's own failure stands before what it was caused by.
func codes() []struct {
	code string
	fits func(error) (details, bool)
} {
	is := func(target error) func(error) (details, bool) {
		return func(err error) (details, bool) { return nil, errors.Is(err, target) }
	}
	return []struct {
		code string
		fits func(error) (details, bool)
	}{
		{"in_doubt", func(err error) (details, bool) {
			var e *replica.InDoubt
			if !errors.As(err, &e) {
				return nil, false
			}
			return details{{key: "txn", bytes: e.Txn[:]}}, true
		}},
		{"broken", func(err error) (details, bool) { var e *replica.Broken; return nil, errors.As(err, &e) }},
		{"read_conflict", func(err error) (details, bool) {
			var e *replica.StaleRead
			if !errors.As(err, &e) {
				return nil, false
			}
			return details{{key: "oid", bytes: e.Oid.Bytes()}, tidDetail("serial", e.Serial), tidDetail("committed", e.Committed)}, true
		}},
		{"regressed", func(err error) (details, bool) {
			var e *replica.Refused
			return nil, errors.Is(err, node.ErrRegressed) || errors.As(err, &e) && e.Outcome.Verdict == index.Regressed
		}},
		{"corrupt", func(err error) (details, bool) {
			var e *index.Corrupt
			if !errors.As(err, &e) {
				return nil, false
			}
			return details{{key: "oid", bytes: e.Oid.Bytes()}, tidDetail("tid", e.Tid), {key: "cid", bytes: append([]byte{}, e.CID()...)}, {key: "file", bytes: append([]byte{}, e.File...)}}, true
		}},
		{"in_use", func(err error) (details, bool) {
			var e *node.InUse
			if !errors.As(err, &e) {
				return nil, false
			}
			return details{{key: "pid", num: int64(e.PID)}}, true
		}},
		{"too_old", is(node.ErrTooOld)},
		{"vote_lost", func(err error) (details, bool) {
			var e *replica.Refused
			return nil, errors.Is(err, replica.ErrVoteLost) || errors.As(err, &e)
		}},
		{"busy", is(replica.ErrBusy)},
		{"unavailable", is(replica.ErrUnavailable)},
		{"packed", func(err error) (details, bool) {
			var e *node.PackedAway
			if !errors.As(err, &e) {
				return nil, false
			}
			return details{{key: "oid", bytes: e.Oid.Bytes()}, tidDetail("tid", e.At)}, true
		}},
		{"behind", is(replica.ErrBehind)},
		{"packing", is(node.ErrPacking)},
		{"not_found", oidOf(index.ErrNotFound)},
		{"no_revision", oidOf(index.ErrNoRevision)},
		{"closed", is(index.ErrClosed)},
		{"closed", is(replica.ErrClosed)},
		{"wrong_process", is(errWrongProcess)},
		{"read_only", is(node.ErrReadOnly)},
		{"too_large", is(node.ErrTooLarge)},
		{"newer_format", is(index.ErrNewerFormat)},
		{"not_a_directory", is(node.ErrNotDirectory)},
		{"no_peer", is(node.ErrNoPeer)},
		{"permission", is(node.ErrPermission)},
		{"permission", is(fs.ErrPermission)},
		{"usage", is(node.ErrUsage)},
		{"usage", is(node.ErrID)},
		{"usage", is(blob.ErrForeign)},
		{"blob_changed", is(blob.ErrChanged)},
		{"in_use", is(blob.ErrInUse)},
		{"unavailable", is(context.DeadlineExceeded)},
		{"interrupted", is(context.Canceled)},
	}
}

// oidOf fits target, and tells the oid that was asked for.
func oidOf(target error) func(error) (details, bool) {
	return func(err error) (details, bool) {
		var e *about
		if errors.As(err, &e) {
			return details{{key: "oid", bytes: e.oid.Bytes()}}, errors.Is(err, target)
		}
		return nil, errors.Is(err, target)
	}
}

// classify names an error; one that no row fits is "failed".
func classify(err error) (string, details) {
	for _, row := range codes() {
		if d, ok := row.fits(err); ok {
			return row.code, d
		}
	}
	return "failed", nil
}

// appendError encodes an error (u32 little-endian lengths):
//
//	| code bytes | message bytes | count 4 x ( key bytes | kind 1: 0 bytes, 1 int | bytes or i64 ) |
func appendError(dst []byte, err error) []byte {
	code, ds := classify(err)
	dst = appendBytes(dst, []byte(code))
	dst = appendBytes(dst, []byte(err.Error()))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(ds)))
	for _, d := range ds {
		dst = appendBytes(dst, []byte(d.key))
		if d.bytes != nil {
			dst = appendBytes(append(dst, 0), d.bytes)
		} else {
			dst = binary.LittleEndian.AppendUint64(append(dst, 1), uint64(d.num))
		}
	}
	return dst
}

func appendBytes(dst, b []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(dst, uint32(len(b))), b...)
}
