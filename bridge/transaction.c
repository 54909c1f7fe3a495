//go:build python

// A transaction of a node, from its vote to its outcome, and one that is restored as it was elsewhere.

#include "node.h"
#include "latch.h"

#include <stdlib.h>
#include <string.h>

extern void zd_finish(uint64_t h, char *id, int hold, zd_latch *latch);

#define SMALL (16 * 1024) // a request that is answered from memory with the GIL kept

static void put_fields(request *r, PyObject *const *args) {
    put_bytes(r, args[0], 0, "user");
    put_bytes(r, args[1], 0, "description");
    put_bytes(r, args[2], 0, "extension");
}

// tuple_item returns item i of a tuple of exactly `size`, borrowed.
static PyObject *tuple_item(request *r, PyObject *t, Py_ssize_t size, Py_ssize_t i) {
    if (r->failed) return NULL;
    if (!PyTuple_Check(t) || PyTuple_Size(t) != size) {
        PyErr_Format(PyExc_TypeError, "a tuple of %zd was expected", size);
        r->failed = 1;
        return NULL;
    }
    return PyTuple_GetItem(t, i);
}

static PyObject *list_of(request *r, PyObject *seq) {
    if (r->failed) return NULL;
    PyObject *list = PyList_Check(seq) ? Py_NewRef(seq) : PySequence_List(seq);
    if (list) {
        put_u64(r, (uint64_t)PyList_Size(list));
    } else {
        r->failed = 1;
    }
    return list;
}

METHOD(node_vote) {
    request r = {0};
    zd_reply out;
    if (!nargs_is(n, 8, "vote")) return NULL;
    put_fixed(&r, args[0], 16, "a transaction id");
    put_u64(&r, (uint64_t)PyThread_get_thread_ident());
    put_fixed(&r, args[1], 8, "a snapshot");
    put_u64(&r, size_arg(args[2]));
    if (PyErr_Occurred()) r.failed = 1;
    args += 2;
    put_fields(&r, args + 1);
    PyObject *writes = list_of(&r, args[4]);
    for (Py_ssize_t i = 0; !r.failed && i < PyList_Size(writes); i++) {
        PyObject *t = PyList_GetItem(writes, i);
        put_fixed(&r, tuple_item(&r, t, 3, 0), 8, "an oid");
        put_fixed(&r, tuple_item(&r, t, 3, 1), 8, "a serial");
        put_bytes(&r, tuple_item(&r, t, 3, 2), 1, "data");
    }
    PyObject *reads = r.failed ? NULL : list_of(&r, args[5]);
    for (Py_ssize_t i = 0; !r.failed && i < PyList_Size(reads); i++) {
        PyObject *t = PyList_GetItem(reads, i);
        put_fixed(&r, tuple_item(&r, t, 2, 0), 8, "an oid");
        put_fixed(&r, tuple_item(&r, t, 2, 1), 8, "a serial");
    }
    Py_XDECREF(writes);
    Py_XDECREF(reads);
    // What is free is taken on this thread; only a vote that must wait pays for a goroutine and the looks for signals. It is in
    // memory: a small one takes microseconds, and where many threads commit, getting the GIL back takes ten times as long.
    int busy = call_now(ZD_VOTE_NOW, H(self), &r, &out, r.len <= SMALL);
    if (busy < 0 || (busy && call(ZD_VOTE, H(self), &r, &out, 1) < 0)) return NULL;
    answer a = {out.data, out.len, 0};
    PyObject *list = PyList_New(0);
    while (list && a.len && !a.bad) {
        PyObject *oid = get_fixed(&a, 8), *base = get_fixed(&a, 8), *committed = get_fixed(&a, 8);
        PyObject *data = get_bytes(&a), *old = get_bytes(&a), *item = NULL;
        if (oid && base && committed && data && old) item = PyTuple_Pack(5, oid, base, committed, data, old);
        Py_XDECREF(oid);
        Py_XDECREF(base);
        Py_XDECREF(committed);
        Py_XDECREF(data);
        Py_XDECREF(old);
        if (append(list, item) < 0) break;
    }
    return finished(&out, &a, list);
}

