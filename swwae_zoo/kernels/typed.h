/* The three operations of windows.c for one element type.  The includer defines
     T          storage type             NAME(f)    f with the type's suffix
     BITS       unsigned integer of its size, to select values without a branch
     SIGNED     signed integer of its size          LANES64, LANES32, LANES16    of T in so many bytes
     SUM        type to add in           LOAD(t)    T -> SUM            STORE(s)   SUM -> T
     BEATS(a, m)  whether a takes the place of the maximum m: a > m, or a is NaN
     LOWEST     minus infinity                   INFINITE   for half precision: infinity's bits     */

#if VECTOR >= 64
#define LANES LANES64
#include "lanes.h"
#endif
#if VECTOR >= 32
#define LANES LANES32
#include "lanes.h"
#endif
#define LANES LANES16
#include "lanes.h"

/* n windows of 2x2 that lie whole in two rows of the image, side by side: in NCHW, where a window's left and right pixel are
   neighbours, or n channels of one window in channels-last, where they are `apart`, C. */

INLINE void NAME(pool_position)(const T *x, BITS *best, BITS *at, BITS position) { /* without a branch: none could be foreseen */
    T m;
    BITS v;
    memcpy(&m, best, sizeof m);
    memcpy(&v, x, sizeof v);
    const BITS mask = IF(BEATS(*x, m));
    *best = (v & mask) | (*best & ~mask);
    *at = (position & mask) | (*at & ~mask);
}

INLINE void NAME(pool_pairs)(const T *upper, const T *lower, int64_t apart, T *what, uint8_t *where, int64_t n) {
    int64_t i = 0;
    BY_LANES(pool, upper, lower, apart, what, where);
    const int64_t step = apart ? 1 : 2, right = apart ? apart : 1;
    for (; i < n; i++) {
        const T pixel[4] = {upper[i * step], upper[i * step + right], lower[i * step], lower[i * step + right]};
        BITS best, at = 0;
        memcpy(&best, pixel, sizeof best);
#pragma GCC unroll 3
        for (int p = 1; p < 4; p++) NAME(pool_position)(pixel + p, &best, &at, (BITS)p);
        memcpy(what + i, &best, sizeof best);
        where[i] = (uint8_t)at;
    }
}

INLINE void NAME(put_pairs)(const T *values, const uint8_t *where, T *upper, T *lower, int64_t apart, int64_t n,
                            int past) {
    int64_t i = 0;
    BY_LANES(put, values, where, upper, lower, apart, past);
    const int64_t step = apart ? 1 : 2, right = apart ? apart : 1;
    for (; i < n; i++) {
        T *const pixel[4] = {upper + i * step, upper + i * step + right, lower + i * step, lower + i * step + right};
        BITS value;
        memcpy(&value, values + i, sizeof value);
#pragma GCC unroll 4
        for (int p = 0; p < 4; p++) {
            const BITS kept = value & IF(where[i] == p);
            memcpy(pixel[p], &kept, sizeof kept);
        }
    }
}

INLINE void NAME(pick_pairs)(const T *upper, const T *lower, int64_t apart, const uint8_t *where, T *out, int64_t n) {
    int64_t i = 0;
    BY_LANES(pick, upper, lower, apart, where, out);
    const int64_t step = apart ? 1 : 2, right = apart ? apart : 1;
    for (; i < n; i++) {
        const T pixel[4] = {upper[i * step], upper[i * step + right], lower[i * step], lower[i * step + right]};
        BITS bits[4];
        memcpy(bits, pixel, sizeof bits);
        const BITS found = (bits[0] & IF(where[i] == 0)) | (bits[1] & IF(where[i] == 1)) | (bits[2] & IF(where[i] == 2)) |
                           (bits[3] & IF(where[i] == 3));
        memcpy(out + i, &found, sizeof found);
    }
}

/* The maximum of the window's positions inside the image, and which: first maximum, last NaN. */

