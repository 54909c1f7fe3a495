//go:build python

// The type Node, an open peer directory: its methods, what it tells of itself, its end.

#include "node.h"

#include <stdlib.h>

extern int zd_visible(uint64_t h, uint64_t *tid);

// visible is zd_visible with an exception.
int visible(uint64_t h, uint64_t *tid) {
    int code = zd_visible(h, tid);
    if (code == -1) raise_code("closed", "the peer directory is closed", NULL);
    if (code == -2) raise_panic();
    return code;
}

static METHOD(node_last_tid) {
    if (!nargs_is(n, 0, "last_tid") || after_fork()) return NULL;
    uint64_t tid;
    return visible(H(self), &tid) < 0 ? NULL : tid_bytes(tid);
}

static METHOD(node_stats) {
    request r = {0};
    zd_reply out;
    if (!nargs_is(n, 0, "stats")) return NULL;
    if (call(ZD_STATS, H(self), &r, &out, 0) < 0) return NULL;
    PyObject *s = PyUnicode_FromStringAndSize(out.data, (Py_ssize_t)out.len);
    free(out.data);
    return s;
}

static METHOD(node_new_oids) {
    request r = {0};
    zd_reply out;
    if (!nargs_is(n, 1, "new_oids")) return NULL;
    put_u64(&r, size_arg(args[0]));
    if (PyErr_Occurred()) r.failed = 1;
    if (call(ZD_NEW_OIDS, H(self), &r, &out, 0) < 0) return NULL;
    answer a = {out.data, out.len, 0};
    return finished(&out, &a, PyLong_FromUnsignedLongLong(get_u64(&a)));
}

static METHOD(node_close) {
    request r = {0};
    if (!nargs_is(n, 0, "close")) return NULL;
    if (!H(self)) Py_RETURN_NONE;
    if (after_fork()) return NULL;
    uint64_t h = H(self);
    H(self) = 0;
    return call_none(ZD_CLOSE, h, &r, 0);
}

static void node_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    uint64_t h = H(self);
    if (h && !forked) {
        zd_reply out = {0};
        Py_BEGIN_ALLOW_THREADS
        zd_call(ZD_CLOSE, h, NULL, 0, &out);
        Py_END_ALLOW_THREADS
        free(out.data);
    }
    Py_XDECREF(((Node *)self)->view_type);
    PyObject_Free(self);
    Py_DECREF(type);
}

#define FAST(name) {#name, (PyCFunction)(void (*)(void))node_##name, METH_FASTCALL, NULL}
static PyMethodDef node_methods[] = {
    FAST(view), FAST(load_before), FAST(load_serial), FAST(load_many), FAST(load_revisions), FAST(history), FAST(transactions),
    FAST(transactions_backwards), FAST(current), FAST(last_tid),
    FAST(stats), FAST(new_oids), FAST(vote), FAST(finish), FAST(publish), FAST(abort), FAST(restore), FAST(drain),
    FAST(outcome), FAST(stage_blob), FAST(blob_dir), FAST(blob_file), FAST(pack_begin), FAST(pack_step), FAST(pack_end), FAST(close), {NULL, NULL, 0, NULL},
};

static PyType_Slot node_slots[] = {{Py_tp_dealloc, node_dealloc}, {Py_tp_methods, node_methods}, {0, NULL}};
PyType_Spec node_spec = {"zodb_dht._core.Node", sizeof(Node), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, node_slots};
