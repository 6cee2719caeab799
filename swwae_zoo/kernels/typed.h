/* The three operations of windows.c for one element type.  The includer defines
     T          storage type             NAME(f)    f with the type's suffix
     BITS       unsigned integer of its size, to select values without a branch
     PAIR       unsigned integer of twice its size, of any alignment: two neighbours in a row, the left one in the low half
     SUM        type to add in           LOAD(t)    T -> SUM            STORE(s)   SUM -> T
     BEATS(a, m)  whether a takes the place of the maximum m: a > m, or a is NaN                       */

/* The maximum of the window's positions inside the image, and which: first maximum, last NaN. */

static inline void NAME(pool_pixel)(const T *restrict x, T *restrict what, uint8_t *restrict where, const Shape *g,
                                    int64_t oh, int64_t ow) {
    const int64_t C = g->C, line = g->W * C, top = oh * g->sh - g->ph, left = ow * g->sw - g->pw;
    if (g->kh == 2 && g->kw == 2 && top >= 0 && left >= 0 && top + 2 <= g->H && left + 2 <= g->W) {
        const T *a = x + top * line + left * C, *b = a + C, *c = a + line, *d = c + C;
        for (int64_t i = 0; i < C; i++) {
            const T second = b[i], third = c[i], fourth = d[i];
            T m = a[i];
            uint8_t at = 0;
            at = BEATS(second, m) ? 1 : at, m = BEATS(second, m) ? second : m;
            at = BEATS(third, m) ? 2 : at, m = BEATS(third, m) ? third : m;
            at = BEATS(fourth, m) ? 3 : at, m = BEATS(fourth, m) ? fourth : m;
            what[i] = m;
            where[i] = at;
        }
        return;
    }
    const int64_t r0 = top < 0 ? -top : 0, r1 = top + g->kh > g->H ? g->H - top : g->kh;
    const int64_t c0 = left < 0 ? -left : 0, c1 = left + g->kw > g->W ? g->W - left : g->kw;
    memcpy(what, x + (top + r0) * line + (left + c0) * C, C * sizeof(T));
    memset(where, (int)(r0 * g->kw + c0), C);
    for (int64_t r = r0; r < r1; r++)
        for (int64_t c = c0; c < c1; c++) {
            if (r == r0 && c == c0) continue;
            const T *q = x + (top + r) * line + (left + c) * C;
            const uint8_t at = (uint8_t)(r * g->kw + c);
            for (int64_t i = 0; i < C; i++) {
                const T m = what[i], v = q[i];
                const uint8_t before = where[i];
                where[i] = BEATS(v, m) ? at : before;
                what[i] = BEATS(v, m) ? v : m;
            }
        }
}

static inline __attribute__((always_inline)) void NAME(pool_span)(
    const T *restrict x, T *restrict what, uint8_t *restrict where, int64_t W, int64_t n, const int kh, const int kw,
    const int sw) {
    for (int64_t o = 0; o < n; o++) {
        T m = x[o * sw];
        uint8_t at = 0;
#pragma GCC unroll 16
        for (int r = 0; r < kh; r++)
#pragma GCC unroll 4
            for (int c = 0; c < kw; c++) {
                if (r == 0 && c == 0) continue;
                const T v = x[r * W + o * sw + c];
                at = BEATS(v, m) ? (uint8_t)(r * kw + c) : at;
                m = BEATS(v, m) ? v : m;
            }
        what[o] = m;
        where[o] = at;
    }
}

static inline void NAME(pool_line)(const T *restrict x, T *restrict what, uint8_t *restrict where, const Shape *g,
                                   int64_t oh) {
    const int64_t top = oh * g->sh - g->ph;
    int64_t first = (g->pw + g->sw - 1) / g->sw, end = (g->W + g->pw - g->kw) / g->sw + 1; /* windows inside */
    if (g->W + g->pw < g->kw) end = 0;
    if (end > g->w) end = g->w;
    const int inside = top >= 0 && top + g->kh <= g->H && end > first;
    const T *start = x + top * g->W + first * g->sw - g->pw;
#define SPAN(KH, KW, S)                                                                                      \
    (inside && g->kh == KH && g->kw == KW && g->sw == S)                                                     \
        NAME(pool_span)(start, what + first, where + first, g->W, end - first, KH, KW, S)
    if SPAN(2, 2, 2);
    else if SPAN(3, 3, 2);
    else if SPAN(3, 3, 3);
    else if SPAN(4, 4, 4);
    else first = end = 0;
#undef SPAN
    const int64_t r0 = top < 0 ? -top : 0, r1 = top + g->kh > g->H ? g->H - top : g->kh;
    for (int64_t ow = 0; ow < g->w; ow++) {
        if (ow == first && end > first) ow = end;
        if (ow == g->w) break;
        const int64_t left = ow * g->sw - g->pw;
        const int64_t c0 = left < 0 ? -left : 0, c1 = left + g->kw > g->W ? g->W - left : g->kw;
        const T *q = x + top * g->W + left;
        T m = q[r0 * g->W + c0];
        int64_t at = r0 * g->kw + c0;
        for (int64_t r = r0; r < r1; r++)
            for (int64_t c = c0; c < c1; c++) {
                const T v = q[r * g->W + c];
                if (BEATS(v, m) && !(r == r0 && c == c0)) m = v, at = r * g->kw + c;
            }
        what[ow] = m;
        where[ow] = (uint8_t)at;
    }
}

