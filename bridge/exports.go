//go:build python

package main

// #cgo CFLAGS: -DPy_LIMITED_API=0x030A0000 -fvisibility=hidden
// #include <stdlib.h>
// #include <string.h>
// #include "bridge.h"
// #include "latch.h"
import "C"

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/zodb-dht/zodb_dht/internal/index"
	"github.com/zodb-dht/zodb_dht/internal/node"
	"github.com/zodb-dht/zodb_dht/internal/replica"
	"github.com/zodb-dht/zodb_dht/internal/zodb"
)

func main() {}

// callTimeout is the deadline of a call that brings none: longer than every wait inside.
const callTimeout = 15 * time.Minute

// guard ends an export that panics: that node is poisoned, and the call becomes an error.
func guard(name string, h uint64, failed func(error)) {
	p := recover()
	if p == nil {
		return
	}
	err := error(&replica.Broken{Cause: fmt.Errorf("panic in %s: %v\n%s", name, p, debug.Stack())})
	if n := nodeOf(h); n != nil {
		n.Poison(err)
	}
	failed(err)
}

// newest, as a snapshot, is whatever is visible at the moment.
const newest = 1<<64 - 1

// zd_try_load copies a record that is in memory; -1: not there, or larger than cap, or closed; -2: a panic.
//
//export zd_try_load
func zd_try_load(h, oid, at C.uint64_t, buf *C.char, size C.size_t, tid *C.uint64_t) (n C.int64_t) {
	defer guard("try_load", uint64(h), func(error) { n = -2 })
	trip("zd_try_load")
	nd := nodeOf(uint64(h))
	if nd == nil {
		return -1
	}
	if at == newest {
		at = C.uint64_t(nd.Visible())
	}
	got, t, ok := nd.TryLoad(zodb.Oid(oid), zodb.Tid(at), unsafe.Slice((*byte)(unsafe.Pointer(buf)), int(size)))
	if !ok {
		return -1
	}
	*tid = C.uint64_t(t)
	return C.int64_t(got)
}

// zd_load reads a record that is not in memory; -1: zd_call has to say why not, or the record is larger than cap; -2:
// a panic.
//
//export zd_load
func zd_load(h, oid, at C.uint64_t, buf *C.char, size C.size_t, tid *C.uint64_t) (n C.int64_t) {
	defer guard("load", uint64(h), func(error) { n = -2 })
	trip("zd_load")
	nd := nodeOf(uint64(h))
	if nd == nil {
		return -1
	}
	if at == newest {
		at = C.uint64_t(nd.Visible())
	}
	got, t, err := nd.LoadTo(context.Background(), zodb.Oid(oid), zodb.Tid(at), unsafe.Slice((*byte)(unsafe.Pointer(buf)), int(size)))
	if err != nil || got > int(size) {
		return -1
	}
	*tid = C.uint64_t(t)
	return C.int64_t(got)
}

// zd_visible is the last transaction that readers see; -1: the node is closed, -2: a panic.
//
//export zd_visible
func zd_visible(h C.uint64_t, tid *C.uint64_t) (code C.int) {
	defer guard("visible", uint64(h), func(error) { code = -2 })
	trip("zd_visible")
	nd := nodeOf(uint64(h))
	if nd == nil {
		return -1
	}
	*tid = C.uint64_t(nd.Visible())
	return 0
}

// zd_call makes one call on the caller's thread. The request is C's and is not kept.
//
//export zd_call
func zd_call(op C.int, h C.uint64_t, req *C.char, size C.size_t, out *C.zd_reply) {
	fail := func(err error) { reply(out, nil, err) }
	defer guard(opName(int(op)), uint64(h), fail)
	trip("zd_call")
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	data, err := call(ctx, int(op), uint64(h), unsafe.Slice((*byte)(unsafe.Pointer(req)), int(size)))
	reply(out, data, err)
}

