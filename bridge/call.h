// A call of the core, and what it raises. One that only a single file makes is declared there.
#ifndef ZODB_DHT_CALL_H
#define ZODB_DHT_CALL_H

#include "wire.h"

extern void zd_call(int op, uint64_t h, char *req, size_t size, zd_reply *out);

#pragma GCC visibility push(hidden)

int call(int op, uint64_t h, request *r, zd_reply *out, int waits);
int call_now(int op, uint64_t h, request *r, zd_reply *out, int gil);
PyObject *call_none(int op, uint64_t h, request *r, int waits);
PyObject *call_at_once(int op, uint64_t h, request *r);

void raise_code(const char *code, const char *message, PyObject *details);
void raise_panic(void);
void raise_reply(zd_reply *out);
PyObject *core_set_error_factory(PyObject *module, PyObject *f);

extern volatile int forked; // set in a child of fork behind Go's start, for good

static inline int after_fork(void) {
    if (!forked) return 0;
    raise_code("wrong_process", "a peer was opened before this process was forked off, so it can open none: fork before the first open, or start a new process (spawn)", NULL);
    return 1;
}

#pragma GCC visibility pop

#endif
