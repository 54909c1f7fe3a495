//go:build python

// A pack of a node, in steps between which Python finds the references that the core does not.

#include "node.h"

METHOD(node_pack_begin) {
    request r = {0};
    zd_reply out;
    if (!nargs_is(n, 3, "pack_begin")) return NULL;
    put_fixed(&r, args[0], 8, "a tid");
    int gc = r.failed ? -1 : PyObject_IsTrue(args[1]), zodbs = gc < 0 ? -1 : PyObject_IsTrue(args[2]);
    if (zodbs < 0) r.failed = 1;
    put(&r, gc <= 0 ? "\0" : zodbs <= 0 ? "\1" : "\2", 1);
    put_u64(&r, (uint64_t)PyThread_get_thread_ident());
    if (call(ZD_PACK_BEGIN, H(self), &r, &out, 1) < 0) return NULL;
    answer a = {out.data, out.len, 0};
    return finished(&out, &a, PyBool_FromLong(*get(&a, 1)));
}

// pack_step takes the oids as one bytes object: they are many, and nobody looks at them here.
METHOD(node_pack_step) {
    request r = {0};
    zd_reply out;
    char *p;
    Py_ssize_t len;
    if (!nargs_is(n, 1, "pack_step") || PyBytes_AsStringAndSize(args[0], &p, &len) < 0) return NULL;
    if (len % 8) {
        PyErr_Format(PyExc_ValueError, "oids have 8 bytes each, not %zd in all", len);
        return NULL;
    }
    put(&r, p, (size_t)len);
    if (call(ZD_PACK_STEP, H(self), &r, &out, 1) < 0) return NULL;
    answer a = {out.data, out.len, 0};
    uint32_t size = get_u32(&a);
    const char *name = get(&a, size);
    PyObject *phase = PyUnicode_DecodeASCII(name ? name : "", name ? size : 0, NULL);
    uint64_t done = get_u64(&a), total = get_u64(&a);
    int end = *get(&a, 1);
    PyObject *list = get_records(&a);
    PyObject *res = NULL;
    if (phase && list && !PyErr_Occurred())
        res = Py_BuildValue("(OKKOO)", phase, (unsigned long long)done, (unsigned long long)total, end ? Py_True : Py_False, list);
    Py_XDECREF(phase);
    Py_XDECREF(list);
    return finished(&out, &a, res);
}

METHOD(node_pack_end) {
    request r = {0};
    if (!nargs_is(n, 0, "pack_end")) return NULL;
    return call_none(ZD_PACK_END, H(self), &r, 0);
}