INLINE void NAME(pool_channels)(const T *restrict x, T *restrict best, uint8_t *restrict where, int64_t n, uint8_t at) {
    for (int64_t i = 0; i < n; i++) {
        const T m = best[i], v = x[i];
        const uint8_t before = where[i];
        where[i] = BEATS(v, m) ? at : before;
        best[i] = BEATS(v, m) ? v : m;
    }
}

static void NAME(pool_pixel)(const T *x, T *what, uint8_t *where, const Shape *g, int64_t oh, int64_t ow) {
    const int64_t C = g->C, line = g->W * C, top = oh * g->sh - g->ph, left = ow * g->sw - g->pw;
    if (g->kh == 2 && g->kw == 2 && top >= 0 && left >= 0 && top + 2 <= g->H && left + 2 <= g->W) {
        const T *pixel = x + top * line + left * C;
        NAME(pool_pairs)(pixel, pixel + line, C, what, where, C);
        return;
    }
    const int64_t r0 = top < 0 ? -top : 0, r1 = top + g->kh > g->H ? g->H - top : g->kh;
    const int64_t c0 = left < 0 ? -left : 0, c1 = left + g->kw > g->W ? g->W - left : g->kw;
    memcpy(what, x + (top + r0) * line + (left + c0) * C, C * sizeof(T));
    memset(where, (int)(r0 * g->kw + c0), C);
    for (int64_t r = r0; r < r1; r++)
        for (int64_t c = c0; c < c1; c++)
            if (r > r0 || c > c0)
                NAME(pool_channels)(x + (top + r) * line + (left + c) * C, what, where, C, (uint8_t)(r * g->kw + c));
}

/* Every `step`th of the pixels from .. end goes to the same hand. */
INLINE void NAME(deal)(const T *restrict x, T (*restrict hands)[2 * TILE], int64_t from, int64_t end, const int64_t step) {
    for (; from < end && from % step; from++) hands[from % step][from / step] = x[from];
    const int64_t turns = end > from ? (end - from) / step : 0, start = from / step;
    for (int64_t j = start; j < start + turns; j++)
        for (int64_t s = 0; s < step; s++) hands[s][j] = x[j * step + s];
    for (from += turns * step; from < end; from++) hands[from % step][from / step] = x[from];
}

/* n <= TILE windows of a line of NCHW, from ow on.  A row of the image, with the lowest number for what lies outside, is dealt
   out by its columns' remainders, so that the windows' column c stands side by side. */
static void NAME(pool_tile)(const T *x, T *what, uint8_t *where, const Shape *g, int64_t top, int64_t ow, int64_t n) {
    T hands[DEALT][2 * TILE];
    BITS best[TILE], at[TILE];
    const int64_t r0 = top < 0 ? -top : 0, r1 = top + g->kh > g->H ? g->H - top : g->kh, left = ow * g->sw - g->pw;
    const int64_t pixels = (n - 1) * g->sw + g->kw, end = pixels < g->W - left ? pixels : g->W - left;
    const int64_t from = left < 0 ? -left : 0;
    for (int64_t s = 0; s < g->sw; s++)
        for (int64_t j = 0; j < 2 * TILE; j++) hands[s][j] = (T)LOWEST;
    for (int64_t i = 0; i < TILE; i++) at[i] = (BITS)(r0 * g->kw + (i * g->sw < from ? from - i * g->sw : 0));
    memcpy(best, hands, sizeof best);
    for (int64_t r = r0; r < r1; r++) {
        const T *row = x + (top + r) * g->W + left;
        if (g->sw == 2) NAME(deal)(row, hands, from, end, 2);
        else if (g->sw == 3) NAME(deal)(row, hands, from, end, 3);
        else if (g->sw == 4) NAME(deal)(row, hands, from, end, 4);
        else NAME(deal)(row, hands, from, end, g->sw);
        for (int64_t c = 0; c < g->kw; c++) {
            const T *column = hands[c % g->sw] + c / g->sw;
            int64_t i = 0;
            BY_LANES(pool_position, column, best, at, (BITS)(r * g->kw + c));
            for (; i < n; i++) NAME(pool_position)(column + i, best + i, at + i, (BITS)(r * g->kw + c));
        }
    }
    memcpy(what, best, n * sizeof(T));
    for (int64_t i = 0; i < n; i++) where[i] = (uint8_t)at[i];
}

