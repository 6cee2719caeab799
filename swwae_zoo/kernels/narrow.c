/* Convolutions to one channel, stride 1, "same" padding, in channels-last: each result is one sum over the channels of its
   k x k pixels.  Channels go by pairs of vectors, 32 at a time: of float32 the first and the second sixteen, of bfloat16 the even
   and the odd ones, which are had from one word without a shuffle.  Weights (k, k, C), float32, come in that order, and so
   do their gradients. */

#include "vectors.h"

enum { PAIR = 2 * LANES, PIXELS = 4, WIDEST = 1024, LARGEST = 7 }; /* the limits of W and k */

typedef struct {
    int64_t B, C, H, W, k, half, threads;
} Narrow;

typedef struct { /* what one of the functions below is called with */
    const void *in, *with;
    const float *bias;
    void *out;
    const Narrow *sizes;
} Operands;

typedef struct {
    V a, b;
} Two;

INLINE Two load_two(const void *from, int64_t at, int half) {
    if (!half) return (Two){load(from, at, 0), load(from, at + LANES, 0)};
    V_bits words;
    memcpy(&words, (const uint16_t *)from + at, sizeof words);
    return (Two){(V)(words << 16), (V)(words & 0xffff0000)};
}

INLINE void store_two(void *to, int64_t at, Two pair, int half) {
    if (!half) {
        store(to, at, pair.a, 0), store(to, at + LANES, pair.b, 0);
        return;
    }
    const V_bits words = to_bfloat(pair.a) >> 16 | (to_bfloat(pair.b) & 0xffff0000);
    memcpy((uint16_t *)to + at, &words, sizeof words);
}

/* n results side by side, from the pixel at `x` on, of the window's rows and columns given.  `x` is the pixel under the
   window's corner; it need not be in the image, only what the rows and columns reach. */
INLINE void sums(const void *x, int64_t at, const float *w, const Narrow *g, int64_t rows[2], int64_t columns[2],
                 float *out, const int n, const int half) {
    V sum[PIXELS] = {0}, other[PIXELS] = {0};
    for (int64_t i = rows[0]; i < rows[1]; i++)
        for (int64_t j = columns[0]; j < columns[1]; j++) {
            const int64_t pixel = at + (i * g->W + j) * g->C;
            const float *tap = w + (i * g->k + j) * g->C;
            for (int64_t c = 0; c < g->C; c += PAIR) {
                const Two weight = load_two(tap, c, 0);
                for (int p = 0; p < n; p++) {
                    const Two value = load_two(x, pixel + p * g->C + c, half);
                    sum[p] += value.a * weight.a, other[p] += value.b * weight.b;
                }
            }
        }
    for (int p = 0; p < n; p++) {
        const V all = sum[p] + other[p];
        float total = 0;
        for (int lane = 0; lane < LANES; lane++) total += all[lane];
        out[p] = total;
    }
}

/* Lines of results; a job is one line of one image. */
INLINE void lines(const void *arguments, int64_t job, int64_t end, const int half) {
    const Operands *operands = arguments;
    const Narrow g = *operands->sizes;
    const int64_t p = g.k / 2;
    const float bias = operands->bias ? *operands->bias : 0;
    for (; job < end; job++) {
        const int64_t b = job / g.H, y = job % g.H;
        int64_t rows[2] = {y < p ? p - y : 0, y + p < g.H ? g.k : g.H - y + p}, whole[2] = {0, g.k};
        for (int64_t x = 0; x < g.W;) {
            const int64_t at = ((b * g.H + y - p) * g.W + x - p) * g.C;
            float result[PIXELS];
            int n = 1;
            if (x >= p && x + PIXELS + p <= g.W) {
                n = PIXELS;
                sums(operands->in, at, operands->with, &g, rows, whole, result, PIXELS, half);
            } else {
                int64_t columns[2] = {x < p ? p - x : 0, x + p < g.W ? g.k : g.W - x + p};
                sums(operands->in, at, operands->with, &g, rows, columns, result, 1, half);
            }
            for (int i = 0; i < n; i++) put_one(operands->out, job * g.W + x + i, result[i] + bias, half);
            x += n;
        }
    }
}

/* Line y of a map (B, H, W), with k / 2 zeros before and behind. */
INLINE void padded(const void *map, const Narrow *g, int64_t b, int64_t y, float *line, const int half) {
    const int64_t p = g->k / 2;
    memset(line, 0, (g->W + 2 * p) * sizeof *line);
    for (int64_t x = 0; x < g->W; x++) line[p + x] = one(map, (b * g->H + y) * g->W + x, half);
}

/* Gradient lines of the input from those of the results, `in`: the weights' window lies turned. */
INLINE void spread_pixels(float line[LARGEST][WIDEST + LARGEST], const float *w, const Narrow *g, void *out, int64_t at,
                          int64_t x, int64_t rows[2], const int n, const int half) {
    for (int64_t c = 0; c < g->C; c += PAIR) {
        Two slope[PIXELS] = {0};
        for (int64_t i = rows[0]; i < rows[1]; i++)
            for (int64_t j = 0; j < g->k; j++) {
                const Two weight = load_two(w, (i * g->k + j) * g->C + c, 0);
                const float *grad = line[i] + x + g->k - 1 - j;
                for (int p = 0; p < n; p++) slope[p].a += grad[p] * weight.a, slope[p].b += grad[p] * weight.b;
            }
        for (int p = 0; p < n; p++) store_two(out, at + p * g->C + c, slope[p], half);
    }
}

