//go:build python

// The type View: a reader's snapshot of a node, and the loads of it.

#include "node.h"

#include <stdlib.h>
#include <string.h>

extern int64_t zd_try_load(uint64_t h, uint64_t oid, uint64_t at, char *buf, size_t cap, uint64_t *tid);
extern int64_t zd_load(uint64_t h, uint64_t oid, uint64_t at, char *buf, size_t cap, uint64_t *tid);

#define NEWEST UINT64_MAX       // as a snapshot: whatever is visible at the moment
#define VIEW_BUFFER (32 * 1024) // a larger record takes the slow path

typedef struct {
    PyObject_HEAD
    Node *node; // keeps the node open
    uint64_t at;       // the snapshot, or NEWEST until the first advance
    int fixed;         // advance is not allowed
    int pinned;        // the node keeps the snapshot from being packed away
    uint64_t reader;   // who we are to the node's pins
    uint64_t tid;      // of tid_object: neighbours often share their transaction
    PyObject *tid_object;
    char buf[VIEW_BUFFER];
} View;

#define VIEW(self) ((View *)(self))

static uint64_t last_reader;

static uint64_t as_u64(const char *s) {
    uint64_t v = 0;
    for (int i = 0; i < 8; i++) v = v << 8 | (unsigned char)s[i];
    return v;
}

METHOD(node_view) {
    if (n > 1) {
        PyErr_SetString(PyExc_TypeError, "view() takes at most 1 argument");
        return NULL;
    }
    uint64_t at = NEWEST;
    int fixed = n == 1 && args[0] != Py_None;
    if (fixed) {
        char *p;
        Py_ssize_t len;
        if (PyBytes_AsStringAndSize(args[0], &p, &len) < 0) return NULL;
        if (len != 8) {
            PyErr_SetString(PyExc_ValueError, "a tid has 8 bytes");
            return NULL;
        }
        at = as_u64(p);
    }
    if (after_fork()) return NULL;
    if (!H(self)) {
        raise_code("closed", "the peer directory is closed", NULL);
        return NULL;
    }
    View *v = PyObject_New(View, (PyTypeObject *)((Node *)self)->view_type);
    if (!v) return NULL;
    Py_INCREF(self);
    v->node = (Node *)self;
    v->at = at;
    v->fixed = fixed;
    v->pinned = 0;
    v->reader = ++last_reader; // under the GIL
    v->tid = 0;
    v->tid_object = NULL;
    return (PyObject *)v;
}

// drop_pin takes a lock for a moment and keeps the GIL.
static void drop_pin(View *v) {
    if (!v->pinned) return;
    v->pinned = 0;
    if (forked || !v->node->h) return;
    zd_reply out = {0};
    char reader[8]; // on the stack: this may be the end of the view, where nobody hears of an error
    for (int i = 0; i < 8; i++) reader[i] = (char)(v->reader >> (56 - 8 * i));
    zd_call(ZD_UNPIN, v->node->h, reader, sizeof reader, &out);
    free(out.data);
}

static PyObject *view_unpin(PyObject *self, PyObject *unused) {
    (void)unused;
    if (after_fork()) return NULL;
    drop_pin(VIEW(self));
    Py_RETURN_NONE;
}

static void view_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    drop_pin(VIEW(self));
    Py_XDECREF(VIEW(self)->tid_object);
    Py_XDECREF((PyObject *)VIEW(self)->node);
    PyObject_Free(self);
    Py_DECREF(type);
}

// revision returns (data, tid).
static PyObject *revision(View *v, const char *buf, int64_t n, uint64_t tid) {
    PyObject *data = PyBytes_FromStringAndSize(buf, n), *t;
    if (!data) return NULL;
    t = PyTuple_New(2); // before v is looked at: it may collect garbage, whose finalizers may load from v
    if (!t) {
        Py_DECREF(data);
        return NULL;
    }
    PyTuple_SetItem(t, 0, data);
    if (tid != v->tid || !v->tid_object) {
        PyObject *fresh = tid_bytes(tid);
        if (!fresh) {
            Py_DECREF(t);
            return NULL;
        }
        Py_XDECREF(v->tid_object);
        v->tid_object = fresh;
        v->tid = tid;
    }
    PyTuple_SetItem(t, 1, Py_NewRef(v->tid_object));
    return t;
}

static PyObject *load_slowly(View *v, PyObject *oid, const char *p);

// load_at answers (data, tid), of a snapshot; with size 3, a None behind them, since a successor beyond the snapshot is not this reader's to
// see, and None where the object is newer than the snapshot.
static PyObject *load_at(uint64_t h, PyObject *oid, uint64_t at, Py_ssize_t size) {
    request r = {0};
    zd_reply out;
    put_fixed(&r, oid, 8, "an oid");
    put_u64(&r, at);
    put(&r, size == 3 ? "\1" : "\0", 1);
    if (call(ZD_LOAD_PINNED, h, &r, &out, 0) < 0) return NULL;
    if (!out.len) {
        free(out.data);
        Py_RETURN_NONE;
    }
    answer a = {out.data, out.len, 0};
    PyObject *t = get_fixed(&a, 8);
    get_u64(&a);
    PyObject *data = get_bytes(&a), *res = NULL;
    if (t && data) res = size == 2 ? PyTuple_Pack(2, data, t) : PyTuple_Pack(3, data, t, Py_None);
    Py_XDECREF(t);
    Py_XDECREF(data);
    return finished(&out, &a, res);
}

