// A request while it is put together and an answer while it is read: wire.go draws both.
#ifndef ZODB_DHT_WIRE_H
#define ZODB_DHT_WIRE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

#include "bridge.h"

#define NONE 0xffffffffu // a length: there is None

// Declarations are hidden, too: -fvisibility=hidden speaks of definitions only, and another file's variable would be looked up in
// the GOT.
#pragma GCC visibility push(hidden)

typedef struct {
    char *p;
    size_t len, cap;
    int failed; // a Python error is set
} request;

void put(request *r, const void *p, size_t n);
void put_u64(request *r, uint64_t v);
void put_u32(request *r, uint32_t v);
void put_fixed(request *r, PyObject *o, Py_ssize_t n, const char *what);
void put_bytes(request *r, PyObject *o, int optional, const char *what);
void put_oids(request *r, PyObject *seq);
void put_keys(request *r, PyObject *keys);
uint64_t size_arg(PyObject *o);
int nargs_is(Py_ssize_t n, Py_ssize_t want, const char *name);

typedef struct {
    const char *p;
    size_t len;
    int bad;
} answer;

static inline const char *get(answer *a, size_t n) {
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

static inline uint64_t get_u64(answer *a) {
    const unsigned char *p = (const unsigned char *)get(a, 8);
    uint64_t v = 0;
    for (int i = 0; i < 8; i++) v = v << 8 | p[i];
    return v;
}

static inline uint32_t get_u32(answer *a) {
    const unsigned char *p = (const unsigned char *)get(a, 4);
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline PyObject *get_fixed(answer *a, size_t n) { return PyBytes_FromStringAndSize(get(a, n), (Py_ssize_t)n); }

static inline PyObject *tid_bytes(uint64_t v) {
    unsigned char b[8];
    for (int i = 7; i >= 0; i--, v >>= 8) b[i] = (unsigned char)v;
    return PyBytes_FromStringAndSize((char *)b, 8);
}

PyObject *get_bytes(answer *a);
char *dup_text(answer *a);
int append(PyObject *list, PyObject *item);
PyObject *get_records(answer *a);
PyObject *finished(zd_reply *out, answer *a, PyObject *result);

#pragma GCC visibility pop

#endif