/* The same for windows of any width and stride. */
static void NAME(pool_window)(const T *x, T *what, uint8_t *where, const Shape *g, int64_t top, int64_t ow) {
    const int64_t left = ow * g->sw - g->pw;
    const int64_t r0 = top < 0 ? -top : 0, r1 = top + g->kh > g->H ? g->H - top : g->kh;
    const int64_t c0 = left < 0 ? -left : 0, c1 = left + g->kw > g->W ? g->W - left : g->kw;
    const T *q = x + top * g->W + left;
    T m = q[r0 * g->W + c0];
    int64_t at = r0 * g->kw + c0;
    for (int64_t r = r0; r < r1; r++)
        for (int64_t c = c0; c < c1; c++) {
            const T v = q[r * g->W + c];
            if (BEATS(v, m) && !(r == r0 && c == c0)) m = v, at = r * g->kw + c;
        }
    *what = m;
    *where = (uint8_t)at;
}

static void NAME(pool_line)(const T *x, T *what, uint8_t *where, const Shape *g, int64_t oh) {
    const int64_t top = oh * g->sh - g->ph;
    int64_t ow = 0;
    if (TWO_BY_TWO(*g) && top + 2 <= g->H) {
        ow = g->w < g->W / 2 ? g->w : g->W / 2;
        NAME(pool_pairs)(x + top * g->W, x + (top + 1) * g->W, 0, what, where, ow);
    } else if (g->sw <= DEALT && g->kw <= TILE) {
        for (; ow < g->w; ow += TILE) NAME(pool_tile)(x, what + ow, where + ow, g, top, ow, g->w - ow < TILE ? g->w - ow : TILE);
    }
    for (; ow < g->w; ow++) NAME(pool_window)(x, what + ow, where + ow, g, top, ow);
}

static void NAME(pool_jobs)(const void *arguments, int64_t job, int64_t last_job) {
    const Maps *maps = arguments;
    const Shape g = *maps->shape;
    const T *x = maps->in;
    T *what = maps->out;
    uint8_t *where = maps->where;
    const int64_t C = g.last ? g.C : 1, jobs = g.last ? g.h : 1;
    for (; job < last_job; job++) {
        const int64_t plane = job / jobs, first = g.last ? job % jobs : 0, end = g.last ? first + 1 : g.h;
        const T *image = x + plane * g.H * g.W * C;
        int64_t oh = first;
#ifdef ROWS
        oh += ROWS(g);
        WITH(pool, LANES64)(image, image + g.W, -1, what + plane * g.h * g.w, where + plane * g.h * g.w, 0, ROWS(g) * g.w);
#endif
        for (; oh < end; oh++) {
            const int64_t line = (plane * g.h + oh) * g.w * C;
            if (!g.last) NAME(pool_line)(image, what + line, where + line, &g, oh);
            else
                for (int64_t ow = 0; ow < g.w; ow++)
                    NAME(pool_pixel)(image, what + line + ow * C, where + line + ow * C, &g, oh, ow);
        }
    }
}

EXPORT void NAME(pool)(const T *x, T *what, uint8_t *where, const Shape *g) {
    const Maps maps = {x, what, where, g};
    parallel(NAME(pool_jobs), &maps, g->last ? g->B * g->h : g->B * g->C, g->threads);
}

/* Every pixel looks at the windows that it lies in: one at most unless they overlap. */

