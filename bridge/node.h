// The type Node and its methods: each file has those of its noun, node.c lists them.
#ifndef ZODB_DHT_NODE_H
#define ZODB_DHT_NODE_H

#include "call.h"

typedef struct {
    PyObject_HEAD
    uint64_t h; // 0: closed
    PyObject *view_type;
} Node;

#define METHOD(name) PyObject *name(PyObject *self, PyObject *const *args, Py_ssize_t n)
#define H(self) (((Node *)(self))->h)

#pragma GCC visibility push(hidden)

extern PyType_Spec node_spec, view_spec; // module.c makes the types

int visible(uint64_t h, uint64_t *tid);
PyObject *load_before(uint64_t h, PyObject *oid, PyObject *before);

// load.c
METHOD(node_load_before);
METHOD(node_load_serial);
METHOD(node_load_many);
METHOD(node_load_revisions);
METHOD(node_current);

// history.c
METHOD(node_history);
METHOD(node_transactions);
METHOD(node_transactions_backwards);

// transaction.c
METHOD(node_vote);
METHOD(node_finish);
METHOD(node_publish);
METHOD(node_abort);
METHOD(node_restore);
METHOD(node_drain);
METHOD(node_outcome);

// packing.c
METHOD(node_pack_begin);
METHOD(node_pack_step);
METHOD(node_pack_end);

// blob.c
METHOD(node_stage_blob);
METHOD(node_blob_dir);
METHOD(node_blob_file);

// view.c
METHOD(node_view);

#pragma GCC visibility pop

#endif