// zd_finish starts the commit of a voted transaction (id: 16 bytes) and opens the latch when it has ended, by the latest after
// finish-timeout. The latch is C's until then.
//
//export zd_finish
func zd_finish(h C.uint64_t, id *C.char, hold C.int, latch *C.zd_latch) {
	var opened atomic.Bool
	done := func(tid zodb.Tid, err error) {
		if opened.Swap(true) {
			return
		}
		out := new(C.zd_reply)
		reply(out, nil, err)
		C.zd_latch_open(latch, C.uint64_t(tid), out)
	}
	defer guard("finish", uint64(h), func(err error) { done(0, err) })
	trip("zd_finish")
	n := nodeOf(uint64(h))
	if n == nil {
		done(0, index.ErrClosed)
		return
	}
	n.StartFinish(zodb.TxnID(unsafe.Slice((*byte)(unsafe.Pointer(id)), len(zodb.TxnID{}))), hold != 0, done)
}

// waiting is a call that runs in a goroutine of its own while its thread looks for signals. C waits until it is done, also after
// a cancel: so C's request stays as long as it is read, and C owns the goroutine.
type waiting struct {
	h      uint64
	cancel context.CancelFunc
	done   chan struct{}
	data   []byte
	err    error
}

//nolint:gochecknoglobals // C, which started a call, can find it only here
var (
	waits    sync.Map // token -> *waiting; each is removed by the zd_wait that sees its end
	lastWait atomic.Uint64
)

func waitingOf(token C.uint64_t) *waiting {
	v, _ := waits.Load(uint64(token))
	w, _ := v.(*waiting)
	return w
}

// zd_start begins a call and returns a token for zd_wait.
//
//export zd_start
func zd_start(op C.int, h C.uint64_t, req *C.char, size C.size_t) (token C.uint64_t) {
	defer guard("start", uint64(h), func(err error) {
		w := &waiting{h: uint64(h), cancel: func() {}, done: make(chan struct{}), err: err}
		close(w.done)
		token = C.uint64_t(lastWait.Add(1))
		waits.Store(uint64(token), w)
	})
	trip("zd_start")
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	w := &waiting{h: uint64(h), cancel: cancel, done: make(chan struct{})}
	token = C.uint64_t(lastWait.Add(1))
	waits.Store(uint64(token), w)
	b := unsafe.Slice((*byte)(unsafe.Pointer(req)), int(size))
	go func() {
		defer close(w.done)
		defer guard(opName(int(op)), uint64(h), func(err error) { w.err = err })
		trip("waiting")
		w.data, w.err = call(ctx, int(op), uint64(h), b)
	}()
	return token
}

// zd_wait waits for a call's end, at most ms milliseconds; 0: not yet.
//
//export zd_wait
func zd_wait(token C.uint64_t, ms C.int, out *C.zd_reply) (done C.int) {
	w := waitingOf(token)
	if w == nil {
		reply(out, nil, errRequest)
		return 1
	}
	defer guard("wait", w.h, func(err error) {
		w.cancel()
		<-w.done // it reads C's request
		waits.Delete(uint64(token))
		reply(out, nil, err)
		done = 1
	})
	trip("zd_wait")
	timer := time.NewTimer(time.Duration(ms) * time.Millisecond)
	defer timer.Stop()
	select {
	case <-w.done:
	case <-timer.C:
		return 0
	}
	w.cancel()
	waits.Delete(uint64(token))
	reply(out, w.data, w.err)
	return 1
}

// zd_cancel ends a call's waiting; zd_wait still has to see its end.
//
//export zd_cancel
func zd_cancel(token C.uint64_t) {
	w := waitingOf(token)
	if w == nil {
		return
	}
	defer guard("cancel", w.h, func(error) { w.cancel() })
	trip("zd_cancel")
	w.cancel()
}

// reply copies into memory of malloc, which C frees.
func reply(out *C.zd_reply, data []byte, err error) {
	out.ok = 1
	if err != nil {
		out.ok, data = 0, appendError(nil, err)
	}
	out.len, out.data = C.uint64_t(len(data)), nil
	if len(data) > 0 {
		out.data = (*C.char)(C.CBytes(data))
	}
}

func opName(op int) string { return fmt.Sprintf("call %d", op) }