INLINE void NAME(put_alone)(const BITS *restrict v, const uint8_t *restrict at, BITS *restrict out, int64_t n, uint8_t position) {
    for (int64_t i = 0; i < n; i++) out[i] = v[i] & IF(at[i] == position);
}

/* Row y, from column x on. */
static void NAME(put_row)(const T *values, const uint8_t *at, T *out, const Shape *g, int64_t y, int64_t x) {
    const int64_t oh = (y + g->ph) / g->sh, row = (y + g->ph) % g->sh, C = g->last ? g->C : 1;
    if (oh < g->h && row < g->kh) {
        const BITS *v = (const BITS *)values + oh * g->w * C;
        at += oh * g->w * C;
        int64_t ow = (x + g->pw) / g->sw, column = (x + g->pw) % g->sw;
        for (; x < g->W && ow < g->w; x++) {
            if (column >= g->kw) memset(out + x * C, 0, C * sizeof(T));
            else NAME(put_alone)(v + ow * C, at + ow * C, (BITS *)out + x * C, C, (uint8_t)(row * g->kw + column));
            if (++column == g->sw) column = 0, ow++;
        }
    }
    memset(out + x * C, 0, (g->W - x) * C * sizeof(T));
}

/* A plane of NCHW: zeros first, then each value goes where it belongs. */
static void NAME(put_plane)(const T *values, const uint8_t *at, T *image, const Shape *g) {
    memset(image, 0, g->H * g->W * sizeof(T));
    for (int64_t oh = 0; oh < g->h; oh++)
        for (int64_t ow = 0; ow < g->w; ow++, values++, at++) {
            const int64_t y = oh * g->sh - g->ph + g->row[*at], x = ow * g->sw - g->pw + g->column[*at];
            if (*at < g->kh * g->kw && y >= 0 && y < g->H && x >= 0 && x < g->W) image[y * g->W + x] = *values;
        }
}

/* Rows y and y + 1 of 2x2 windows without padding. */
static void NAME(put_band)(const T *values, const uint8_t *where, T *image, const Shape *g, int64_t y) {
    const int64_t C = g->last ? g->C : 1, oh = y / 2, line = g->W * C, end = y + 2 < g->H ? y + 2 : g->H;
    const int past = g->B * g->C * g->H * g->W * (int64_t)sizeof(T) >= PAST;
    int64_t n = 0;
    if (oh < g->h && y + 2 <= g->H) {
        const T *v = values + oh * g->w * C;
        const uint8_t *at = where + oh * g->w * C;
        T *upper = image + y * line, *lower = upper + line;
        n = g->w < g->W / 2 ? g->w : g->W / 2;
        if (!g->last) NAME(put_pairs)(v, at, upper, lower, 0, n, past);
        else
            for (int64_t ow = 0; ow < n; ow++)
                NAME(put_pairs)(v + ow * C, at + ow * C, upper + 2 * ow * C, lower + 2 * ow * C, C, C, past);
    }
    for (; y < end && 2 * n < g->W; y++) NAME(put_row)(values, where, image + y * line, g, y, 2 * n);
}

/* A row of overlapping windows, in channels-last. */
static void NAME(put_row_overlapping)(const T *restrict v, const uint8_t *restrict at, T *restrict out, const Shape *g,
                                      int64_t y) {
    const int64_t C = g->C;
    const Range rows = windows_of(y + g->ph, g->kh, g->sh, g->h);
    for (int64_t x = 0; x < g->W; x++) {
        const Range columns = windows_of(x + g->pw, g->kw, g->sw, g->w);
        for (int64_t from = 0; from < C; from += BLOCK) {
            const int64_t n = C - from < BLOCK ? C - from : BLOCK;
            SUM sum[BLOCK] = {0}, count[BLOCK] = {0};
            for (int64_t oh = rows.first; oh < rows.end; oh++)
                for (int64_t ow = columns.first; ow < columns.end; ow++) {
                    const uint8_t position =
                        (uint8_t)((y + g->ph - oh * g->sh) * g->kw + x + g->pw - ow * g->sw);
                    const T *value = v + (oh * g->w + ow) * C + from;
                    const uint8_t *chosen = at + (oh * g->w + ow) * C + from;
                    for (int64_t i = 0; i < n; i++) {
                        sum[i] += chosen[i] == position ? LOAD(value[i]) : (SUM)0;
                        count[i] += chosen[i] == position ? (SUM)1 : (SUM)0;
                    }
                }
            for (int64_t i = 0; i < n; i++)
                out[x * C + from + i] = STORE(g->mean && count[i] > 1 ? sum[i] / count[i] : sum[i]);
        }
    }
}

