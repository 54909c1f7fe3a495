//go:build python

// What a node tells of its past: an object's revisions, the transactions, which revisions repeat older data.

#include "node.h"

METHOD(node_history) {
    request r = {0};
    zd_reply out;
    if (!nargs_is(n, 2, "history")) return NULL;
    put_fixed(&r, args[0], 8, "an oid");
    put_u64(&r, size_arg(args[1]));
    if (PyErr_Occurred()) r.failed = 1;
    if (call(ZD_HISTORY, H(self), &r, &out, 0) < 0) return NULL;
    answer a = {out.data, out.len, 0};
    PyObject *list = PyList_New(0);
    while (list && a.len && !a.bad) {
        PyObject *tid = get_fixed(&a, 8);
        uint64_t size = get_u64(&a);
        PyObject *user = get_bytes(&a), *desc = get_bytes(&a), *ext = get_bytes(&a), *item = NULL;
        if (tid && user && desc && ext) item = Py_BuildValue("(OKOOO)", tid, (unsigned long long)size, user, desc, ext);
        Py_XDECREF(tid);
        Py_XDECREF(user);
        Py_XDECREF(desc);
        Py_XDECREF(ext);
        if (append(list, item) < 0) break;
    }
    return finished(&out, &a, list);
}

static PyObject *headers(int op, PyObject *self, PyObject *const *args) {
    request r = {0};
    zd_reply out;
    put_fixed(&r, args[0], 8, "a tid");
    put_fixed(&r, args[1], 8, "a tid");
    put_u64(&r, size_arg(args[2]));
    if (PyErr_Occurred()) r.failed = 1;
    if (call(op, H(self), &r, &out, 0) < 0) return NULL;
    answer a = {out.data, out.len, 0};
    PyObject *list = PyList_New(0);
    while (list && a.len && !a.bad) {
        PyObject *tid = get_fixed(&a, 8), *status = PyUnicode_DecodeLatin1(get(&a, 1), 1, NULL);
        PyObject *user = get_bytes(&a), *desc = get_bytes(&a), *ext = get_bytes(&a), *item = NULL;
        PyObject *oids = PyList_New(0);
        uint64_t count = get_u64(&a);
        for (uint64_t i = 0; i < count && !a.bad; i++)
            if (append(oids, get_fixed(&a, 8)) < 0) break;
        if (tid && status && user && desc && ext && oids) item = PyTuple_Pack(6, tid, status, user, desc, ext, oids);
        Py_XDECREF(tid);
        Py_XDECREF(status);
        Py_XDECREF(user);
        Py_XDECREF(desc);
        Py_XDECREF(ext);
        Py_XDECREF(oids);
        if (append(list, item) < 0) break;
    }
    return finished(&out, &a, list);
}

METHOD(node_transactions) {
    if (!nargs_is(n, 3, "transactions")) return NULL;
    return headers(ZD_TRANSACTIONS, self, args);
}

METHOD(node_transactions_backwards) {
    if (!nargs_is(n, 3, "transactions_backwards")) return NULL;
    return headers(ZD_TRANSACTIONS_BACKWARDS, self, args);
}
