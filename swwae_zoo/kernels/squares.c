/* The sum of squared differences of two maps of the same layout, and its gradients, in one pass over memory each. */

#include "vectors.h"

enum { BLOCK = 1 << 13 }; /* numbers that are summed in float32 */

typedef struct {
    int64_t count, half_a, half_b, threads; /* bfloat16, else float32 */
} Sides;

typedef struct { /* what one of the functions below is called with */
    const void *a, *b;
    void *to_a, *to_b;
    float *sums, factor;
    const Sides *sides;
} Pair;

INLINE void square_blocks(const void *arguments, int64_t job, int64_t last, const int half_a, const int half_b) {
    const Pair *pair = arguments;
    for (; job < last; job++) {
        const int64_t end = (job + 1) * BLOCK < pair->sides->count ? (job + 1) * BLOCK : pair->sides->count;
        int64_t i = job * BLOCK;
        V sum = {0};
        for (; i + LANES <= end; i += LANES) {
            const V difference = load(pair->a, i, half_a) - load(pair->b, i, half_b);
            sum += difference * difference;
        }
        float total = 0;
        for (; i < end; i++) {
            const float difference = one(pair->a, i, half_a) - one(pair->b, i, half_b);
            total += difference * difference;
        }
        for (int lane = 0; lane < LANES; lane++) total += sum[lane];
        pair->sums[job] = total;
    }
}

INLINE void slope_blocks(const void *arguments, int64_t job, int64_t last, const int half_a, const int half_b) {
    const Pair *pair = arguments;
    for (; job < last; job++) {
        const int64_t end = (job + 1) * BLOCK < pair->sides->count ? (job + 1) * BLOCK : pair->sides->count;
        int64_t i = job * BLOCK;
        for (; i + LANES <= end; i += LANES) {
            const V slope = (load(pair->a, i, half_a) - load(pair->b, i, half_b)) * pair->factor;
            if (pair->to_a) store(pair->to_a, i, slope, half_a);
            if (pair->to_b) store(pair->to_b, i, -slope, half_b);
        }
        for (; i < end; i++) {
            const float slope = (one(pair->a, i, half_a) - one(pair->b, i, half_b)) * pair->factor;
            if (pair->to_a) put_one(pair->to_a, i, slope, half_a);
            if (pair->to_b) put_one(pair->to_b, i, -slope, half_b);
        }
    }
}

#define FOR_SIDES(name, a, b)                                                                                                    \
    static void square_##name(const void *pair, int64_t first, int64_t end) { square_blocks(pair, first, end, a, b); }           \
    static void slope_##name(const void *pair, int64_t first, int64_t end) { slope_blocks(pair, first, end, a, b); }
FOR_SIDES(float_float, 0, 0)
FOR_SIDES(float_half, 0, 1)
FOR_SIDES(half_float, 1, 0)
FOR_SIDES(half_half, 1, 1)
static const Work square[] = {square_float_float, square_float_half, square_half_float, square_half_half};
static const Work slope[] = {slope_float_float, slope_float_half, slope_half_float, slope_half_half};

/* sums (ceil(count / BLOCK)): of (a - b)^2, for each block. */
EXPORT void squares(const void *a, const void *b, float *sums, const Sides *g) {
    const Pair pair = {a, b, 0, 0, sums, 0, g};
    parallel(square[2 * g->half_a + g->half_b], &pair, (g->count + BLOCK - 1) / BLOCK, g->threads);
}

/* to_a = grad * factor * (a - b), to_b = -to_a; either may be left out. */
EXPORT void squares_slopes(const void *a, const void *b, void *to_a, void *to_b, const float *grad, float factor, const Sides *g) {
    const Pair pair = {a, b, to_a, to_b, 0, *grad * factor, g};
    parallel(slope[2 * g->half_a + g->half_b], &pair, (g->count + BLOCK - 1) / BLOCK, g->threads);
}
