//go:build python

// Blobs of a node: a file that is handed over, and the path of one that is there.

#include "node.h"

#include <stdlib.h>

METHOD(node_stage_blob) {
    request r = {0};
    PyObject *path = NULL;
    if (!nargs_is(n, 4, "stage_blob")) return NULL;
    put_fixed(&r, args[0], 16, "a transaction id");
    put_fixed(&r, args[1], 8, "an oid");
    int keep = r.failed ? -1 : PyObject_IsTrue(args[3]);
    if (keep < 0 || !PyUnicode_FSConverter(args[2], &path)) {
        free(r.p);
        return NULL;
    }
    put(&r, keep ? "\1" : "\0", 1);
    put_bytes(&r, path, 0, "path");
    Py_DECREF(path);
    zd_reply out;
    int busy = call_now(ZD_STAGE_BLOB_NOW, H(self), &r, &out, 0); // mostly a rename
    if (busy < 0 || (busy && call(ZD_STAGE_BLOB, H(self), &r, &out, 1) < 0)) return NULL;
    free(out.data);
    Py_RETURN_NONE;
}

// answered_path takes an answer that is a path.
static PyObject *answered_path(zd_reply *out) {
    answer a = {out->data, out->len, 0};
    PyObject *path = get_bytes(&a), *res = NULL;
    if (path) res = PyUnicode_DecodeFSDefaultAndSize(PyBytes_AsString(path), PyBytes_Size(path));
    Py_XDECREF(path);
    return finished(out, &a, res);
}

METHOD(node_blob_dir) {
    request r = {0};
    zd_reply out;
    if (!nargs_is(n, 0, "blob_dir")) return NULL;
    if (call(ZD_BLOB_DIR, H(self), &r, &out, 0) < 0) return NULL;
    return answered_path(&out);
}

METHOD(node_blob_file) {
    request r = {0};
    zd_reply out;
    if (!nargs_is(n, 3, "blob_file")) return NULL;
    int whole = PyObject_IsTrue(args[2]);
    if (whole < 0) return NULL;
    put_fixed(&r, args[0], 8, "an oid");
    put_fixed(&r, args[1], 8, "a tid");
    put(&r, whole ? "\1" : "\0", 1);
    if (call(ZD_BLOB_FILE, H(self), &r, &out, 0) < 0) return NULL;
    return answered_path(&out);
}