/* The same in NCHW: the windows send their values, in the same order, instead of the pixels asking for them. */
static void NAME(put_row_of_plane)(const T *v, const uint8_t *at, T *out, const Shape *g, int64_t y) {
    const Range rows = windows_of(y + g->ph, g->kh, g->sh, g->h);
    for (int64_t from = 0; from < g->W; from += BLOCK) {
        const int64_t n = g->W - from < BLOCK ? g->W - from : BLOCK;
        const int64_t first = windows_of(from + g->pw, g->kw, g->sw, g->w).first;
        const int64_t end = windows_of(from + n - 1 + g->pw, g->kw, g->sw, g->w).end;
        SUM sum[BLOCK] = {0}, count[BLOCK] = {0};
        for (int64_t oh = rows.first; oh < rows.end; oh++) {
            const int64_t position = (y + g->ph - oh * g->sh) * g->kw;
            for (int64_t ow = first; ow < end; ow++) {
                const int64_t column = at[oh * g->w + ow] - position, x = ow * g->sw - g->pw + column - from;
                if (column < 0 || column >= g->kw || x < 0 || x >= n) continue;
                sum[x] += LOAD(v[oh * g->w + ow]);
                count[x] += (SUM)1;
            }
        }
        for (int64_t i = 0; i < n; i++) out[from + i] = STORE(g->mean && count[i] > 1 ? sum[i] / count[i] : sum[i]);
    }
}

static void NAME(put_jobs)(const void *arguments, int64_t job, int64_t last_job) {
    const Maps *maps = arguments;
    const Shape g = *maps->shape;
    const T *values = maps->in;
    T *out = maps->out;
    const uint8_t *where = maps->where;
    const int overlapping = g.sh < g.kh || g.sw < g.kw, pairs = PAIRS(g);
    const int64_t C = g.last ? g.C : 1, band = pairs ? 2 : 1, bands = (g.H + band - 1) / band, jobs = g.last ? bands : 1;
    for (; job < last_job; job++) {
        const int64_t plane = job / jobs, first = g.last ? job % jobs : 0, end = g.last ? first + 1 : bands;
        const T *v = values + plane * g.h * g.w * C;
        const uint8_t *at = where + plane * g.h * g.w * C;
        T *image = out + plane * g.H * g.W * C;
        int64_t y = first * band;
#ifdef ROWS
        y += 2 * ROWS(g);
        WITH(put, LANES64)(v, at, image, image + g.W, -1, g.B * g.C * g.H * g.W * (int64_t)sizeof(T) >= PAST, 0, ROWS(g) * g.w);
#endif
        if (!g.last && !overlapping && !pairs) NAME(put_plane)(v, at, image, &g);
        else
            for (; y < end * band; y += band) {
                if (pairs) NAME(put_band)(v, at, image, &g, y);
                else if (!overlapping) NAME(put_row)(v, at, image + y * g.W * C, &g, y, 0);
                else if (g.last) NAME(put_row_overlapping)(v, at, image + y * g.W * C, &g, y);
                else NAME(put_row_of_plane)(v, at, image + y * g.W, &g, y);
            }
        if (pairs) FENCE();
    }
}

