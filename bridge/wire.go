package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/zodb-dht/zodb_dht/internal/block"
	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/node"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

// Requests and answers; oids, tids and counts are u64 big-endian as ZODB has them, lengths u32 little-endian, "bytes" a
// length and that many bytes, "?bytes" the length 2^32-1 for None. request.c and answer.c are the other end, built from the same
// tree.
//
//	load_before   oid, before               -> tid, next (0: None), bytes  | nothing: None
//	load_pinned   oid, at, quiet 1          -> tid, next (0: None), bytes  | nothing, if quiet: newer than at
//	load_serial   oid, tid                  -> bytes
//	load_many     at, oid ...               -> per oid: tid (0: none), bytes
//	load_revisions  limit, repeats 1, (oid, tid) ...  -> per revision, of the first ones: zodb.WriteKind 1 (0: none), bytes, and what it repeats, if
//	                                        that is asked for: tid (0: none)
//	prefetch      at, oid ...               -> nothing
//	history       oid, size                 -> per revision: tid, size, bytes user, description, extension
//	transactions  start, stop, limit        -> per transaction: tid, status 1, bytes user, description, extension, count 8, oid ...
//	... backwards start, stop, limit        -> the same, newest first
//	current       oid, limit                -> per object: oid, tid, bytes
//	stats         -                         -> JSON
//	new_oids      count                     -> oid
//	vote          txn id 16, thread, snapshot, now 8 (ns since 1970, 0: the core's clock), bytes user, description, extension, count 8 x (oid, base, ?bytes), count 8 x (oid, serial)
//	                                        -> per conflict: oid, base, committed, bytes, ?bytes
//	finish        txn id 16, hold 1         -> tid
//	publish       tid                       -> nothing
//	abort         txn id 16                 -> nothing
//	restore       txn id 16, tid, status 1, bytes user, description, extension, count 8 x (oid, ?bytes) -> nothing
//	outcome       txn id 16                 -> verdict 1 (1 committed, 2 refused), tid | nothing: unknown
//	advance       reader, thread, prev (all ones: none) -> now, known 1, per change: oid, tid
//	unpin         reader                    -> nothing
//	pack_begin    to, references 1, thread  -> begun 1      references: 0 none, 1 the caller's, 2 ZODB's
//	pack_step     oid ...                   -> bytes phase, done, total, finished 1, per record: oid, tid, bytes
//	pack_end      -                         -> nothing
//	stage_blob    txn id 16, oid, keep 1, bytes path -> nothing
//	blob_dir      -                         -> bytes path
//	blob_file     oid, tid, whole 1         -> bytes path
type request struct {
	b   []byte
	err error
}

const none = 1<<32 - 1

var errRequest = errors.New("a request of the extension is cut off")

func (r *request) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.err, r.b = errRequest, nil
		return make([]byte, max(0, min(n, 16)))
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *request) uint64() uint64 { return binary.BigEndian.Uint64(r.take(8)) }
func (r *request) byte() byte     { return r.take(1)[0] }
func (r *request) oid() zodb.Oid  { return zodb.Oid(r.uint64()) }

// tid clamps what no transaction can have: ZODB asks for "the newest" by all ones, too.
func (r *request) tid() zodb.Tid { return min(zodb.Tid(r.uint64()), zodb.MaxTid) }

func (r *request) id() zodb.TxnID { return zodb.TxnID(r.take(16)) }

func (r *request) bytes() ([]byte, bool) {
	n := binary.LittleEndian.Uint32(r.take(4))
	if n == none {
		return nil, false
	}
	b := r.take(int(n))
	return b[:min(len(b), int(n))], true
}

func (r *request) field() []byte { b, _ := r.bytes(); return b }

func (r *request) oids() []zodb.Oid {
	oids := make([]zodb.Oid, len(r.b)/8)
	for i := range oids {
		oids[i] = r.oid()
	}
	return oids
}

// keys takes all that is left.
func (r *request) keys() []index.RevisionKey {
	keys := make([]index.RevisionKey, len(r.b)/16)
	for i := range keys {
		keys[i] = index.RevisionKey{Oid: r.oid(), Tid: r.tid()}
	}
	return keys
}

func u64[T ~uint64](dst []byte, v T) []byte { return binary.BigEndian.AppendUint64(dst, uint64(v)) }

// service makes calls on one node. op is one of bridge.h's.
type service struct{ n *node.Node }

func (s service) loadBefore(ctx context.Context, r *request) ([]byte, error) {
	oid, before := r.oid(), r.tid()
	if r.err != nil {
		return nil, r.err
	}
	var rev index.Revision
	err := s.newest(max(before, 1)-1, func(at zodb.Tid) (err error) { // no tid is 0: nothing lies at or before it
		rev, err = s.n.Load(ctx, oid, at)
		return err
	})
	if errors.Is(err, index.ErrNoRevision) {
		return nil, nil
	}
	if err != nil {
		return nil, aboutOid(oid, fmt.Errorf("load oid %s before tid %s: %w", oid, before, err))
	}
	dst := make([]byte, 0, 20+len(rev.Data))
	return appendBytes(u64(u64(dst, rev.Tid), rev.Next), rev.Data), nil
}

