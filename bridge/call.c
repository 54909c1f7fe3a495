//go:build python

// Calls of the core: with the GIL released or kept, and with looks for signals where they wait.

#include "call.h"

#include <stdlib.h>
#include <string.h>

extern uint64_t zd_start(int op, uint64_t h, char *req, size_t size);
extern int zd_wait(uint64_t token, int ms, zd_reply *out);
extern void zd_cancel(uint64_t token);

#define SLICE_MS 50 // between two looks for signals

volatile int forked;

// lost takes back what a call began whose answer nobody gets, since a signal's handler raised meanwhile: its caller never will.
static void lost(int op, uint64_t h, zd_reply *out) {
    zd_reply end = {0};
    answer a = {out->data, out->len, 0};
    switch (op) {
    case ZD_OPEN:
        op = ZD_CLOSE;
        h = get_u64(&a);
        break;
    case ZD_PACK_BEGIN:
        if (!*get(&a, 1)) return; // there was nothing to pack
        op = ZD_PACK_END;
        break;
    default:
        return; // what a transaction did ends with it
    }
    Py_BEGIN_ALLOW_THREADS
    zd_call(op, h, NULL, 0, &end);
    Py_END_ALLOW_THREADS
    free(end.data);
}

// call sends r and frees it; 0: out holds an answer that the caller frees. waits: the thread looks for signals meanwhile.
int call(int op, uint64_t h, request *r, zd_reply *out, int waits) {
    int failed = r->failed || after_fork();
    memset(out, 0, sizeof *out);
    if (failed) {
        free(r->p);
        return -1;
    }
    if (waits) {
        uint64_t token;
        int done, stop = 0;
        Py_BEGIN_ALLOW_THREADS
        token = zd_start(op, h, r->p, r->len);
        done = zd_wait(token, SLICE_MS, out);
        Py_END_ALLOW_THREADS
        while (!done) {
            if (!stop && PyErr_CheckSignals() < 0) {
                stop = 1; // the exception of the signal's handler is set; the call is ended, then waited for
                zd_cancel(token);
            }
            Py_BEGIN_ALLOW_THREADS
            done = zd_wait(token, SLICE_MS, out);
            Py_END_ALLOW_THREADS
        }
        free(r->p);
        if (stop) {
            if (out->ok) lost(op, h, out);
            free(out->data);
            return -1;
        }
    } else {
        Py_BEGIN_ALLOW_THREADS
        zd_call(op, h, r->p, r->len, out);
        Py_END_ALLOW_THREADS
        free(r->p);
    }
    if (out->ok) return 0;
    raise_reply(out);
    free(out->data);
    return -1;
}

// call_now asks, on this thread, what answers busy where it would wait: then it returns 1, and r is as it was. Else as call.
int call_now(int op, uint64_t h, request *r, zd_reply *out, int gil) {
    memset(out, 0, sizeof *out);
    if (r->failed || after_fork()) {
        free(r->p);
        return -1;
    }
    if (gil) {
        zd_call(op, h, r->p, r->len, out);
    } else {
        Py_BEGIN_ALLOW_THREADS
        zd_call(op, h, r->p, r->len, out);
        Py_END_ALLOW_THREADS
    }
    if (out->ok) {
        free(r->p);
        return 0;
    }
    answer e = {out->data, out->len, 0};
    char *code = dup_text(&e);
    int busy = code && strcmp(code, "busy") == 0;
    free(code);
    if (!busy) {
        raise_reply(out);
        free(r->p);
    }
    free(out->data);
    return busy ? 1 : -1;
}

PyObject *call_none(int op, uint64_t h, request *r, int waits) {
    zd_reply out;
    if (call(op, h, r, &out, waits) < 0) return NULL;
    free(out.data);
    Py_RETURN_NONE;
}

// call_at_once keeps the GIL: for what takes a lock for a moment.
PyObject *call_at_once(int op, uint64_t h, request *r) {
    zd_reply out = {0};
    if (r->failed || after_fork()) {
        free(r->p);
        return NULL;
    }
    zd_call(op, h, r->p, r->len, &out);
    free(r->p);
    if (!out.ok) raise_reply(&out);
    free(out.data);
    if (!out.ok) return NULL;
    Py_RETURN_NONE;
}
