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