void NAME(pool)(const T *x, T *what, uint8_t *where, const Shape *shape) {
    const Shape g = *shape;
    const int64_t planes = g.last ? g.B : g.B * g.C, C = g.last ? g.C : 1, jobs = g.last ? g.h : 1;
    PARALLEL(g)
    for (int64_t job = 0; job < planes * jobs; job++) {
        const int64_t plane = job / jobs, first = g.last ? job % jobs : 0, end = g.last ? first + 1 : g.h;
        const T *image = x + plane * g.H * g.W * C;
        for (int64_t oh = first; oh < end; oh++) {
            const int64_t line = (plane * g.h + oh) * g.w * C;
            if (!g.last) NAME(pool_line)(image, what + line, where + line, &g, oh);
            else
                for (int64_t ow = 0; ow < g.w; ow++)
                    NAME(pool_pixel)(image, what + line + ow * C, where + line + ow * C, &g, oh, ow);
        }
    }
}

/* Every pixel looks at the windows that it lies in: one at most unless they overlap. */

static inline void NAME(put_alone)(const BITS *restrict v, const uint8_t *restrict at, BITS *restrict out, int64_t n,
                                   uint8_t position) {
    for (int64_t i = 0; i < n; i++) out[i] = v[i] & IF(at[i] == position);
}

/* Row y, from column x on. */
static void NAME(put_row)(const BITS *restrict v, const uint8_t *restrict at, BITS *restrict out, const Shape *g, int64_t y,
                          int64_t x) {
    const int64_t oh = (y + g->ph) / g->sh, row = (y + g->ph) % g->sh, C = g->last ? g->C : 1;
    if (oh < g->h && row < g->kh) {
        v += oh * g->w * C, at += oh * g->w * C;
        int64_t ow = (x + g->pw) / g->sw, column = (x + g->pw) % g->sw;
        for (; x < g->W && ow < g->w; x++) {
            if (column >= g->kw) memset(out + x * C, 0, C * sizeof(T));
            else NAME(put_alone)(v + ow * C, at + ow * C, out + x * C, C, (uint8_t)(row * g->kw + column));
            if (++column == g->sw) column = 0, ow++;
        }
    }
    memset(out + x * C, 0, (g->W - x) * C * sizeof(T));
}

/* n windows of 2x2, side by side. */
static inline __attribute__((always_inline)) void NAME(put_step)(const BITS *v, const uint8_t *at, T *upper, T *lower,
                                                                 const int64_t n) {
    PAIR a[STEP], b[STEP]; /* here nothing can alias, and with n a constant no loop is left */
    for (int64_t i = 0; i < n; i++) {
        const PAIR which = at[i], value = (PAIR)v[i] << (which & 1) * 8 * sizeof(T);
        a[i] = value & -(PAIR)(which < 2);
        b[i] = value & -(PAIR)((which & ~(PAIR)1) == 2);
    }
    memcpy(upper, a, n * sizeof(PAIR));
    memcpy(lower, b, n * sizeof(PAIR));
}

/* A plane of 2x2 windows, (H, W): two rows at a time. */
static inline void NAME(put_pairs)(const T *values, const uint8_t *where, T *image, const Shape *g) {
    const uint8_t *restrict at = where;
    const BITS *restrict v = (const BITS *)values;
    const int64_t n = g->w < g->W / 2 ? g->w : g->W / 2, rows = g->h < g->H / 2 ? g->h : g->H / 2;
    for (int64_t oh = 0; oh < rows; oh++, v += g->w, at += g->w) {
        T *upper = image + 2 * oh * g->W, *lower = upper + g->W;
        int64_t i = 0;
        for (; i + STEP <= n; i += STEP) NAME(put_step)(v + i, at + i, upper + 2 * i, lower + 2 * i, STEP);
        NAME(put_step)(v + i, at + i, upper + 2 * i, lower + 2 * i, n - i);
    }
    for (int64_t y = 0; y < g->H; y++)
        if (y >= 2 * rows || 2 * n < g->W)
            NAME(put_row)((const BITS *)values, where, (BITS *)image + y * g->W, g, y, y < 2 * rows ? 2 * n : 0);
}

