#ifndef ZD_STACK_H
#define ZD_STACK_H

#ifdef __linux__

#include <pthread.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef __GLIBC__ // as Go asks

// Go asks for the bounds of a thread's stack when that thread calls it for the first time. Of the main thread the C library finds
// them in /proc/self/maps, which takes 0.1 to 0.2 ms with the libraries of a Zope: it grows down from where the kernel put the first
// frame, by as much as the limit allows. Go checks the stack pointer against them, and guesses where it is not within.

extern int __real_pthread_getattr_np(pthread_t thread, pthread_attr_t *attr) __attribute__((weak));
extern void *__libc_stack_end __attribute__((weak));

__attribute__((visibility("hidden"))) int __wrap_pthread_getattr_np(pthread_t thread, pthread_attr_t *attr) {
    struct rlimit limit;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (&__libc_stack_end && __libc_stack_end && pthread_equal(thread, pthread_self()) && syscall(SYS_gettid) == getpid() &&
        getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur / page >= 16) {
        size_t size = (size_t)limit.rlim_cur / page * page;
        char *end = (char *)(((size_t)__libc_stack_end + page) / page * page);
        if ((size_t)end > size) return pthread_attr_setstack(attr, end - size, size);
    }
    return __real_pthread_getattr_np(thread, attr);
}

#endif

#endif

#endif