func call(ctx context.Context, op int, h uint64, b []byte) ([]byte, error) {
	r := &request{b: b}
	if op == C.ZD_OPEN {
		return open(ctx, r)
	}
	n := nodeOf(h)
	if n == nil {
		return nil, index.ErrClosed
	}
	s := service{n}
	switch op {
	case C.ZD_LOAD_BEFORE:
		return s.loadBefore(ctx, r)
	case C.ZD_LOAD_SERIAL:
		return s.loadSerial(ctx, r)
	case C.ZD_LOAD_MANY:
		return s.loadMany(ctx, r)
	case C.ZD_LOAD_REVISIONS:
		return s.loadRevisions(ctx, r)
	case C.ZD_PREFETCH:
		return s.prefetch(ctx, r)
	case C.ZD_HISTORY:
		return s.history(ctx, r)
	case C.ZD_TRANSACTIONS:
		return s.transactions(ctx, r, n.Transactions)
	case C.ZD_TRANSACTIONS_BACKWARDS:
		return s.transactions(ctx, r, n.TransactionsBackwards)
	case C.ZD_CURRENT:
		return s.current(ctx, r)
	case C.ZD_STATS:
		return s.stats()
	case C.ZD_BLOB_DIR:
		return appendBytes(nil, []byte(n.BlobDir())), nil
	case C.ZD_NEW_OIDS:
		first, err := n.NewOids(ctx, int(r.uint64()))
		return u64(nil, first), err
	case C.ZD_VOTE:
		return s.vote(ctx, r)
	case C.ZD_VOTE_NOW:
		return s.vote(ended(ctx), r)
	case C.ZD_PUBLISH:
		n.Publish(r.tid())
		return nil, nil
	case C.ZD_ABORT:
		return nil, n.Abort(ctx, r.id())
	case C.ZD_RESTORE:
		return nil, s.restore(ctx, r)
	case C.ZD_DRAIN:
		return nil, n.Drain(ctx)
	case C.ZD_OUTCOME:
		return s.outcome(ctx, r)
	case C.ZD_ADVANCE_NOW:
		if prev := zodb.Tid(binary.BigEndian.Uint64(b[max(0, len(b)-8):])); !n.Recent(prev) {
			return nil, nil
		}
		return s.advance(ctx, r)
	case C.ZD_ADVANCE:
		return s.advance(ctx, r)
	case C.ZD_LOAD_PINNED:
		return s.loadPinned(ctx, r)
	case C.ZD_UNPIN:
		n.Unpin(r.uint64())
		return nil, nil
	case C.ZD_PACK_BEGIN:
		return s.packBegin(ctx, r)
	case C.ZD_PACK_STEP:
		return s.packStep(ctx, r)
	case C.ZD_PACK_END:
		n.PackEnd()
		return nil, nil
	case C.ZD_STAGE_BLOB:
		return s.stageBlob(ctx, r)
	case C.ZD_STAGE_BLOB_NOW:
		return s.stageBlob(ended(ctx), r)
	case C.ZD_BLOB_FILE:
		return s.blobFile(ctx, r)
	case C.ZD_CLOSE:
		forget(h, n)
		return nil, n.Close()
	}
	return nil, fmt.Errorf("%w: operation %d", errRequest, op)
}

// ended is a context that has ended: who asks with it takes what is at hand, and waits for nothing.
func ended(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return ctx
}

// heapLimit is where Go's collector stops to let garbage double what is in use. Only large transactions come there: what they need is a few times
// their size, and as much garbage again would be kept.
const heapLimit = 200 << 20

// limitHeap sets it for the process, unless whoever started it has set GOMEMLIMIT, or the record cache lies in Go's heap, too: it has
// a mapping of its own on Linux alone.
func limitHeap() {
	if _, set := os.LookupEnv("GOMEMLIMIT"); !set && runtime.GOOS == "linux" {
		debug.SetMemoryLimit(heapLimit)
	}
}

func open(ctx context.Context, r *request) ([]byte, error) {
	limitHeap()
	path, settings := string(r.field()), r.field()
	if r.err != nil {
		return nil, r.err
	}
	cfg, err := node.ParseSettings(path, settings)
	if err != nil {
		return nil, err
	}
	n, err := node.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	h, err := handleOf(n)
	if err != nil {
		_ = n.Close() // the first error says more
		return nil, err
	}
	return u64(nil, zodb.Oid(h)), nil
}