// newest reads at what is visible, but not behind last; anew if a pack passed that meanwhile, where no pin held it up.
func (s service) newest(last zodb.Tid, read func(at zodb.Tid) error) error {
	for {
		at := min(last, s.n.Visible())
		if err := read(at); at == last || !s.n.Overtaken(at) {
			return err
		}
	}
}

func (s service) loadSerial(ctx context.Context, r *request) ([]byte, error) {
	oid, tid := r.oid(), r.tid()
	rev, err := s.n.LoadSerial(ctx, oid, tid)
	if err != nil {
		return nil, aboutOid(oid, fmt.Errorf("load oid %s at tid %s: %w", oid, tid, err))
	}
	return appendBytes(nil, rev.Data), nil
}

func (s service) prefetch(ctx context.Context, r *request) ([]byte, error) {
	at := min(r.tid(), s.n.Visible())
	return nil, s.n.Prefetch(ctx, r.oids(), at)
}

func (s service) loadMany(ctx context.Context, r *request) ([]byte, error) {
	at, oids := r.tid(), r.oids()
	var revs []index.Revision
	var errs []error
	_ = s.newest(at, func(at zodb.Tid) error {
		revs, errs = s.n.LoadBatch(ctx, oids, at)
		return nil
	})
	var dst []byte
	for i := range revs {
		err := errs[i]
		if errors.Is(err, index.ErrNotFound) || errors.Is(err, index.ErrNoRevision) {
			revs[i], err = index.Revision{}, nil
		}
		if err != nil {
			return nil, err
		}
		dst = appendBytes(u64(dst, revs[i].Tid), revs[i].Data)
	}
	return dst, nil
}

func (s service) loadRevisions(ctx context.Context, r *request) ([]byte, error) {
	limit, repeats := r.uint64(), r.byte() != 0
	revs, older, err := s.n.LoadRevisions(ctx, r.keys(), int(min(limit, 1<<30)), repeats)
	size := 0
	for i := range revs {
		size += 13 + len(revs[i].Data)
	}
	dst := make([]byte, 0, size)
	for i := range revs {
		dst = appendBytes(append(dst, byte(revs[i].Kind)), revs[i].Data)
		if repeats {
			dst = u64(dst, older[i])
		}
	}
	return dst, err
}

func (s service) history(ctx context.Context, r *request) ([]byte, error) {
	oid, size := r.oid(), r.uint64()
	for {
		dst, packed, err := s.readHistory(ctx, oid, int(min(size, 1<<31)))
		if err != nil {
			return nil, aboutOid(oid, fmt.Errorf("history of oid %s: %w", oid, err))
		}
		if !packed || len(dst) > 0 { // else all of it went, and newer revisions, if there are any, were not seen
			return dst, nil
		}
	}
}

// readHistory ends at the first revision that a pack took meanwhile, and all that is older with it: packed.
func (s service) readHistory(ctx context.Context, oid zodb.Oid, size int) (dst []byte, packed bool, _ error) {
	horizon := s.n.Stats().Horizon
	revs, err := s.n.History(ctx, oid, size)
	if err != nil {
		return nil, false, err
	}
	for _, rev := range revs {
		hs, err := s.n.Transactions(ctx, rev.Tid, rev.Tid, 1)
		if err != nil {
			return nil, false, err
		}
		if now := s.n.Stats().Horizon; len(hs) != 1 && now > horizon && rev.Tid <= now {
			return dst, true, nil
		}
		if len(hs) != 1 {
			return nil, false, &index.Corrupt{Oid: oid, Tid: rev.Tid, Cause: errors.New("its transaction is missing")}
		}
		dst = u64(u64(dst, rev.Tid), uint64(rev.Size))
		dst = appendFields(dst, &hs[0])
	}
	return dst, false, nil
}

func appendFields(dst []byte, h *index.Header) []byte {
	return appendBytes(appendBytes(appendBytes(dst, h.User), h.Description), h.Extension)
}

type readHeaders func(ctx context.Context, from, to zodb.Tid, n int) ([]index.Header, error)

func (s service) transactions(ctx context.Context, r *request, read readHeaders) ([]byte, error) {
	start, stop, limit := r.tid(), r.tid(), r.uint64()
	hs, err := read(ctx, start, stop, int(min(limit, 1<<20)))
	return appendHeaders(hs), err
}

func appendHeaders(hs []index.Header) (dst []byte) {
	for i := range hs {
		dst = append(u64(dst, hs[i].Tid), hs[i].Status)
		dst = u64(appendFields(dst, &hs[i]), uint64(len(hs[i].Oids)))
		for _, oid := range hs[i].Oids {
			dst = u64(dst, oid)
		}
	}
	return dst
}

