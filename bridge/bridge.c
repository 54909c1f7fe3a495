//go:build python

// zodb_dht._core for CPython 3.10 and up (limited API): decodes arguments into one request, calls Go, encodes the answer.
// _core.pyi documents each method; wire.go draws the requests and answers.
//
// The GIL is kept by try_load alone, which never waits; every other call releases it. Go starts with the first open. After a fork
// behind that the child may not enter Go (its threads are gone): every entry looks at `forked` first.

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "bridge.h"
#include "latch.h"
#include "start.h"

extern int64_t zd_try_load(uint64_t h, uint64_t oid, uint64_t at, char *buf, size_t cap, uint64_t *tid);
extern int64_t zd_load(uint64_t h, uint64_t oid, uint64_t at, char *buf, size_t cap, uint64_t *tid);
extern int zd_visible(uint64_t h, uint64_t *tid);
extern void zd_call(int op, uint64_t h, char *req, size_t size, zd_reply *out);
extern void zd_finish(uint64_t h, char *id, int hold, zd_latch *latch);
extern uint64_t zd_start(int op, uint64_t h, char *req, size_t size);
extern int zd_wait(uint64_t token, int ms, zd_reply *out);
extern void zd_cancel(uint64_t token);

static volatile int forked; // set in a child of fork behind Go's start, for good
static PyObject *factory;   // makes exceptions: factory(code, message, details)

#define NONE 0xffffffffu
#define NEWEST UINT64_MAX       // as a snapshot: whatever is visible at the moment
#define VIEW_BUFFER (32 * 1024) // a larger record takes the slow path
#define SMALL (16 * 1024)       // a request that is answered from memory with the GIL kept
#define SLICE_MS 50             // between two looks for signals

// ---- requests ----

typedef struct {
    char *p;
    size_t len, cap;
    int failed; // a Python error is set
} request;