EXPORT void NAME(put)(const T *values, const uint8_t *where, T *out, const Shape *g) {
    const Maps maps = {values, out, (uint8_t *)where, g};
    const int64_t band = PAIRS(*g) ? 2 : 1, bands = (g->H + band - 1) / band;
    parallel(NAME(put_jobs), &maps, g->last ? g->B * bands : g->B * g->C, g->threads);
}

/* The value at each position; 0 for a position outside the image, which no pool of ours makes. */
static void NAME(pick_pixel)(const T *image, const uint8_t *where, T *out, const Shape *g, int64_t oh, int64_t ow) {
    const int64_t C = g->last ? g->C : 1, line = g->W * C, top = oh * g->sh - g->ph, left = ow * g->sw - g->pw;
    const int inside = top >= 0 && left >= 0 && top + g->kh <= g->H && left + g->kw <= g->W;
    const uint8_t *at = where + (oh * g->w + ow) * C;
    if (inside && g->last && !g->mean && g->kh == 2 && g->kw == 2) {
        const T *pixel = image + top * line + left * C;
        NAME(pick_pairs)(pixel, pixel + line, C, at, out, C);
        return;
    }
    for (int64_t i = 0; i < C; i++) {
        const int64_t y = top + g->row[at[i]], x = left + g->column[at[i]];
        if (at[i] >= g->kh * g->kw || (!inside && (y < 0 || y >= g->H || x < 0 || x >= g->W))) {
            out[i] = (T)0;
            continue;
        }
        const T found = image[y * line + x * C + i];
        const int64_t count = g->mean ? choosers(where + i, g, C, y, x) : 1;
        out[i] = count > 1 ? STORE(LOAD(found) / (SUM)count) : found;
    }
}

static void NAME(pick_jobs)(const void *arguments, int64_t job, int64_t last_job) {
    const Maps *maps = arguments;
    const Shape g = *maps->shape;
    const T *image = maps->in;
    T *out = maps->out;
    const uint8_t *where = maps->where;
    const int64_t C = g.last ? g.C : 1, jobs = g.last ? g.h : 1;
    const int pairs = !g.last && !g.mean && TWO_BY_TWO(g);
    for (; job < last_job; job++) {
        const int64_t plane = job / jobs, first = g.last ? job % jobs : 0, end = g.last ? first + 1 : g.h;
        const T *x = image + plane * g.H * g.W * C;
        const uint8_t *at = where + plane * g.h * g.w * C;
        T *o = out + plane * g.h * g.w * C;
        int64_t oh = first;
#ifdef ROWS
        if (pairs) {
            oh += ROWS(g);
            WITH(pick, LANES64)(x, x + g.W, -1, at, o, 0, ROWS(g) * g.w);
        }
#endif
        for (; oh < end; oh++) {
            const int64_t top = oh * g.sh;
            int64_t ow = 0;
            if (pairs && top + 2 <= g.H) {
                ow = g.w < g.W / 2 ? g.w : g.W / 2;
                NAME(pick_pairs)(x + top * g.W, x + (top + 1) * g.W, 0, at + oh * g.w, o + oh * g.w, ow);
            }
            for (; ow < g.w; ow++) NAME(pick_pixel)(x, at, o + (oh * g.w + ow) * C, &g, oh, ow);
        }
    }
}

EXPORT void NAME(pick)(const T *image, const uint8_t *where, T *out, const Shape *g) {
    const Maps maps = {image, out, (uint8_t *)where, g};
    parallel(NAME(pick_jobs), &maps, g->last ? g->B * g->h : g->B * g->C, g->threads);
}

#undef T
#undef BITS
#undef SIGNED
#undef LANES64
#undef LANES32
#undef LANES16
#undef NAME
#undef SUM
#undef LOAD
#undef STORE
#undef BEATS
#undef LOWEST
#undef INFINITE