func (s service) current(ctx context.Context, r *request) ([]byte, error) {
	from, limit := r.oid(), r.uint64()
	revs, err := s.n.Current(ctx, from, int(min(limit, 1<<20)))
	var dst []byte
	for i := range revs {
		dst = appendBytes(u64(u64(dst, revs[i].Oid), revs[i].Tid), revs[i].Data)
	}
	return dst, err
}

func (s service) stats() ([]byte, error) {
	st := s.n.Stats()
	return json.Marshal(map[string]any{
		"objects": st.Objects, "records": st.Records, "data_size": st.DataSize, "disk_size": s.n.DiskSize(),
		"last_tid": st.LastTid.String(), "applied": st.Applied, "digest": st.Digest.TxnCID().String(), "next_oid": uint64(st.NextOid),
		"horizon": st.Horizon.String(),
	})
}

func (s service) vote(ctx context.Context, r *request) ([]byte, error) {
	t := zodb.Txn{ID: r.id(), Thread: r.uint64(), Snapshot: r.tid(), Status: ' '}
	if now := r.uint64(); now > 0 {
		t.Tid = zodb.TidFromTime(time.Unix(0, int64(now)))
	}
	t.User, t.Description, t.Extension = r.field(), r.field(), r.field()
	n := r.uint64()
	if n > uint64(len(r.b)) {
		return nil, errRequest
	}
	t.Writes = make([]zodb.Write, n)
	for i := range t.Writes {
		w := &t.Writes[i]
		w.Oid, w.Base = r.oid(), zodb.Tid(r.uint64())
		r.data(w)
	}
	n = r.uint64()
	if n > uint64(len(r.b)) || r.err != nil {
		return nil, errRequest
	}
	t.Reads = make([]zodb.Read, n)
	for i := range t.Reads {
		t.Reads[i] = zodb.Read{Oid: r.oid(), Serial: zodb.Tid(r.uint64())}
	}
	if r.err != nil {
		return nil, r.err
	}
	conflicts, err := s.n.Vote(ctx, &t)
	var dst []byte
	for _, c := range conflicts {
		dst = appendBytes(u64(u64(u64(dst, c.Oid), c.Base), c.Committed), c.CommittedData)
		if c.BaseData == nil {
			dst = binary.LittleEndian.AppendUint32(dst, none)
		} else {
			dst = appendBytes(dst, c.BaseData)
		}
	}
	return dst, err
}

func (s service) restore(ctx context.Context, r *request) error {
	t := zodb.Txn{ID: r.id(), Tid: zodb.Tid(r.uint64()), Status: r.byte()}
	t.User, t.Description, t.Extension = r.field(), r.field(), r.field()
	n := r.uint64()
	if n > uint64(len(r.b)) || r.err != nil {
		return errRequest
	}
	t.Writes = make([]zodb.Write, n)
	for i := range t.Writes {
		w := &t.Writes[i]
		w.Oid = r.oid()
		r.data(w)
	}
	if r.err != nil {
		return r.err
	}
	return s.n.Restore(ctx, &t)
}

// data reads what a write writes: None deletes.
func (r *request) data(w *zodb.Write) {
	var ok bool
	w.Kind = zodb.WriteDelete
	if w.Data, ok = r.bytes(); ok {
		w.Kind, w.Hash = zodb.WriteData, block.Sum(w.Data)
	}
}

func (s service) outcome(ctx context.Context, r *request) ([]byte, error) {
	o, ok, err := s.n.Outcome(ctx, r.id())
	if err != nil || !ok {
		return nil, err
	}
	if o.Verdict == index.Committed {
		return u64([]byte{1}, o.Tid), nil
	}
	return u64([]byte{2}, zodb.Tid(0)), nil
}

func (s service) stageBlob(ctx context.Context, r *request) ([]byte, error) {
	id, oid, keep, path := r.id(), r.oid(), r.byte() != 0, string(r.field())
	if r.err != nil {
		return nil, r.err
	}
	return nil, s.n.StageBlob(ctx, id, oid, path, keep)
}

func (s service) blobFile(ctx context.Context, r *request) ([]byte, error) {
	oid, tid, whole := r.oid(), zodb.Tid(r.uint64()), r.byte() != 0
	path, err := s.n.BlobFile(ctx, oid, tid, whole)
	if damage := new(index.Corrupt); errors.As(err, &damage) { // it says all that
		return nil, err
	}
	if err != nil {
		return nil, aboutOid(oid, fmt.Errorf("blob of oid %s at tid %s: %w", oid, tid, err))
	}
	return appendBytes(nil, []byte(path)), nil
}

func (s service) advance(ctx context.Context, r *request) ([]byte, error) {
	now, changed, known, err := s.n.Pin(ctx, r.uint64(), r.uint64(), zodb.Tid(r.uint64()))
	if err != nil {
		return nil, err
	}
	dst := u64(make([]byte, 0, 9+16*len(changed)), now)
	if !known {
		return append(dst, 0), nil
	}
	dst = append(dst, 1)
	for _, c := range changed {
		dst = u64(u64(dst, c.Oid), c.Tid)
	}
	return dst, nil
}
