//go:build python

// Loads of a node: one revision or many, and every object's newest in turn.

#include "node.h"

#include <stdlib.h>

PyObject *load_before(uint64_t h, PyObject *oid, PyObject *before) {
    request r = {0};
    zd_reply out;
    put_fixed(&r, oid, 8, "an oid");
    put_fixed(&r, before, 8, "a tid");
    if (call(ZD_LOAD_BEFORE, h, &r, &out, 0) < 0) return NULL;
    if (!out.len) {
        free(out.data);
        Py_RETURN_NONE;
    }
    answer a = {out.data, out.len, 0};
    PyObject *tid = get_fixed(&a, 8);
    uint64_t next = get_u64(&a);
    PyObject *data = get_bytes(&a), *nxt = next ? tid_bytes(next) : Py_NewRef(Py_None), *res = NULL;
    if (tid && data && nxt) res = PyTuple_Pack(3, data, tid, nxt);
    Py_XDECREF(tid);
    Py_XDECREF(data);
    Py_XDECREF(nxt);
    return finished(&out, &a, res);
}

METHOD(node_load_before) {
    if (!nargs_is(n, 2, "load_before")) return NULL;
    return load_before(H(self), args[0], args[1]);
}

METHOD(node_load_serial) {
    request r = {0};
    zd_reply out;
    if (!nargs_is(n, 2, "load_serial")) return NULL;
    put_fixed(&r, args[0], 8, "an oid");
    put_fixed(&r, args[1], 8, "a tid");
    if (call(ZD_LOAD_SERIAL, H(self), &r, &out, 0) < 0) return NULL;
    answer a = {out.data, out.len, 0};
    return finished(&out, &a, get_bytes(&a));
}

METHOD(node_load_many) {
    request r = {0};
    zd_reply out;
    if (!nargs_is(n, 2, "load_many")) return NULL;
    put_fixed(&r, args[1], 8, "a tid");
    put_oids(&r, args[0]);
    if (call(ZD_LOAD_MANY, H(self), &r, &out, 0) < 0) return NULL;
    answer a = {out.data, out.len, 0};
    PyObject *list = PyList_New(0);
    while (list && a.len && !a.bad) {
        uint64_t tid = get_u64(&a);
        PyObject *data = get_bytes(&a), *item = NULL;
        if (data && tid) {
            item = Py_BuildValue("(ON)", data, tid_bytes(tid));
        } else if (data) {
            item = Py_NewRef(Py_None);
        }
        Py_XDECREF(data);
        if (append(list, item) < 0) break;
    }
    return finished(&out, &a, list);
}

METHOD(node_load_revisions) {
    request r = {0};
    zd_reply out;
    if (!nargs_is(n, 3, "load_revisions")) return NULL;
    uint64_t limit = size_arg(args[1]);
    int repeats = PyErr_Occurred() ? -1 : PyObject_IsTrue(args[2]);
    if (repeats < 0) return NULL;
    put_u64(&r, limit);
    put(&r, repeats ? "\1" : "\0", 1);
    put_keys(&r, args[0]);
    if (call(ZD_LOAD_REVISIONS, H(self), &r, &out, 0) < 0) return NULL;
    answer a = {out.data, out.len, 0};
    PyObject *list = PyList_New(0), *older = PyList_New(0), *both = NULL;
    while (list && older && a.len && !a.bad) {
        char kind = *get(&a, 1);
        PyObject *data = get_bytes(&a), *item = data;
        if (data && kind != 1) {
            Py_DECREF(data);
            item = Py_NewRef(kind == 2 ? Py_None : Py_False);
        }
        if (append(list, item) < 0) break;
        if (!repeats) continue;
        uint64_t tid = get_u64(&a);
        if (append(older, tid ? tid_bytes(tid) : Py_NewRef(Py_None)) < 0) break;
    }
    if (list && older && !PyErr_Occurred()) both = PyTuple_Pack(2, list, older);
    Py_XDECREF(list);
    Py_XDECREF(older);
    return finished(&out, &a, both);
}

METHOD(node_current) {
    request r = {0};
    zd_reply out;
    if (!nargs_is(n, 2, "current")) return NULL;
    put_fixed(&r, args[0], 8, "an oid");
    put_u64(&r, size_arg(args[1]));
    if (PyErr_Occurred()) r.failed = 1;
    if (call(ZD_CURRENT, H(self), &r, &out, 0) < 0) return NULL;
    answer a = {out.data, out.len, 0};
    return finished(&out, &a, get_records(&a));
}
