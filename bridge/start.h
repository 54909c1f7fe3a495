#ifndef ZD_START_H
#define ZD_START_H

#include <stddef.h>

// Go starts its runtime, with threads that a fork does not survive, when the library is loaded: it asks x_cgo_sys_thread_create
// for the first one. Linked with --wrap (setup.py, on Linux) the request is kept until the first open: so the library can be loaded
// and relocated, a sixth of an open, when the package is imported. Linked without, all is as Go does it.

extern void __real_x_cgo_sys_thread_create(void *(*start)(void *), void *arg) __attribute__((weak));

static void *(*start_runtime)(void *); // kept; NULL: it was started, or never asked for
static void *start_arg;
static int keeping = 1;

__attribute__((visibility("hidden"))) void __wrap_x_cgo_sys_thread_create(void *(*start)(void *), void *arg) {
    if (keeping) {
        start_runtime = start;
        start_arg = arg;
    } else {
        __real_x_cgo_sys_thread_create(start, arg);
    }
}

// start_go is called with the GIL held, before the first call into Go, and may be called again.
static void start_go(void) {
    keeping = 0;
    if (start_runtime) {
        void *(*start)(void *) = start_runtime;
        start_runtime = NULL;
        __real_x_cgo_sys_thread_create(start, start_arg);
    }
}

#endif
