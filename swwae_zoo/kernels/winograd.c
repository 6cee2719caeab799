/* Convolutions of 3x3, stride 1, padding 1 in channels-last, by Winograd's F(2x2, 3x3): 16 products for four results instead of
   36.  A tile is 2x2 pixels of the output, seen with its border as 4x4 of the input; `points` (16, tiles, C) holds all tiles
   transformed.  The products between are matrix products, left to torch.  (Lavin and Gray, arXiv:1509.09308.) */

#include "vectors.h"

typedef struct {
    int64_t C, H, W, first, count; /* the tiles from the first one on */
    int64_t half, threads;         /* bfloat16, else float32 */
} Tiles;

typedef struct { /* what one of the functions below is called with */
    const void *in;
    const float *bias;
    void *out;
    const Tiles *tiles;
    int *finite; /* set to 0 where a result is infinite or NaN */
} Maps;

/* The three transforms of one line, and their transposes: s and t are the strides of what is read and written. */
INLINE void see(const V *d, int s, V *o, int t) { /* B^T: 4 -> 4 */
    o[0] = d[0] - d[2 * s], o[t] = d[s] + d[2 * s], o[2 * t] = d[2 * s] - d[s], o[3 * t] = d[s] - d[3 * s];
}
INLINE void gather(const V *m, int s, V *o, int t) { /* A^T: 4 -> 2 */
    o[0] = m[0] + m[s] + m[2 * s], o[t] = m[s] - m[2 * s] - m[3 * s];
}
INLINE void scatter(const V *g, int s, V *o, int t) { /* A: 2 -> 4 */
    o[0] = g[0], o[t] = g[0] + g[s], o[2 * t] = g[0] - g[s], o[3 * t] = -g[s];
}
INLINE void filter(const V *w, int s, V *o, int t) { /* G: 3 -> 4 */
    const V sum = w[0] + w[2 * s];
    o[0] = w[0], o[t] = (sum + w[s]) * 0.5f, o[2 * t] = (sum - w[s]) * 0.5f, o[3 * t] = w[2 * s];
}
INLINE void unfilter(const V *m, int s, V *o, int t) { /* G^T: 4 -> 3 */
    const V sum = (m[s] + m[2 * s]) * 0.5f;
    o[0] = m[0] + sum, o[t] = (m[s] - m[2 * s]) * 0.5f, o[2 * t] = sum + m[3 * s];
}

/* Where an element of `seen` isn't 0, a result was infinite or NaN, times 0. */
INLINE void report(V seen, int *finite) {
    for (int lane = 0; lane < LANES; lane++)
        if (seen[lane] != 0) __atomic_store_n(finite, 0, __ATOMIC_RELAXED);
}

/* Tiles of an image (B, H, W, C) -> points: with their border for a convolution's input, alone for its gradient. */
INLINE void spread_as(const void *arguments, int64_t tile, int64_t end, const int border, const int half) {
    const Maps *maps = arguments;
    const Tiles g = *maps->tiles;
    const void *image = maps->in;
    void *points = maps->out;
    const int64_t rows = (g.H + 1) / 2, columns = (g.W + 1) / 2, side = border ? 4 : 2;
    for (; tile < end; tile++) {
        const int64_t at = g.first + tile, b = at / (rows * columns);
        const int64_t y0 = at / columns % rows * 2 - border, x0 = at % columns * 2 - border;
        for (int64_t c = 0; c < g.C; c += LANES) {
            V pixel[16], half_way[16] = {0}, point[16];
            for (int i = 0; i < side; i++)
                for (int j = 0; j < side; j++) {
                    const int64_t y = y0 + i, x = x0 + j;
                    const int inside = y >= 0 && y < g.H && x >= 0 && x < g.W;
                    pixel[4 * i + j] = inside ? load(image, ((b * g.H + y) * g.W + x) * g.C + c, half) : (V){0};
                }
            for (int j = 0; j < side; j++) border ? see(pixel + j, 4, half_way + j, 4) : scatter(pixel + j, 4, half_way + j, 4);
            for (int i = 0; i < 4; i++)
                border ? see(half_way + 4 * i, 1, point + 4 * i, 1) : scatter(half_way + 4 * i, 1, point + 4 * i, 1);
            for (int p = 0; p < 16; p++) store(points, (p * g.count + tile) * g.C + c, point[p], half);
        }
    }
}

static void input_float(const void *maps, int64_t first, int64_t end) { spread_as(maps, first, end, 1, 0); }
static void input_half(const void *maps, int64_t first, int64_t end) { spread_as(maps, first, end, 1, 1); }
static void gradient_float(const void *maps, int64_t first, int64_t end) { spread_as(maps, first, end, 0, 0); }
static void gradient_half(const void *maps, int64_t first, int64_t end) { spread_as(maps, first, end, 0, 1); }