static PyObject *view_load(PyObject *self, PyObject *oid) {
    View *v = VIEW(self);
    char *p;
    Py_ssize_t len;
    uint64_t tid;
    if (PyBytes_AsStringAndSize(oid, &p, &len) < 0) return NULL;
    if (len != 8) {
        PyErr_Format(PyExc_ValueError, "an oid has 8 bytes, not %zd", len);
        return NULL;
    }
    if (after_fork()) return NULL;
    int64_t n = zd_try_load(v->node->h, as_u64(p), v->at, v->buf, VIEW_BUFFER, &tid);
    if (n == -2) {
        raise_panic();
        return NULL;
    }
    return n >= 0 ? revision(v, v->buf, n, tid) : load_slowly(v, oid, p);
}

// load_slowly reads what is not in memory, without the GIL.
static PyObject *load_slowly(View *v, PyObject *oid, const char *p) {
    char *buf = malloc(VIEW_BUFFER); // not the view's: another thread may run meanwhile. Nor the stack's: some threads have no more
    uint64_t tid, h = v->node->h, at = v->at;
    int64_t n;
    if (!buf) return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    n = zd_load(h, as_u64(p), at, buf, VIEW_BUFFER, &tid);
    Py_END_ALLOW_THREADS
    PyObject *found = n >= 0 ? revision(v, buf, n, tid) : NULL;
    free(buf);
    if (n >= 0) return found;
    if (n == -2) {
        raise_panic();
        return NULL;
    }
    // A large record, or an error: asked for again.
    if (at != NEWEST) return load_at(h, oid, at, 2);
    // The newest that is visible: one that is only committed is no revision so far, as for a snapshot.
    if (visible(h, &at) < 0) return NULL;
    return load_at(h, oid, at, 2);
}

static METHOD(view_load_before) {
    View *v = VIEW(self);
    if (!nargs_is(n, 2, "load_before")) return NULL;
    if (v->at != NEWEST && PyBytes_Check(args[1]) && PyBytes_Size(args[1]) == 8 && as_u64(PyBytes_AsString(args[1])) > v->at + 1) {
        return load_at(v->node->h, args[0], v->at, 3);
    }
    return load_before(v->node->h, args[0], args[1]);
}

static PyObject *view_prefetch(PyObject *self, PyObject *oids) {
    request r = {0};
    put_u64(&r, VIEW(self)->at);
    put_oids(&r, oids);
    return call_none(ZD_PREFETCH, VIEW(self)->node->h, &r, 0);
}

static PyObject *view_advance(PyObject *self, PyObject *own) {
    View *v = VIEW(self);
    request r = {0};
    zd_reply out;
    if (v->fixed) {
        PyErr_SetString(PyExc_ValueError, "a view of a fixed snapshot does not advance");
        return NULL;
    }
    PyObject *mine = PySet_New(own); // of tids
    if (!mine) return NULL;
    put_u64(&r, v->reader);
    put_u64(&r, (uint64_t)PyThread_get_thread_ident());
    put_u64(&r, v->at); // NEWEST: a new connection has nothing to forget
    // What is recent is in memory, and told with the GIL kept, as in node_vote.
    int told = 0;
    if (!r.failed && !forked) {
        memset(&out, 0, sizeof out);
        zd_call(ZD_ADVANCE_NOW, v->node->h, r.p, r.len, &out);
        told = out.ok && out.len;
        if (!told) free(out.data); // an error is told by the call below, too
    }
    if (told) {
        free(r.p);
    } else if (call(ZD_ADVANCE, v->node->h, &r, &out, 0) < 0) {
        Py_DECREF(mine);
        return NULL;
    }
    answer a = {out.data, out.len, 0};
    uint64_t now = get_u64(&a);
    v->pinned = 1; // from here on, whether or not there is memory for the list
    int known = *get(&a, 1);
    PyObject *list = known ? PyList_New(0) : Py_NewRef(Py_None);
    int filter = PySet_Size(mine) > 0;
    while (list && known && a.len && !a.bad) {
        PyObject *oid = get_fixed(&a, 8), *tid = filter ? get_fixed(&a, 8) : NULL;
        int skip = 0;
        if (filter) {
            skip = tid ? PySet_Contains(mine, tid) : -1;
            Py_XDECREF(tid);
        } else {
            get(&a, 8);
        }
        if (skip < 0 || !oid) {
            Py_XDECREF(oid);
            break;
        }
        if (skip) {
            Py_DECREF(oid);
        } else if (append(list, oid) < 0) {
            break;
        }
    }
    Py_DECREF(mine);
    PyObject *res = finished(&out, &a, list);
    if (res) v->at = now;
    return res;
}

static PyObject *view_at(PyObject *self, void *unused) {
    (void)unused;
    if (after_fork()) return NULL;
    uint64_t at = VIEW(self)->at;
    return at == NEWEST && visible(VIEW(self)->node->h, &at) < 0 ? NULL : tid_bytes(at);
}

static PyMethodDef view_methods[] = {
    {"load", view_load, METH_O, NULL},
    {"load_before", (PyCFunction)(void (*)(void))view_load_before, METH_FASTCALL, NULL},
    {"prefetch", view_prefetch, METH_O, NULL},
    {"advance", view_advance, METH_O, NULL},
    {"unpin", view_unpin, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef view_getset[] = {{"at", view_at, NULL, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}};

static PyType_Slot view_slots[] = {
    {Py_tp_dealloc, view_dealloc}, {Py_tp_methods, view_methods}, {Py_tp_getset, view_getset}, {0, NULL}};
PyType_Spec view_spec = {"zodb_dht._core.View", sizeof(View), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, view_slots};
