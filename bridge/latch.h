// Where a thread waits for the end of a commit without being in Go: there, each wait would cost two changes of threads, since a
// goroutine that C called can only go on in the thread that called it. No Python in here.
#ifndef ZODB_DHT_LATCH_H
#define ZODB_DHT_LATCH_H

#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <time.h>

#include "bridge.h"

typedef struct {
    pthread_mutex_t mu; // guards all below; open is looked at without it, too
    pthread_cond_t opened;
    int open;
    uint64_t tid; // committed, if reply.ok
    zd_reply reply;
} zd_latch;

#define ZD_LATCH {.mu = PTHREAD_MUTEX_INITIALIZER, .opened = PTHREAD_COND_INITIALIZER}

// zd_latch_open is called once. The latch may be gone when it returns.
static inline void zd_latch_open(zd_latch *l, uint64_t tid, const zd_reply *reply) {
    pthread_mutex_lock(&l->mu);
    l->tid = tid;
    l->reply = *reply;
    __atomic_store_n(&l->open, 1, __ATOMIC_RELEASE);
    pthread_cond_signal(&l->opened);
    pthread_mutex_unlock(&l->mu);
}

// To wake a sleeping thread takes 30 to 60 us on a virtual machine, half of what a sync takes on a fast disk. So one thread of the
// process, at most, looks again and again for a while, and gives its processor to whoever wants it each time. Where that does not
// pay (a slow disk, no processor to spare) it is tried ever more seldom.
enum {
    ZD_PATIENCE_NS = 1000000,  // a look around ends
    ZD_DISTURBED_NS = 5000,   // somebody else ran meanwhile
    ZD_DISTURBANCES = 6,      // that often: the processor is wanted
    ZD_MOST_SKIPPED = 128,    // commits between two tries
};

static inline int64_t zd_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static inline void zd_latch_look(zd_latch *l) {
    static int looking, skip, skipped; // the latter two are the looking thread's
    if (__atomic_exchange_n(&looking, 1, __ATOMIC_ACQUIRE)) return;
    if (skipped < skip) {
        skipped++;
    } else {
        int64_t begun = zd_now(), last = begun;
        int disturbed = 0, open;
        while (!(open = __atomic_load_n(&l->open, __ATOMIC_ACQUIRE)) && last - begun < ZD_PATIENCE_NS && disturbed < ZD_DISTURBANCES) {
            sched_yield();
            int64_t now = zd_now();
            disturbed += now - last > ZD_DISTURBED_NS;
            last = now;
        }
        skipped = 0;
        if (open)
            skip /= 2;
        else if (skip < ZD_MOST_SKIPPED)
            skip = 2 * skip + 1;
    }
    __atomic_store_n(&looking, 0, __ATOMIC_RELEASE);
}

static inline void zd_latch_wait(zd_latch *l) {
    zd_latch_look(l);
    pthread_mutex_lock(&l->mu);
    while (!l->open) pthread_cond_wait(&l->opened, &l->mu);
    pthread_mutex_unlock(&l->mu);
}

#endif
