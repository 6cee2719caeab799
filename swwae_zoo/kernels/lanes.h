/* 2x2 windows, LANES of them at a time, in vectors (GCC's and clang's; whatever the processor lacks they emulate).
   Each function starts at window i, returns the first that it left out, and reads or writes two rows of the image: `apart`
   is the distance of a window's left pixel from its right one in channels-last; in NCHW they take turns and it is 0, or -1 where
   an image's row is just one vector: then two rows of windows go together. */

typedef T LANED(vector) __attribute__((vector_size(LANES * sizeof(T))));
typedef BITS LANED(word) __attribute__((vector_size(LANES * sizeof(T))));
typedef SIGNED LANED(number) __attribute__((vector_size(LANES * sizeof(T))));
typedef uint8_t LANED(bytes) __attribute__((vector_size(LANES)));
#define WORD LANED(word)
#define ALL(condition) ((WORD)(condition))
#define CHOOSE(mask, a, b) (((a) & (mask)) | ((b) & ~(mask)))

#ifdef INFINITE /* half precision: see `order` */
INLINE WORD LANED(rank)(WORD bits) {
    const LANED(number) size = (LANED(number))(bits & 0x7fff), minus = (LANED(number))bits >> 15;
    const LANED(number) flip = minus & (size <= INFINITE);
    return (WORD)((size ^ flip) - flip);
}

INLINE WORD LANED(outranks)(WORD a, WORD m) {
    return ALL((LANED(number))a > (LANED(number))m) | ALL((LANED(number))a > INFINITE);
}
#else
INLINE WORD LANED(rank)(WORD bits) { return bits; }

INLINE WORD LANED(outranks)(WORD a, WORD m) {
    return ALL((LANED(vector))a > (LANED(vector))m) | ALL((LANED(vector))a != (LANED(vector))a);
}
#endif

INLINE void LANED(read)(const T *row, int64_t apart, int64_t i, WORD *left, WORD *right) {
    __builtin_prefetch((const char *)(row + (apart > 0 ? 1 : 2) * i) + AHEAD);
    if (apart > 0) {
        __builtin_prefetch((const char *)(row + apart + i) + AHEAD);
        memcpy(left, row + i, sizeof(WORD));
        memcpy(right, row + apart + i, sizeof(WORD));
        return;
    }
    const T *first = row + (apart ? 4 : 2) * i;
    WORD a, b;
    memcpy(&a, first, sizeof(WORD));
    memcpy(&b, first + (apart ? 2 : 1) * LANES, sizeof(WORD));
    *left = SHUFFLE(a, b, LANED(number), PASTE(TURNS, LANES)(0));
    *right = SHUFFLE(a, b, LANED(number), PASTE(TURNS, LANES)(1));
}

INLINE void LANED(store)(T *p, WORD word, int past) {
#ifdef __AVX512BW__
    if (past && sizeof(WORD) == 64 && (uintptr_t)p % 64 == 0) {
        __m512i line;
        memcpy(&line, &word, sizeof(WORD));
        _mm512_stream_si512((void *)p, line);
        return;
    }
#endif
    (void)past;
    memcpy(p, &word, sizeof(WORD));
}

INLINE void LANED(write)(T *row, int64_t apart, int64_t i, WORD left, WORD right, int past) {
    if (apart > 0) {
        LANED(store)(row + i, left, past);
        LANED(store)(row + apart + i, right, past);
        return;
    }
    const WORD a = SHUFFLE(left, right, LANED(number), PASTE(ZIP, LANES)(0, LANES));
    const WORD b = SHUFFLE(left, right, LANED(number), PASTE(ZIP, LANES)(LANES / 2, LANES));
    T *first = row + (apart ? 4 : 2) * i;
    LANED(store)(first, a, past);
    LANED(store)(first + (apart ? 2 : 1) * LANES, b, past);
}

INLINE WORD LANED(positions)(const uint8_t *where) {
    LANED(bytes) at;
    memcpy(&at, where, LANES);
    return __builtin_convertvector(at, WORD);
}

INLINE int64_t LANED(pool)(const T *upper, const T *lower, int64_t apart, T *what,
                                                                 uint8_t *where, int64_t i, int64_t n) {
    for (; i + LANES <= n; i += LANES) {
        WORD pixel[4], at = {0};
        LANED(read)(upper, apart, i, pixel, pixel + 1);
        LANED(read)(lower, apart, i, pixel + 2, pixel + 3);
        WORD best = pixel[0], highest = LANED(rank)(best);
#pragma GCC unroll 3
        for (int p = 1; p < 4; p++) {
            const WORD rank = LANED(rank)(pixel[p]), mask = LANED(outranks)(rank, highest);
            at = CHOOSE(mask, (BITS)p, at);
            best = CHOOSE(mask, pixel[p], best);
            highest = CHOOSE(mask, rank, highest);
        }
        const LANED(bytes) narrow = __builtin_convertvector(at, LANED(bytes));
        memcpy(what + i, &best, sizeof(WORD));
        memcpy(where + i, &narrow, LANES);
    }
    return i;
}

/* Whether column[i], the windows' pixel at `position`, is their best so far. */
INLINE int64_t LANED(pool_position)(const T *column, BITS *best, BITS *at, BITS position, int64_t i, int64_t n) {
    for (; i + LANES <= n; i += LANES) {
        WORD pixel, m, p;
        memcpy(&pixel, column + i, sizeof(WORD));
        memcpy(&m, best + i, sizeof(WORD));
        memcpy(&p, at + i, sizeof(WORD));
        const WORD mask = LANED(outranks)(LANED(rank)(pixel), LANED(rank)(m));
        m = CHOOSE(mask, pixel, m);
        p = CHOOSE(mask, position, p);
        memcpy(best + i, &m, sizeof(WORD));
        memcpy(at + i, &p, sizeof(WORD));
    }
    return i;
}

INLINE int64_t LANED(put)(const T *values, const uint8_t *where, T *upper, T *lower, int64_t apart, int past, int64_t i, int64_t n) {
    for (; i + LANES <= n; i += LANES) {
        const WORD at = LANED(positions)(where + i);
        WORD value;
        memcpy(&value, values + i, sizeof(WORD));
        LANED(write)(upper, apart, i, value & ALL(at == 0), value & ALL(at == 1), past);
        LANED(write)(lower, apart, i, value & ALL(at == 2), value & ALL(at == 3), past);
    }
    return i;
}

INLINE int64_t LANED(pick)(const T *upper, const T *lower, int64_t apart,
                                                                 const uint8_t *where, T *out, int64_t i, int64_t n) {
    for (; i + LANES <= n; i += LANES) {
        const WORD at = LANED(positions)(where + i);
        WORD a, b, c, d;
        LANED(read)(upper, apart, i, &a, &b);
        LANED(read)(lower, apart, i, &c, &d);
        const WORD value = (a & ALL(at == 0)) | (b & ALL(at == 1)) | (c & ALL(at == 2)) | (d & ALL(at == 3));
        memcpy(out + i, &value, sizeof(WORD));
    }
    return i;
}

#undef WORD
#undef ALL
#undef CHOOSE
#undef LANES