static void put(request *r, const void *p, size_t n) {
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

static void put_u64(request *r, uint64_t v) {
    unsigned char b[8];
    for (int i = 7; i >= 0; i--, v >>= 8) b[i] = (unsigned char)v;
    put(r, b, 8);
}

static void put_u32(request *r, uint32_t v) {
    unsigned char b[4] = {v & 0xff, v >> 8 & 0xff, v >> 16 & 0xff, v >> 24};
    put(r, b, 4);
}

// put_fixed takes bytes of exactly n.
static void put_fixed(request *r, PyObject *o, Py_ssize_t n, const char *what) {
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
static void put_bytes(request *r, PyObject *o, int optional, const char *what) {
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

static void put_oids(request *r, PyObject *seq) {
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
static void put_keys(request *r, PyObject *keys) {
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

// ---- answers ----

typedef struct {
    const char *p;
    size_t len;
    int bad;
} answer;

static const char *get(answer *a, size_t n) {
    static const char zeros[16];
    if (a->len < n) {
        a->bad = 1;
        a->len = 0;
        return n <= sizeof zeros ? zeros : NULL;
    }
    const char *p = a->p;
    a->p += n;
    a->len -= n;
    return p;
}

static uint64_t get_u64(answer *a) {
    const unsigned char *p = (const unsigned char *)get(a, 8);
    uint64_t v = 0;
    for (int i = 0; i < 8; i++) v = v << 8 | p[i];
    return v;
}

static uint32_t get_u32(answer *a) {
    const unsigned char *p = (const unsigned char *)get(a, 4);
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static PyObject *get_fixed(answer *a, size_t n) { return PyBytes_FromStringAndSize(get(a, n), (Py_ssize_t)n); }

// get_bytes returns bytes, or None.
static PyObject *get_bytes(answer *a) {
    uint32_t n = get_u32(a);
    if (n == NONE) Py_RETURN_NONE;
    const char *p = get(a, n);
    if (!p && n) {
        PyErr_SetString(PyExc_SystemError, "an answer of the core is cut off");
        return NULL;
    }
    return PyBytes_FromStringAndSize(p, n);
}

static PyObject *tid_bytes(uint64_t v) {
    unsigned char b[8];
    for (int i = 7; i >= 0; i--, v >>= 8) b[i] = (unsigned char)v;
    return PyBytes_FromStringAndSize((char *)b, 8);
}

// ---- errors ----

static void raise_code(const char *code, const char *message, PyObject *details) {
    PyObject *made = NULL, *own = NULL;
    if (!details) details = own = PyDict_New();
    if (details && factory) made = PyObject_CallFunction(factory, "ssO", code, message, details);
    if (made) {
        PyErr_SetObject((PyObject *)Py_TYPE(made), made);
        Py_DECREF(made);
    } else if (!PyErr_Occurred()) {
        PyErr_Format(PyExc_RuntimeError, "%s: %s", code, message);
    }
    Py_XDECREF(own);
}

static int after_fork(void) {
    if (!forked) return 0;
    raise_code("wrong_process", "opened before a fork: a child process opens the peer directory itself", NULL);
    return 1;
}

static char *dup_text(answer *a) {
    uint32_t n = get_u32(a);
    const char *p = get(a, n);
    char *s = malloc((size_t)n + 1);
    if (s) {
        if (p && n) memcpy(s, p, n);
        s[p ? n : 0] = 0;
    }
    return s;
}

static void raise_reply(zd_reply *out) {
    answer a = {out->data, out->len, 0};
    char *code = dup_text(&a), *message = dup_text(&a);
    PyObject *details = PyDict_New();
    uint32_t n = get_u32(&a);
    for (uint32_t i = 0; i < n && details && !a.bad; i++) {
        char *key = dup_text(&a);
        PyObject *v = *get(&a, 1) ? PyLong_FromLongLong((long long)0) : NULL;
        if (v) { // an int: little-endian
            Py_DECREF(v);
            uint64_t lo = get_u32(&a), hi = get_u32(&a);
            v = PyLong_FromLongLong((long long)(hi << 32 | lo));
        } else {
            v = get_bytes(&a);
        }
        if (key && v) PyDict_SetItemString(details, key, v);
        Py_XDECREF(v);
        free(key);
    }
    raise_code(code ? code : "failed", message ? message : "", details);
    Py_XDECREF(details);
    free(code);
    free(message);
}

// ---- calls ----

// call sends r and frees it; 0: out holds an answer that the caller frees. waits: the thread looks for signals meanwhile.
static int call(int op, uint64_t h, request *r, zd_reply *out, int waits) {
    int failed = r->failed || after_fork();
    memset(out, 0, sizeof *out);
    if (failed) {
        free(r->p);
        return -1;
    }
    if (waits) {
        uint64_t token;
        int done, stop = 0;
        Py_BEGIN_ALLOW_THREADS
        token = zd_start(op, h, r->p, r->len);
        done = zd_wait(token, SLICE_MS, out);
        Py_END_ALLOW_THREADS
        while (!done) {
            if (!stop && PyErr_CheckSignals() < 0) {
                stop = 1; // the exception of the signal's handler is set; the call is ended, then waited for
                zd_cancel(token);
            }
            Py_BEGIN_ALLOW_THREADS
            done = zd_wait(token, SLICE_MS, out);
            Py_END_ALLOW_THREADS
        }
        free(r->p);
        if (stop) {
            free(out->data);
            return -1;
        }
    } else {
        Py_BEGIN_ALLOW_THREADS
        zd_call(op, h, r->p, r->len, out);
        Py_END_ALLOW_THREADS
        free(r->p);
    }
    if (out->ok) return 0;
    raise_reply(out);
    free(out->data);
    return -1;
}

static PyObject *call_none(int op, uint64_t h, request *r, int waits) {
    zd_reply out;
    if (call(op, h, r, &out, waits) < 0) return NULL;
    free(out.data);
    Py_RETURN_NONE;
}

// call_at_once keeps the GIL: for what takes a lock for a moment.
static PyObject *call_at_once(int op, uint64_t h, request *r) {
    zd_reply out = {0};
    if (r->failed || after_fork()) {
        free(r->p);
        return NULL;
    }
    zd_call(op, h, r->p, r->len, &out);
    free(r->p);
    if (!out.ok) raise_reply(&out);
    free(out.data);
    if (!out.ok) return NULL;
    Py_RETURN_NONE;
}

static PyObject *finished(zd_reply *out, answer *a, PyObject *result) {
    if (a->bad && !PyErr_Occurred()) PyErr_SetString(PyExc_SystemError, "an answer of the core is cut off");
    free(out->data);
    if (PyErr_Occurred()) Py_CLEAR(result);
    return result;
}

static int nargs_is(Py_ssize_t n, Py_ssize_t want, const char *name) {
    if (n == want) return 1;
    PyErr_Format(PyExc_TypeError, "%s() takes %zd positional arguments, got %zd", name, want, n);
    return 0;
}

// ---- Node ----

typedef struct {
    PyObject_HEAD
    uint64_t h; // 0: closed
    PyObject *view_type;
} Node;

#define METHOD(name) static PyObject *name(PyObject *self, PyObject *const *args, Py_ssize_t n)
#define H(self) (((Node *)(self))->h)

static PyObject *load_before(uint64_t h, PyObject *oid, PyObject *before) {
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

// append gives item to list, which may be NULL.
static int append(PyObject *list, PyObject *item) {
    int failed = !list || !item || PyList_Append(list, item) < 0;
    Py_XDECREF(item);
    return failed ? -1 : 0;
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

static uint64_t size_arg(PyObject *o) {
    unsigned long long v = PyLong_AsUnsignedLongLong(o);
    if (v == (unsigned long long)-1 && PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_OverflowError))
        PyErr_SetString(PyExc_ValueError, "a count must be within 0 and 2**64 - 1");
    return v;
}

METHOD(node_load_revisions) {
    request r = {0};
    zd_reply out;
    if (!nargs_is(n, 3, "load_revisions")) return NULL;
    uint64_t limit = size_arg(args[1]);
    int repeats = PyObject_IsTrue(args[2]);
    if (repeats < 0 || PyErr_Occurred()) return NULL;
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

static void raise_panic(void) { raise_code("broken", "the core panicked; this peer commits nothing any more", NULL); }

// visible is zd_visible with an exception.
static int visible(uint64_t h, uint64_t *tid) {
    int code = zd_visible(h, tid);
    if (code == -1) raise_code("closed", "the peer directory is closed", NULL);
    if (code == -2) raise_panic();
    return code;
}

METHOD(node_transactions) {
    if (!nargs_is(n, 3, "transactions")) return NULL;
    return headers(ZD_TRANSACTIONS, self, args);
}

METHOD(node_transactions_backwards) {
    if (!nargs_is(n, 3, "transactions_backwards")) return NULL;
    return headers(ZD_TRANSACTIONS_BACKWARDS, self, args);
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
    PyObject *list = PyList_New(0);
    while (list && a.len && !a.bad) {
        PyObject *oid = get_fixed(&a, 8), *tid = get_fixed(&a, 8), *data = get_bytes(&a), *item = NULL;
        if (oid && tid && data) item = PyTuple_Pack(3, oid, tid, data);
        Py_XDECREF(oid);
        Py_XDECREF(tid);
        Py_XDECREF(data);
        if (append(list, item) < 0) break;
    }
    return finished(&out, &a, list);
}

METHOD(node_repeats) {
    request r = {0};
    zd_reply out;
    if (!nargs_is(n, 1, "repeats")) return NULL;
    put_keys(&r, args[0]);
    if (call(ZD_REPEATS, H(self), &r, &out, 0) < 0) return NULL;
    answer a = {out.data, out.len, 0};
    PyObject *list = PyList_New(0);
    while (list && a.len && !a.bad) {
        uint64_t tid = get_u64(&a);
        if (append(list, tid ? tid_bytes(tid) : Py_NewRef(Py_None)) < 0) break;
    }
    return finished(&out, &a, list);
}

METHOD(node_last_tid) {
    if (!nargs_is(n, 0, "last_tid") || after_fork()) return NULL;
    uint64_t tid;
    return visible(H(self), &tid) < 0 ? NULL : tid_bytes(tid);
}

METHOD(node_stats) {
    request r = {0};
    zd_reply out;
    if (!nargs_is(n, 0, "stats")) return NULL;
    if (call(ZD_STATS, H(self), &r, &out, 0) < 0) return NULL;
    PyObject *s = PyUnicode_FromStringAndSize(out.data, (Py_ssize_t)out.len);
    free(out.data);
    return s;
}

METHOD(node_new_oids) {
    request r = {0};
    zd_reply out;
    if (!nargs_is(n, 1, "new_oids")) return NULL;
    put_u64(&r, size_arg(args[0]));
    if (PyErr_Occurred()) r.failed = 1;
    if (call(ZD_NEW_OIDS, H(self), &r, &out, 0) < 0) return NULL;
    answer a = {out.data, out.len, 0};
    return finished(&out, &a, PyLong_FromUnsignedLongLong(get_u64(&a)));
}

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
    PyObject *list = PyList_Check(seq) ? Py_NewRef(seq) : PySequence_List(seq);
    if (list) {
        put_u64(r, (uint64_t)PyList_Size(list));
    } else {
        r->failed = 1;
    }
    return list;
}

METHOD(node_vote) {
    request r = {0}, again = {0};
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
    if (r.failed || after_fork()) {
        free(r.p);
        return NULL;
    }
    // What is free is taken on this thread; only a vote that must wait pays for a goroutine and the looks for signals. It is in
    // memory: a small one takes microseconds, and where many threads commit, getting the GIL back takes ten times as long.
    if (r.len <= SMALL) {
        zd_call(ZD_VOTE_NOW, H(self), r.p, r.len, &out);
    } else {
        Py_BEGIN_ALLOW_THREADS
        zd_call(ZD_VOTE_NOW, H(self), r.p, r.len, &out);
        Py_END_ALLOW_THREADS
    }
    if (!out.ok) {
        answer e = {out.data, out.len, 0};
        char *code = dup_text(&e);
        int busy = code && strcmp(code, "busy") == 0;
        free(code);
        if (!busy) {
            raise_reply(&out);
            free(out.data);
            free(r.p);
            return NULL;
        }
        free(out.data);
        again = r;
        if (call(ZD_VOTE, H(self), &again, &out, 1) < 0) return NULL;
    } else {
        free(r.p);
    }
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
    int hold = PyObject_IsTrue(args[1]);
    if (hold < 0 || r.failed || after_fork()) {
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
    if (l.reply.ok) return tid_bytes(l.tid);
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
    PyObject *status = PyUnicode_AsLatin1String(args[2]);
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

METHOD(node_pack_begin) {
    request r = {0};
    zd_reply out;
    if (!nargs_is(n, 3, "pack_begin")) return NULL;
    put_fixed(&r, args[0], 8, "a tid");
    int gc = PyObject_IsTrue(args[1]), zodbs = gc < 0 ? -1 : PyObject_IsTrue(args[2]);
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
    PyObject *list = PyList_New(0);
    while (list && a.len && !a.bad) {
        PyObject *oid = get_fixed(&a, 8), *tid = get_fixed(&a, 8), *data = get_bytes(&a), *item = NULL;
        if (oid && tid && data) item = PyTuple_Pack(3, oid, tid, data);
        Py_XDECREF(oid);
        Py_XDECREF(tid);
        Py_XDECREF(data);
        if (append(list, item) < 0) break;
    }
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

METHOD(node_stage_blob) {
    request r = {0};
    PyObject *path = NULL;
    if (!nargs_is(n, 4, "stage_blob")) return NULL;
    put_fixed(&r, args[0], 16, "a transaction id");
    put_fixed(&r, args[1], 8, "an oid");
    int keep = PyObject_IsTrue(args[3]);
    if (keep < 0 || !PyUnicode_FSConverter(args[2], &path)) {
        free(r.p);
        return NULL;
    }
    put(&r, keep ? "\1" : "\0", 1);
    put_bytes(&r, path, 0, "path");
    Py_DECREF(path);
    return call_none(ZD_STAGE_BLOB, H(self), &r, 1);
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
    answer a = {out.data, out.len, 0};
    PyObject *path = get_bytes(&a), *res = NULL;
    if (path) res = PyUnicode_DecodeFSDefaultAndSize(PyBytes_AsString(path), PyBytes_Size(path));
    Py_XDECREF(path);
    return finished(&out, &a, res);
}

METHOD(node_close) {
    request r = {0};
    if (!nargs_is(n, 0, "close")) return NULL;
    if (!H(self)) Py_RETURN_NONE;
    if (after_fork()) return NULL;
    uint64_t h = H(self);
    H(self) = 0;
    return call_none(ZD_CLOSE, h, &r, 0);
}

static void node_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    uint64_t h = H(self);
    if (h && !forked) {
        zd_reply out = {0};
        Py_BEGIN_ALLOW_THREADS
        zd_call(ZD_CLOSE, h, NULL, 0, &out);
        Py_END_ALLOW_THREADS
        free(out.data);
    }
    Py_XDECREF(((Node *)self)->view_type);
    PyObject_Free(self);
    Py_DECREF(type);
}

// ---- View ----

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
    request r = {0};
    put_u64(&r, v->reader);
    if (!r.failed) zd_call(ZD_UNPIN, v->node->h, r.p, r.len, &out);
    free(r.p);
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
    if (tid != v->tid || !v->tid_object) {
        PyObject *fresh = tid_bytes(tid);
        if (!fresh) {
            Py_DECREF(data);
            return NULL;
        }
        Py_XDECREF(v->tid_object);
        v->tid_object = fresh;
        v->tid = tid;
    }
    t = PyTuple_New(2);
    if (!t) {
        Py_DECREF(data);
        return NULL;
    }
    PyTuple_SetItem(t, 0, data);
    PyTuple_SetItem(t, 1, Py_NewRef(v->tid_object));
    return t;
}

static PyObject *load_slowly(View *v, PyObject *oid, const char *p);

// load_pinned answers (data, tid); with size 3, a None behind them, since a successor beyond the snapshot is not this reader's to
// see, and None where the object is newer than the snapshot.
static PyObject *load_pinned(View *v, PyObject *oid, Py_ssize_t size) {
    request r = {0};
    zd_reply out;
    put_fixed(&r, oid, 8, "an oid");
    put_u64(&r, v->at);
    put(&r, size == 3 ? "\1" : "\0", 1);
    if (call(ZD_LOAD_PINNED, v->node->h, &r, &out, 0) < 0) return NULL;
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
    char buf[VIEW_BUFFER]; // not the view's: another thread may run meanwhile
    uint64_t tid, h = v->node->h, at = v->at;
    int64_t n;
    Py_BEGIN_ALLOW_THREADS
    n = zd_load(h, as_u64(p), at, buf, sizeof buf, &tid);
    Py_END_ALLOW_THREADS
    if (n >= 0) return revision(v, buf, n, tid);
    if (n == -2) {
        raise_panic();
        return NULL;
    }
    // A large record, or an error: asked for again.
    if (at != NEWEST) return load_pinned(v, oid, 2);
    // Not in memory: one call that waits, for the newest revision of all.
    PyObject *newest = tid_bytes(NEWEST), *res = newest ? load_before(h, oid, newest) : NULL, *pair;
    Py_XDECREF(newest);
    if (!res || res == Py_None) { // None: not for the newest
        if (res) PyErr_SetString(PyExc_SystemError, "no newest revision");
        Py_XDECREF(res);
        return NULL;
    }
    pair = PyTuple_GetSlice(res, 0, 2);
    Py_DECREF(res);
    return pair;
}

METHOD(view_load_before) {
    View *v = VIEW(self);
    if (!nargs_is(n, 2, "load_before")) return NULL;
    if (v->at != NEWEST && PyBytes_Check(args[1]) && PyBytes_Size(args[1]) == 8 && as_u64(PyBytes_AsString(args[1])) > v->at + 1) {
        return load_pinned(v, args[0], 3);
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
    if (res) {
        v->at = now;
        v->pinned = 1;
    }
    return res;
}

static PyObject *view_at(PyObject *self, void *unused) {
    (void)unused;
    if (after_fork()) return NULL;
    uint64_t at = VIEW(self)->at;
    return at == NEWEST && visible(VIEW(self)->node->h, &at) < 0 ? NULL : tid_bytes(at);
}

// ---- the module ----

#define FAST(name) {#name, (PyCFunction)(void (*)(void))node_##name, METH_FASTCALL, NULL}
static PyMethodDef node_methods[] = {
    FAST(view), FAST(load_before), FAST(load_serial), FAST(load_many), FAST(load_revisions), FAST(history), FAST(transactions),
    FAST(transactions_backwards), FAST(current), FAST(repeats), FAST(last_tid),
    FAST(stats), FAST(new_oids), FAST(vote), FAST(finish), FAST(publish), FAST(abort), FAST(restore), FAST(drain),
    FAST(outcome), FAST(stage_blob), FAST(blob_file), FAST(pack_begin), FAST(pack_step), FAST(pack_end), FAST(close), {NULL, NULL, 0, NULL},
};
static PyMethodDef view_methods[] = {
    {"load", view_load, METH_O, NULL},
    {"load_before", (PyCFunction)(void (*)(void))view_load_before, METH_FASTCALL, NULL},
    {"prefetch", view_prefetch, METH_O, NULL},
    {"advance", view_advance, METH_O, NULL},
    {"unpin", view_unpin, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef view_getset[] = {{"at", view_at, NULL, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}};

static PyType_Slot node_slots[] = {{Py_tp_dealloc, node_dealloc}, {Py_tp_methods, node_methods}, {0, NULL}};
static PyType_Slot view_slots[] = {
    {Py_tp_dealloc, view_dealloc}, {Py_tp_methods, view_methods}, {Py_tp_getset, view_getset}, {0, NULL}};
static PyType_Spec node_spec = {"zodb_dht._core.Node", sizeof(Node), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, node_slots};
static PyType_Spec view_spec = {"zodb_dht._core.View", sizeof(View), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, view_slots};

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
    if (call(ZD_OPEN, 0, &r, &out, 1) < 0) return NULL;
    answer a = {out.data, out.len, 0};
    uint64_t h = get_u64(&a);
    free(out.data);
    Node *node = PyObject_New(Node, (PyTypeObject *)st->node_type);
    if (!node) return NULL;
    node->h = h;
    node->view_type = Py_NewRef(st->view_type);
    return (PyObject *)node;
}

static PyObject *core_set_error_factory(PyObject *module, PyObject *f) {
    (void)module;
    PyObject *old = factory;
    factory = Py_NewRef(f);
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

static PyObject *core_version(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    return PyUnicode_FromString("0.1.0");
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

static void module_free(void *module) {
    module_state *st = PyModule_GetState(module);
    Py_CLEAR(st->node_type);
    Py_CLEAR(st->view_type);
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, module_exec}, {0, NULL}};
static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT, "zodb_dht._core", NULL, sizeof(module_state), module_methods, module_slots, NULL, NULL, module_free};

__attribute__((visibility("default"))) PyMODINIT_FUNC PyInit__core(void) { return PyModuleDef_Init(&module_def); }
