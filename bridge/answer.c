//go:build python

// An answer of the core, read into objects of Python; the small steps are in wire.h.

#include "wire.h"

#include <stdlib.h>
#include <string.h>

// get_bytes returns bytes, or None.
PyObject *get_bytes(answer *a) {
    uint32_t n = get_u32(a);
    if (n == NONE) Py_RETURN_NONE;
    const char *p = get(a, n);
    if (!p && n) {
        PyErr_SetString(PyExc_SystemError, "an answer of the core is cut off");
        return NULL;
    }
    return PyBytes_FromStringAndSize(p, n);
}

char *dup_text(answer *a) {
    uint32_t n = get_u32(a);
    const char *p = get(a, n);
    char *s = malloc((size_t)n + 1);
    if (s) {
        if (p && n) memcpy(s, p, n);
        s[p ? n : 0] = 0;
    }
    return s;
}

// append gives item to list, which may be NULL.
int append(PyObject *list, PyObject *item) {
    int failed = !list || !item || PyList_Append(list, item) < 0;
    Py_XDECREF(item);
    return failed ? -1 : 0;
}

// get_records returns a list of what is left: an oid, a tid and bytes each.
PyObject *get_records(answer *a) {
    PyObject *list = PyList_New(0);
    while (list && a->len && !a->bad) {
        PyObject *oid = get_fixed(a, 8), *tid = get_fixed(a, 8), *data = get_bytes(a), *item = NULL;
        if (oid && tid && data) item = PyTuple_Pack(3, oid, tid, data);
        Py_XDECREF(oid);
        Py_XDECREF(tid);
        Py_XDECREF(data);
        if (append(list, item) < 0) break;
    }
    return list;
}

PyObject *finished(zd_reply *out, answer *a, PyObject *result) {
    if (a->bad && !PyErr_Occurred()) PyErr_SetString(PyExc_SystemError, "an answer of the core is cut off");
    free(out->data);
    if (PyErr_Occurred()) Py_CLEAR(result);
    return result;
}
