//go:build python

// zodb_dht._core for CPython 3.10 and up (limited API): decodes arguments into one request, calls Go, encodes the answer.
// _core.pyi documents each method; wire.go draws the requests and answers.
//
// The GIL is kept by what neither waits nor takes long: a load of what is in memory, a small vote, publish, unpin, an advance over recent commits, the last tid. Every
// other call releases it. Go starts with the first open. After a fork
// behind that the child may not enter Go (its threads are gone): every entry looks at `forked` first.

#include "node.h"
#include "stack.h"
#include "start.h"

#include <pthread.h>
#include <stdlib.h>

#ifndef ZD_VERSION
#define ZD_VERSION unknown // setup.py defines it
#endif
#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

typedef struct {
    PyObject *node_type, *view_type;
} module_state;

static PyObject *core_open(PyObject *module, PyObject *const *args, Py_ssize_t n) {
    request r = {0};
    zd_reply out;
    module_state *st = PyModule_GetState(module);
    if (!nargs_is(n, 2, "open") || after_fork()) return NULL;
    start_go();
    PyObject *path = NULL, *settings = PyUnicode_AsUTF8String(args[1]);
    if (!settings || !PyUnicode_FSConverter(args[0], &path)) {
        Py_XDECREF(settings);
        return NULL;
    }
    put_bytes(&r, path, 0, "path");
    put_bytes(&r, settings, 0, "settings");
    Py_DECREF(path);
    Py_DECREF(settings);
    Node *node = PyObject_New(Node, (PyTypeObject *)st->node_type); // first: without memory for it nothing is opened
    if (!node) {
        free(r.p);
        return NULL;
    }
    node->h = 0;
    node->view_type = Py_NewRef(st->view_type);
    if (call(ZD_OPEN, 0, &r, &out, 1) < 0) {
        Py_DECREF(node);
        return NULL;
    }
    answer a = {out.data, out.len, 0};
    node->h = get_u64(&a);
    free(out.data);
    return (PyObject *)node;
}

static PyObject *core_version(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    return PyUnicode_FromString(TEXT(ZD_VERSION));
}

static PyMethodDef module_methods[] = {
    {"open", (PyCFunction)(void (*)(void))core_open, METH_FASTCALL, NULL},
    {"set_error_factory", core_set_error_factory, METH_O, NULL},
    {"version", core_version, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static void in_child(void) { forked = !start_runtime; }

static int module_exec(PyObject *module) {
    static int watching;
    module_state *st = PyModule_GetState(module);
    if (!watching) {
        if (pthread_atfork(NULL, NULL, in_child) != 0) {
            PyErr_SetString(PyExc_OSError, "pthread_atfork failed");
            return -1;
        }
        watching = 1;
    }
    st->node_type = PyType_FromModuleAndSpec(module, &node_spec, NULL);
    st->view_type = PyType_FromModuleAndSpec(module, &view_spec, NULL);
    if (!st->node_type || !st->view_type) return -1;
    if (PyModule_AddObjectRef(module, "Node", st->node_type) < 0) return -1;
    return PyModule_AddObjectRef(module, "View", st->view_type);
}

// The types know their module: without this the collector would take them for somebody else's.
static int module_traverse(PyObject *module, visitproc visit, void *arg) {
    module_state *st = PyModule_GetState(module);
    Py_VISIT(st->node_type);
    Py_VISIT(st->view_type);
    return 0;
}

static void module_free(void *module) {
    module_state *st = PyModule_GetState(module);
    Py_CLEAR(st->node_type);
    Py_CLEAR(st->view_type);
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, module_exec}, {0, NULL}};
static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT, "zodb_dht._core", NULL, sizeof(module_state), module_methods, module_slots, module_traverse, NULL, module_free};

__attribute__((visibility("default"))) PyMODINIT_FUNC PyInit__core(void) { return PyModuleDef_Init(&module_def); }