INLINE void input_lines(const void *arguments, int64_t job, int64_t end, const int half) {
    const Operands *operands = arguments;
    const Narrow g = *operands->sizes;
    const int64_t p = g.k / 2;
    float line[LARGEST][WIDEST + LARGEST];
    for (; job < end; job++) {
        const int64_t b = job / g.H, y = job % g.H;
        int64_t rows[2] = {y + p < g.H ? 0 : y + p - g.H + 1, y - p >= 0 ? g.k : y + p + 1}, x = 0;
        for (int64_t i = rows[0]; i < rows[1]; i++) padded(operands->in, &g, b, y + p - i, line[i], half);
        for (; x + PIXELS <= g.W; x += PIXELS)
            spread_pixels(line, operands->with, &g, operands->out, (job * g.W + x) * g.C, x, rows, PIXELS, half);
        for (; x < g.W; x++) spread_pixels(line, operands->with, &g, operands->out, (job * g.W + x) * g.C, x, rows, 1, half);
    }
}

/* Adds to the weights' gradient what one line of the input gives, for one of their rows. */
INLINE void gather_row(const void *x, int64_t at, const float *line, float *w, const Narrow *g, const int k, const int half) {
    for (int64_t c = 0; c < g->C; c += PAIR) {
        Two sum[LARGEST];
        for (int j = 0; j < k; j++) sum[j] = load_two(w, j * g->C + c, 0);
        for (int64_t column = 0; column < g->W; column++) {
            const Two value = load_two(x, at + column * g->C + c, half);
            for (int j = 0; j < k; j++) {
                const float grad = line[column + k - 1 - j];
                sum[j].a += value.a * grad, sum[j].b += value.b * grad;
            }
        }
        for (int j = 0; j < k; j++) store_two(w, j * g->C + c, sum[j], 0);
    }
}

/* Gradients of the weights, one for each job, which takes an equal share of the images; `out` is zero at first. */
INLINE void weights(const void *arguments, int64_t job, int64_t end, const int half) {
    const Operands *operands = arguments;
    const Narrow g = *operands->sizes;
    const int64_t p = g.k / 2, size = g.k * g.C;
    float line[WIDEST + LARGEST];
    for (; job < end; job++)
        for (int64_t b = job * g.B / g.threads; b < (job + 1) * g.B / g.threads; b++)
            for (int64_t y = 0; y < g.H; y++) {
                padded(operands->with, &g, b, y, line, half);
                for (int64_t i = 0; i < g.k; i++) {
                    const int64_t row = y - p + i, at = (b * g.H + row) * g.W * g.C;
                    float *w = (float *)operands->out + (job * g.k + i) * size;
                    if (row < 0 || row >= g.H) continue;
                    if (g.k == 1) gather_row(operands->in, at, line, w, &g, 1, half);
                    else if (g.k == 3) gather_row(operands->in, at, line, w, &g, 3, half);
                    else if (g.k == 5) gather_row(operands->in, at, line, w, &g, 5, half);
                    else gather_row(operands->in, at, line, w, &g, 7, half);
                }
            }
}

static void lines_float(const void *operands, int64_t first, int64_t end) { lines(operands, first, end, 0); }
static void lines_half(const void *operands, int64_t first, int64_t end) { lines(operands, first, end, 1); }
static void input_float(const void *operands, int64_t first, int64_t end) { input_lines(operands, first, end, 0); }
static void input_half(const void *operands, int64_t first, int64_t end) { input_lines(operands, first, end, 1); }
static void weights_float(const void *operands, int64_t first, int64_t end) { weights(operands, first, end, 0); }
static void weights_half(const void *operands, int64_t first, int64_t end) { weights(operands, first, end, 1); }

/* x (B, H, W, C), weight (k, k, C), bias (1) or none -> out (B, H, W). */
EXPORT void narrow(const void *x, const float *weight, const float *bias, void *out, const Narrow *g) {
    const Operands operands = {x, weight, bias, out, g};
    parallel(g->half ? lines_half : lines_float, &operands, g->B * g->H, g->threads);
}

/* grad (B, H, W), weight (k, k, C) -> out (B, H, W, C). */
EXPORT void narrow_input(const void *grad, const float *weight, void *out, const Narrow *g) {
    const Operands operands = {grad, weight, 0, out, g};
    parallel(g->half ? input_half : input_float, &operands, g->B * g->H, g->threads);
}

/* x (B, H, W, C), grad (B, H, W) -> out (threads, k, k, C), to be summed; zero when called. */
EXPORT void narrow_weight(const void *x, const void *grad, float *out, const Narrow *g) {
    const Operands operands = {x, grad, 0, out, g};
    parallel(g->half ? weights_half : weights_float, &operands, g->threads, g->threads);
}
