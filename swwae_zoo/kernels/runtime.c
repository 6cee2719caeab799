/* Threads, and what the loader (library.py) asks a library before it uses it. */

#include "runtime.h"

EXPORT const char sources[] = SOURCES; /* digest of the sources that this library was built from, see setup.py */

/* The widest instruction set of setup.py that the processor and the system can run: 0 baseline, 1 AVX2, 2 AVX-512. */
EXPORT int instruction_set(void) {
#ifdef __x86_64__
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw")) return 1;
    return __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") ? 2 : 1;
#else
    return 0;
#endif
}

/* The loops run on torch's own OpenMP threads. Its runtime's entry points are passed in: linked with one of its own, a
   library could bring a second set of threads, and the two would compete for the cores. All OpenMP runtimes on Linux
   have these three, whichever compiler built this file. */
static struct {
    void (*parallel)(void (*function)(void *), void *data, unsigned threads, unsigned flags); /* GOMP_parallel */
    int (*thread)(void);                                                                       /* omp_get_thread_num */
    int (*threads)(void);                                                                      /* omp_get_num_threads */
} openmp;

EXPORT void use_openmp(void *parallel, void *thread, void *threads) {
    openmp.thread = (int (*)(void))thread;
    openmp.threads = (int (*)(void))threads;
    openmp.parallel = (void (*)(void (*)(void *), void *, unsigned, unsigned))parallel;
}

typedef struct {
    Work work;
    const void *arguments;
    int64_t count;
} Jobs;

static void share(void *data) {
    const Jobs jobs = *(const Jobs *)data;
    const int64_t threads = openmp.threads(), thread = openmp.thread();
    const int64_t size = jobs.count / threads, rest = jobs.count % threads;
    const int64_t first = thread * size + (thread < rest ? thread : rest);
    jobs.work(jobs.arguments, first, first + size + (thread < rest));
}

void parallel(Work work, const void *arguments, int64_t count, int64_t threads) {
    Jobs jobs = {work, arguments, count};
    if (threads > 1 && count > 1 && openmp.parallel) openmp.parallel(share, &jobs, (unsigned)threads, 0);
    else work(arguments, 0, count);
}
