//go:build python

// A request to the core: arguments of Python, checked and put one behind the other.

#include "wire.h"

#include <stdlib.h>
#include <string.h>

void put(request *r, const void *p, size_t n) {
    if (r->failed) return;
    if (r->len + n > r->cap) {
        size_t cap = r->cap ? r->cap * 2 : 512;
        while (cap < r->len + n) cap *= 2;
        char *q = realloc(r->p, cap);
        if (!q) {
            PyErr_NoMemory();
            r->failed = 1;
            return;
        }
        r->p = q;
        r->cap = cap;
    }
    if (n) memcpy(r->p + r->len, p, n);
    r->len += n;
}

void put_u64(request *r, uint64_t v) {
    unsigned char b[8];
    for (int i = 7; i >= 0; i--, v >>= 8) b[i] = (unsigned char)v;
    put(r, b, 8);
}

void put_u32(request *r, uint32_t v) {
    unsigned char b[4] = {v & 0xff, v >> 8 & 0xff, v >> 16 & 0xff, v >> 24};
    put(r, b, 4);
}

// put_fixed takes bytes of exactly n.
void put_fixed(request *r, PyObject *o, Py_ssize_t n, const char *what) {
    char *p;
    Py_ssize_t len;
    if (r->failed) return;
    if (!o || !PyBytes_Check(o)) {
        PyErr_Format(PyExc_TypeError, "%s must be bytes", what);
        r->failed = 1;
    } else if (PyBytes_AsStringAndSize(o, &p, &len) < 0) {
        r->failed = 1;
    } else if (len != n) {
        PyErr_Format(PyExc_ValueError, "%s must have %zd bytes, not %zd", what, n, len);
        r->failed = 1;
    } else {
        put(r, p, (size_t)n);
    }
}

// put_bytes takes bytes of any length below 4 GiB, or None if it may.
void put_bytes(request *r, PyObject *o, int optional, const char *what) {
    char *p;
    Py_ssize_t len;
    if (r->failed) return;
    if (optional && o == Py_None) {
        put_u32(r, NONE);
        return;
    }
    if (!o || !PyBytes_Check(o)) {
        PyErr_Format(PyExc_TypeError, "%s must be bytes", what);
        r->failed = 1;
        return;
    }
    if (PyBytes_AsStringAndSize(o, &p, &len) < 0) {
        r->failed = 1;
        return;
    }
    if ((uint64_t)len >= NONE) {
        PyErr_Format(PyExc_ValueError, "%s has %zd bytes", what, len);
        r->failed = 1;
        return;
    }
    put_u32(r, (uint32_t)len);
    put(r, p, (size_t)len);
}

void put_oids(request *r, PyObject *seq) {
    if (r->failed) return;
    PyObject *fast = PySequence_List(seq);
    if (!fast) {
        r->failed = 1;
        return;
    }
    Py_ssize_t n = PyList_Size(fast);
    for (Py_ssize_t i = 0; i < n && !r->failed; i++) put_fixed(r, PyList_GetItem(fast, i), 8, "an oid");
    Py_DECREF(fast);
}

// put_keys takes bytes that hold 16 for each revision, oid and tid.
void put_keys(request *r, PyObject *keys) {
    char *p;
    Py_ssize_t len;
    if (r->failed) return;
    if (PyBytes_AsStringAndSize(keys, &p, &len) < 0) {
        r->failed = 1;
    } else if (len % 16) {
        PyErr_Format(PyExc_ValueError, "keys have 16 bytes each, not %zd in all", len);
        r->failed = 1;
    } else {
        put(r, p, (size_t)len);
    }
}

uint64_t size_arg(PyObject *o) {
    unsigned long long v = PyLong_AsUnsignedLongLong(o);
    if (v == (unsigned long long)-1 && PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_OverflowError))
        PyErr_SetString(PyExc_ValueError, "a count must be within 0 and 2**64 - 1");
    return v;
}

int nargs_is(Py_ssize_t n, Py_ssize_t want, const char *name) {
    if (n == want) return 1;
    PyErr_Format(PyExc_TypeError, "%s() takes %zd positional arguments, got %zd", name, want, n);
    return 0;
}
