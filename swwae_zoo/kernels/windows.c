/* Max pooling with its switches, and their two transposes, put and pick (see ../windows.py), in one pass over
   memory each, for both layouts: NCHW, where a plane is (H, W), and channels-last, where it is (H, W, C).
   No function trusts `where`: a position outside the window or the image is left out. */

#include <string.h>

#include "runtime.h"

enum { BLOCK = 64, TILE = 64, DEALT = 16 }; /* pixels summed, windows of a row pooled, at a time; largest stride of those */

typedef struct {
    int64_t B, C, H, W, h, w, kh, kw, sh, sw, ph, pw;
    int64_t last, mean, threads;
    int64_t row[256], column[256]; /* of each position of the window */
} Shape;

typedef struct { /* what one of the three operations is called with */
    const void *in;
    void *out;
    uint8_t *where;
    const Shape *shape;
} Maps;

typedef struct {
    int64_t first, end;
} Range;

#if defined(__AVX512BW__)
#include <immintrin.h>
#define VECTOR 64 /* bytes */
#define FENCE() _mm_sfence()
#elif defined(__AVX2__)
#define VECTOR 32
#else
#define VECTOR 16
#endif

#ifndef FENCE
#define FENCE() ((void)0)
#endif

enum { AHEAD = 4096, PAST = 8 << 20 }; /* bytes: how far to fetch ahead; an image so large is written past the cache */

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, index, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, index, ...) __builtin_shuffle(a, b, (index){__VA_ARGS__})
#endif
#define TURNS2(o) (o), (o) + 2 /* every other lane of two vectors, from o on */
#define TURNS4(o) TURNS2(o), TURNS2((o) + 4)
#define TURNS8(o) TURNS4(o), TURNS4((o) + 8)
#define TURNS16(o) TURNS8(o), TURNS8((o) + 16)
#define TURNS32(o) TURNS16(o), TURNS16((o) + 32)
#define ZIP2(o, n) (o), (o) + (n) /* lanes of two vectors of n in turns, from o on */
#define ZIP4(o, n) ZIP2(o, n), ZIP2((o) + 1, n)
#define ZIP8(o, n) ZIP4(o, n), ZIP4((o) + 2, n)
#define ZIP16(o, n) ZIP8(o, n), ZIP8((o) + 4, n)
#define ZIP32(o, n) ZIP16(o, n), ZIP16((o) + 8, n)

#define GLUE(a, b) a##b
#define PASTE(a, b) GLUE(a, b)
#define WITH(f, lanes) PASTE(NAME(f), PASTE(_, lanes))
#define LANED(f) WITH(f, LANES)
#if VECTOR == 64
#define ROWS(g) rows_together(&(g), LANES64)
#define BY_LANES(f, ...) i = WITH(f, LANES64)(__VA_ARGS__, i, n), i = WITH(f, LANES32)(__VA_ARGS__, i, n), i = WITH(f, LANES16)(__VA_ARGS__, i, n)
#elif VECTOR == 32
#define BY_LANES(f, ...) i = WITH(f, LANES32)(__VA_ARGS__, i, n), i = WITH(f, LANES16)(__VA_ARGS__, i, n)
#else
#define BY_LANES(f, ...) i = WITH(f, LANES16)(__VA_ARGS__, i, n)
#endif
#define TWO_BY_TWO(g) ((g).kh == 2 && (g).kw == 2 && (g).sw == 2 && !(g).ph && !(g).pw)
#define PAIRS(g) (TWO_BY_TWO(g) && (g).sh == 2) /* rows of windows that put fills two rows of pixels at a time from */

#define IF(condition) ((BITS) - (BITS)(condition)) /* all ones, or 0 */

/* How many rows of windows of a plane go in pairs, see lanes.h. */
static inline int64_t rows_together(const Shape *g, int64_t lanes) {
    if (g->last || !TWO_BY_TWO(*g) || g->sh != 2 || g->W != lanes || 2 * g->w != lanes) return 0;
    return (g->h < g->H / 2 ? g->h : g->H / 2) / 2 * 2;
}

