/* What every file of kernels shares: what is exported, and how a loop is spread over threads. */

#ifndef RUNTIME_H
#define RUNTIME_H

#include <stdint.h>

#define EXPORT __attribute__((visibility("default"))) /* all else is hidden: compiled with -fvisibility=hidden */
#define INLINE static inline __attribute__((always_inline))

typedef void (*Work)(const void *arguments, int64_t first, int64_t end);

/* Calls `work` for the jobs 0 .. count - 1, in one equal share per thread. */
void parallel(Work work, const void *arguments, int64_t count, int64_t threads);

#endif
