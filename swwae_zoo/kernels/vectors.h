/* Sixteen numbers at a time, read from and written to float32 or bfloat16 (GCC's and clang's vectors; whatever the processor
   lacks they emulate). */

#ifndef VECTORS_H
#define VECTORS_H

#include <string.h>

#include "runtime.h"

enum { LANES = 16 };

typedef float V __attribute__((vector_size(4 * LANES)));
typedef uint32_t V_bits __attribute__((vector_size(4 * LANES)));
typedef uint16_t V_half __attribute__((vector_size(2 * LANES)));

INLINE V load(const void *from, int64_t at, int half) {
    V value;
    if (!half) {
        memcpy(&value, (const float *)from + at, sizeof value);
        return value;
    }
    V_half bits;
    memcpy(&bits, (const uint16_t *)from + at, sizeof bits);
    const V_bits wide = __builtin_convertvector(bits, V_bits) << 16;
    memcpy(&value, &wide, sizeof value);
    return value;
}

INLINE V_bits to_bfloat(V value) { /* in the upper half of each word, to the nearest, ties to even */
    const V_bits nan = (V_bits)(value != value), bits = (V_bits)value;
    return ((bits + 0x7fff + (bits >> 16 & 1)) & ~nan) | ((bits | 0x400000) & nan);
}

INLINE void store(void *to, int64_t at, V value, int half) {
    if (!half) {
        memcpy((float *)to + at, &value, sizeof value);
        return;
    }
    const V_half narrow = __builtin_convertvector(to_bfloat(value) >> 16, V_half);
    memcpy((uint16_t *)to + at, &narrow, sizeof narrow);
}

INLINE float one(const void *from, int64_t at, int half) {
    if (!half) return ((const float *)from)[at];
    const uint32_t wide = (uint32_t)((const uint16_t *)from)[at] << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

INLINE void put_one(void *to, int64_t at, float value, int half) {
    if (half) {
        const V wide = {value};
        ((uint16_t *)to)[at] = (uint16_t)(to_bfloat(wide)[0] >> 16);
    } else {
        ((float *)to)[at] = value;
    }
}

#endif
