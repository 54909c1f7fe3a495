// The calls between the extension's C files and the Go core (exports.go). No Python in here.
#ifndef ZODB_DHT_BRIDGE_H
#define ZODB_DHT_BRIDGE_H

#include <stddef.h>
#include <stdint.h>

// What a call can ask for; the requests and answers are drawn in wire.go.
enum zd_op {
    ZD_LOAD_BEFORE = 1,
    ZD_LOAD_SERIAL,
    ZD_LOAD_MANY,
    ZD_LOAD_REVISIONS,
    ZD_HISTORY,
    ZD_TRANSACTIONS,
    ZD_STATS,
    ZD_NEW_OIDS,
    ZD_VOTE,
    ZD_VOTE_NOW, // as ZD_VOTE, but answers busy where it would wait
    ZD_PUBLISH,
    ZD_ABORT,
    ZD_RESTORE,
    ZD_DRAIN,
    ZD_OUTCOME,
    ZD_ADVANCE,
    ZD_ADVANCE_NOW, // as ZD_ADVANCE, but answers nothing where it would read rows
    ZD_PREFETCH,
    ZD_CLOSE,
    ZD_OPEN,
    ZD_STAGE_BLOB,
    ZD_STAGE_BLOB_NOW, // as ZD_STAGE_BLOB, but answers busy where it would copy
    ZD_BLOB_FILE,
    ZD_TRANSACTIONS_BACKWARDS,
    ZD_CURRENT,
    ZD_LOAD_PINNED,
    ZD_UNPIN,
    ZD_PACK_BEGIN,
    ZD_PACK_STEP,
    ZD_PACK_END,
    ZD_BLOB_DIR,
};

// The answer of one call, in memory of malloc that the caller frees. ok: data is the answer; else an error (wire.go).
typedef struct {
    int32_t ok;
    uint64_t len;
    char *data;
} zd_reply;

#endif