static inline void NAME(put_row_overlapping)(const T *restrict v, const uint8_t *restrict at, T *restrict out,
                                              const Shape *g, int64_t y) {
    const int64_t C = g->last ? g->C : 1;
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

void NAME(put)(const T *values, const uint8_t *where, T *out, const Shape *shape) {
    const Shape g = *shape;
    const int64_t planes = g.last ? g.B : g.B * g.C, C = g.last ? g.C : 1, jobs = g.last ? g.H : 1;
    const int overlapping = g.sh < g.kh || g.sw < g.kw;
    const int pairs = !g.last && !overlapping && g.kh == 2 && g.kw == 2 && g.sh == 2 && g.sw == 2 && !g.ph && !g.pw;
    PARALLEL(g)
    for (int64_t job = 0; job < planes * jobs; job++) {
        const int64_t plane = job / jobs, first = g.last ? job % jobs : 0, end = g.last ? first + 1 : g.H;
        const T *v = values + plane * g.h * g.w * C;
        const uint8_t *at = where + plane * g.h * g.w * C;
        T *image = out + plane * g.H * g.W * C;
        if (pairs) NAME(put_pairs)(v, at, image, &g);
        for (int64_t y = first; y < end && !pairs; y++) {
            T *line = image + y * g.W * C;
            if (overlapping) NAME(put_row_overlapping)(v, at, line, &g, y);
            else NAME(put_row)((const BITS *)v, at, (BITS *)line, &g, y, 0);
        }
    }
}

static inline void NAME(pick_pairs)(const T *upper, const T *lower, const uint8_t *restrict at, BITS *restrict out,
                                    int64_t n) {
    const PAIR *restrict a = (const PAIR *)upper, *restrict b = (const PAIR *)lower;
    for (int64_t i = 0; i < n; i++) {
        const PAIR word = (a[i] & -(PAIR)(at[i] >> 1 == 0)) | (b[i] & -(PAIR)(at[i] >> 1 == 1));
        out[i] = (BITS)(at[i] & 1 ? word >> 8 * sizeof(T) : word);
    }
}

static inline void NAME(pick_pair)(const BITS *restrict a, const BITS *restrict b, const uint8_t *restrict at,
                                    BITS *restrict out, int64_t C) {
    for (int64_t i = 0; i < C; i++)
        out[i] = (a[i] & IF(at[i] == 0)) | (a[C + i] & IF(at[i] == 1)) | (b[i] & IF(at[i] == 2)) | (b[C + i] & IF(at[i] == 3));
}

/* The value at each position; 0 for a position outside the image, which no pool of ours makes. */
static inline void NAME(pick_pixel)(const T *image, const uint8_t *where, T *out, const Shape *g, int64_t oh,
                                    int64_t ow) {
    const int64_t C = g->last ? g->C : 1, line = g->W * C, top = oh * g->sh - g->ph, left = ow * g->sw - g->pw;
    const int inside = top >= 0 && left >= 0 && top + g->kh <= g->H && left + g->kw <= g->W;
    const uint8_t *at = where + (oh * g->w + ow) * C;
    if (inside && !g->mean && g->kh == 2 && g->kw == 2) {
        const T *pixel = image + top * line + left * C;
        NAME(pick_pair)((const BITS *)pixel, (const BITS *)(pixel + line), at, (BITS *)out, C);
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

void NAME(pick)(const T *image, const uint8_t *where, T *out, const Shape *shape) {
    const Shape g = *shape;
    const int64_t planes = g.last ? g.B : g.B * g.C, C = g.last ? g.C : 1, jobs = g.last ? g.h : 1;
    const int pairs = !g.last && !g.mean && g.kh == 2 && g.kw == 2 && g.sw == 2 && !g.ph && !g.pw;
    PARALLEL(g)
    for (int64_t job = 0; job < planes * jobs; job++) {
        const int64_t plane = job / jobs, first = g.last ? job % jobs : 0, end = g.last ? first + 1 : g.h;
        const T *x = image + plane * g.H * g.W * C;
        const uint8_t *at = where + plane * g.h * g.w * C;
        T *o = out + plane * g.h * g.w * C;
        for (int64_t oh = first; oh < end; oh++) {
            const int64_t top = oh * g.sh;
            int64_t ow = 0;
            if (pairs && top + 2 <= g.H) {
                ow = g.w < g.W / 2 ? g.w : g.W / 2;
                NAME(pick_pairs)(x + top * g.W, x + (top + 1) * g.W, at + oh * g.w, (BITS *)o + oh * g.w, ow);
            }
            for (; ow < g.w; ow++) NAME(pick_pixel)(x, at, o + (oh * g.w + ow) * C, &g, oh, ow);
        }
    }
}

#undef T
#undef BITS
#undef PAIR
#undef NAME
#undef SUM
#undef LOAD
#undef STORE
#undef BEATS