EXPORT void spread_input(const void *image, void *points, const Tiles *g) {
    const Maps maps = {.in = image, .out = points, .tiles = g};
    parallel(g->half ? input_half : input_float, &maps, g->count, g->threads);
}

EXPORT void spread_gradient(const void *image, void *points, const Tiles *g) {
    const Maps maps = {.in = image, .out = points, .tiles = g};
    parallel(g->half ? gradient_half : gradient_float, &maps, g->count, g->threads);
}

/* Points -> their tiles of the output, plus the bias.  Returns whether all of the results are finite. */
INLINE void collect_as(const void *arguments, int64_t tile, int64_t end, const int half) {
    const Maps *maps = arguments;
    const Tiles g = *maps->tiles;
    const void *points = maps->in;
    const float *bias = maps->bias;
    void *image = maps->out;
    const int64_t rows = (g.H + 1) / 2, columns = (g.W + 1) / 2;
    V seen = {0};
    for (; tile < end; tile++) {
        const int64_t at = g.first + tile, b = at / (rows * columns), y0 = at / columns % rows * 2, x0 = at % columns * 2;
        for (int64_t c = 0; c < g.C; c += LANES) {
            V point[16], half_way[8], pixel[4], added = {0};
            for (int p = 0; p < 16; p++) point[p] = load(points, (p * g.count + tile) * g.C + c, half);
            for (int j = 0; j < 4; j++) gather(point + j, 4, half_way + j, 4);
            for (int i = 0; i < 2; i++) gather(half_way + 4 * i, 1, pixel + 2 * i, 1);
            if (bias) memcpy(&added, bias + c, sizeof added);
            for (int i = 0; i < 2 && y0 + i < g.H; i++)
                for (int j = 0; j < 2 && x0 + j < g.W; j++) {
                    const V result = pixel[2 * i + j] + added;
                    seen += result * 0.0f;
                    store(image, ((b * g.H + y0 + i) * g.W + x0 + j) * g.C + c, result, half);
                }
        }
    }
    report(seen, maps->finite);
}

static void collect_float(const void *maps, int64_t first, int64_t end) { collect_as(maps, first, end, 0); }
static void collect_half(const void *maps, int64_t first, int64_t end) { collect_as(maps, first, end, 1); }

EXPORT int collect(const void *points, const float *bias, void *image, const Tiles *g) {
    int finite = 1;
    const Maps maps = {points, bias, image, g, &finite};
    parallel(g->half ? collect_half : collect_float, &maps, g->count, g->threads);
    return finite;
}

/* Weights (count, 3, 3, C), turned by 180 degrees if `first`, -> points (16, count, C), and the way back. */
static void spread_weights(const void *arguments, int64_t k, int64_t end) {
    const Maps *maps = arguments;
    const Tiles g = *maps->tiles;
    const float *weight = maps->in;
    void *points = maps->out;
    for (; k < end; k++)
        for (int64_t c = 0; c < g.C; c += LANES) {
            V tap[9], half_way[12], point[16];
            for (int p = 0; p < 9; p++) tap[g.first ? 8 - p : p] = load(weight, (k * 9 + p) * g.C + c, 0);
            for (int j = 0; j < 3; j++) filter(tap + j, 3, half_way + j, 3);
            for (int i = 0; i < 4; i++) filter(half_way + 3 * i, 1, point + 4 * i, 1);
            for (int p = 0; p < 16; p++) store(points, (p * g.count + k) * g.C + c, point[p], (int)g.half);
        }
}

EXPORT void spread_weight(const float *weight, void *points, const Tiles *g) {
    const Maps maps = {.in = weight, .out = points, .tiles = g};
    parallel(spread_weights, &maps, g->count, g->threads);
}

static void collect_weights(const void *arguments, int64_t k, int64_t end) {
    const Maps *maps = arguments;
    const Tiles g = *maps->tiles;
    const float *points = maps->in;
    float *weight = maps->out;
    V seen = {0};
    for (; k < end; k++)
        for (int64_t c = 0; c < g.C; c += LANES) {
            V point[16], half_way[12], tap[9];
            for (int p = 0; p < 16; p++) point[p] = load(points, (p * g.count + k) * g.C + c, 0);
            for (int i = 0; i < 4; i++) unfilter(point + 4 * i, 1, half_way + 3 * i, 1);
            for (int j = 0; j < 3; j++) unfilter(half_way + j, 3, tap + j, 3);
            for (int p = 0; p < 9; p++) {
                seen += tap[p] * 0.0f;
                store(weight, (k * 9 + p) * g.C + c, tap[p], 0);
            }
        }
    report(seen, maps->finite);
}

EXPORT int collect_weight(const float *points, float *weight, const Tiles *g) {
    int finite = 1;
    const Maps maps = {.in = points, .out = weight, .tiles = g, .finite = &finite};
    parallel(collect_weights, &maps, g->count, g->threads);
    return finite;
}