// finish is not interrupted: an interrupt would make the outcome unknown. It ends by finish-timeout.
METHOD(node_finish) {
    request r = {0};
    if (!nargs_is(n, 2, "finish")) return NULL;
    put_fixed(&r, args[0], 16, "a transaction id");
    int hold = r.failed ? -1 : PyObject_IsTrue(args[1]);
    if (hold < 0 || r.failed || after_fork()) {
        free(r.p);
        return NULL;
    }
    PyObject *tid = PyBytes_FromStringAndSize(NULL, 8); // first: without memory for it nothing is committed
    if (!tid) {
        free(r.p);
        return NULL;
    }
    zd_latch l = ZD_LATCH;
    uint64_t h = H(self);
    Py_BEGIN_ALLOW_THREADS
    zd_finish(h, r.p, hold, &l);
    zd_latch_wait(&l);
    Py_END_ALLOW_THREADS
    free(r.p);
    if (l.reply.ok) {
        char *p = PyBytes_AsString(tid); // nobody else has it so far
        for (int i = 7; i >= 0; i--, l.tid >>= 8) p[i] = (char)(l.tid & 0xff);
        return tid;
    }
    Py_DECREF(tid);
    raise_reply(&l.reply);
    free(l.reply.data);
    return NULL;
}

METHOD(node_publish) {
    request r = {0};
    if (!nargs_is(n, 1, "publish")) return NULL;
    put_fixed(&r, args[0], 8, "a tid");
    return call_at_once(ZD_PUBLISH, H(self), &r);
}

METHOD(node_abort) {
    request r = {0};
    if (!nargs_is(n, 1, "abort")) return NULL;
    put_fixed(&r, args[0], 16, "a transaction id");
    return call_none(ZD_ABORT, H(self), &r, 0);
}

METHOD(node_restore) {
    request r = {0};
    if (!nargs_is(n, 7, "restore")) return NULL;
    put_fixed(&r, args[0], 16, "a transaction id");
    put_fixed(&r, args[1], 8, "a tid");
    PyObject *status = r.failed ? NULL : PyUnicode_AsLatin1String(args[2]);
    if (!status) r.failed = 1;
    put_fixed(&r, status, 1, "a status");
    Py_XDECREF(status);
    put_fields(&r, args + 3);
    PyObject *writes = r.failed ? NULL : list_of(&r, args[6]);
    for (Py_ssize_t i = 0; !r.failed && i < PyList_Size(writes); i++) {
        PyObject *t = PyList_GetItem(writes, i);
        put_fixed(&r, tuple_item(&r, t, 2, 0), 8, "an oid");
        put_bytes(&r, tuple_item(&r, t, 2, 1), 1, "data");
    }
    Py_XDECREF(writes);
    return call_none(ZD_RESTORE, H(self), &r, 1);
}

METHOD(node_drain) {
    request r = {0};
    if (!nargs_is(n, 0, "drain")) return NULL;
    return call_none(ZD_DRAIN, H(self), &r, 1);
}

METHOD(node_outcome) {
    request r = {0};
    zd_reply out;
    if (!nargs_is(n, 1, "outcome")) return NULL;
    put_fixed(&r, args[0], 16, "a transaction id");
    if (call(ZD_OUTCOME, H(self), &r, &out, 0) < 0) return NULL;
    if (!out.len) {
        free(out.data);
        Py_RETURN_NONE;
    }
    answer a = {out.data, out.len, 0};
    const char *name = *get(&a, 1) == 1 ? "committed" : "refused";
    return finished(&out, &a, Py_BuildValue("(sN)", name, get_fixed(&a, 8)));
}
