//go:build python

// Errors of the core as Python's exceptions; zodb_dht.errors makes them of a code, a message and details.

#include "call.h"

#include <stdlib.h>
#include <string.h>

#define FACTORY "zodb_dht._core.error_factory"

// factory returns what makes this interpreter's exceptions, factory(code, message, details): each interpreter has classes of its own,
// which end with it. NULL, without an error: nobody has set it.
static PyObject *factory(void) {
    PyObject *own = PyInterpreterState_GetDict(PyInterpreterState_Get()); // borrowed
    PyObject *key = own ? PyUnicode_FromString(FACTORY) : NULL;
    PyObject *make = key ? Py_XNewRef(PyDict_GetItemWithError(own, key)) : NULL;
    Py_XDECREF(key);
    return make;
}

void raise_code(const char *code, const char *message, PyObject *details) {
    PyObject *made = NULL, *own = NULL, *text = NULL, *make = factory();
    if (!details) details = own = PyDict_New();
    // A path in it may be of any bytes.
    if (details && make) text = PyUnicode_DecodeUTF8(message, (Py_ssize_t)strlen(message), "backslashreplace");
    if (text) made = PyObject_CallFunction(make, "sOO", code, text, details);
    if (made) {
        PyErr_SetObject((PyObject *)Py_TYPE(made), made);
        Py_DECREF(made);
    } else if (!PyErr_Occurred()) {
        PyErr_Format(PyExc_RuntimeError, "%s: %s", code, message);
    }
    Py_XDECREF(text);
    Py_XDECREF(own);
    Py_XDECREF(make);
}

void raise_panic(void) { raise_code("broken", "the core panicked; this peer commits nothing any more", NULL); }

void raise_reply(zd_reply *out) {
    answer a = {out->data, out->len, 0};
    char *code = dup_text(&a), *message = dup_text(&a);
    PyObject *details = PyDict_New();
    uint32_t n = get_u32(&a);
    for (uint32_t i = 0; i < n && details && !a.bad && !PyErr_Occurred(); i++) {
        char *key = dup_text(&a);
        PyObject *v;
        if (*get(&a, 1)) { // an int: little-endian
            uint64_t lo = get_u32(&a), hi = get_u32(&a);
            v = PyLong_FromLongLong((long long)(hi << 32 | lo));
        } else {
            v = get_bytes(&a);
        }
        if (key && v) PyDict_SetItemString(details, key, v); // its error is seen by the loop
        Py_XDECREF(v);
        free(key);
    }
    if (!PyErr_Occurred()) raise_code(code ? code : "failed", message ? message : "", details); // else there is no memory to tell it
    Py_XDECREF(details);
    free(code);
    free(message);
}

PyObject *core_set_error_factory(PyObject *module, PyObject *f) {
    (void)module;
    PyObject *own = PyInterpreterState_GetDict(PyInterpreterState_Get());
    if (!own) return PyErr_NoMemory();
    if (PyDict_SetItemString(own, FACTORY, f) < 0) return NULL;
    Py_RETURN_NONE;
}