/* Windows that the pixel `at` of the padded image lies in, along one side. */
static inline Range windows_of(int64_t at, int64_t kernel, int64_t stride, int64_t count) {
    Range range = {at < kernel ? 0 : (at - kernel) / stride + 1, at / stride + 1};
    if (range.end > count) range.end = count;
    return range;
}

/* How many windows chose the pixel (y, x), in one channel. */
static int64_t choosers(const uint8_t *where, const Shape *g, int64_t C, int64_t y, int64_t x) {
    const Range rows = windows_of(y + g->ph, g->kh, g->sh, g->h), columns = windows_of(x + g->pw, g->kw, g->sw, g->w);
    int64_t count = 0;
    for (int64_t oh = rows.first; oh < rows.end; oh++)
        for (int64_t ow = columns.first; ow < columns.end; ow++)
            count += where[(oh * g->w + ow) * C] == (y + g->ph - oh * g->sh) * g->kw + x + g->pw - ow * g->sw;
    return count;
}

/* The order of half-precision numbers as integers: -0 and 0 are one; a NaN, of either sign, stands above all. */
static inline int16_t order(uint16_t bits, int16_t infinity) {
    const int16_t size = (int16_t)(bits & 0x7fff), minus = (int16_t)((int16_t)bits >> 15);
    const int16_t flip = (int16_t)(minus & -(size <= infinity));
    return (int16_t)((size ^ flip) - flip);
}

static inline int half_beats(uint16_t a, uint16_t m, int16_t infinity) {
    return (order(a, infinity) > order(m, infinity)) | ((int16_t)(a & 0x7fff) > infinity);
}

static inline float bfloat_to_float(uint16_t bits) {
    const uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}

static inline uint16_t float_to_bfloat(float value) { /* to the nearest, ties to even */
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (value != value) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#define T float
#define BITS uint32_t
#define SIGNED int32_t
#define LANES64 16 /* of T in 64, 32 and 16 bytes */
#define LANES32 8
#define LANES16 4
#define NAME(f) f##_float32
#define SUM float
#define LOAD(t) (t)
#define STORE(s) (s)
#define BEATS(a, m) (((a) > (m)) | ((a) != (a)))
#define LOWEST -__builtin_inf()
#include "typed.h"

#define T double
#define BITS uint64_t
#define SIGNED int64_t
#define LANES64 8
#define LANES32 4
#define LANES16 2
#define NAME(f) f##_float64
#define SUM double
#define LOAD(t) (t)
#define STORE(s) (s)
#define BEATS(a, m) (((a) > (m)) | ((a) != (a)))
#define LOWEST -__builtin_inf()
#include "typed.h"

#define T uint16_t
#define BITS uint16_t
#define SIGNED int16_t
#define LANES64 32
#define LANES32 16
#define LANES16 8
#define NAME(f) f##_bfloat16
#define SUM float
#define LOAD(t) bfloat_to_float(t)
#define STORE(s) float_to_bfloat(s)
#define INFINITE 0x7f80
#define BEATS(a, m) half_beats(a, m, INFINITE)
#define LOWEST (0x8000 | INFINITE)
#include "typed.h"

#ifdef __FLT16_MANT_DIG__
static inline float half_to_float(uint16_t bits) {
    _Float16 value;
    memcpy(&value, &bits, 2);
    return (float)value;
}

static inline uint16_t float_to_half(float value) {
    const _Float16 half = (_Float16)value;
    uint16_t bits;
    memcpy(&bits, &half, 2);
    return bits;
}

#define T uint16_t
#define BITS uint16_t
#define SIGNED int16_t
#define LANES64 32
#define LANES32 16
#define LANES16 8
#define NAME(f) f##_float16
#define SUM float
#define LOAD(t) half_to_float(t)
#define STORE(s) float_to_half(s)
#define INFINITE 0x7c00
#define BEATS(a, m) half_beats(a, m, INFINITE)
#define LOWEST (0x8000 | INFINITE)
#include "typed.h"
#endif
