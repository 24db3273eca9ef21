/* Loops of the mapping that every level compiles for itself. */
#ifndef MMINT_MAPPING_LOOPS_H
#define MMINT_MAPPING_LOOPS_H

#include "arithmetic/mapping.h"
#include "random.h"

/* Is 2**(FRACTION_BITS - exponent) a float32, so that vectors may round with it? */
static inline bool scale_does(int exponent) { return exponent >= FRACTION_BITS - 126; }

static inline uint32_t top_loop(const uint32_t *x, long n) {
    uint32_t top = 0;
    for (long i = 0; i < n; i++) {
        uint32_t magnitude = x[i] & 0x7FFFFFFF;
        top = magnitude > top ? magnitude : top;
    }
    return top;
}

/* Any exponents: that of element i is exponents[step * i]. */
INLINE void round_body(const float *x, void *out, long first, long n, const int32_t *exponents,
                       int step, int wide, const philox_key *key) {
    uint16_t drawn[GROUP] = {0};
    for (long i = 0; i < n; i++) {
        if (key && i % GROUP == 0) draw_group(key, (uint64_t)(first + i) / GROUP, drawn);
        const int exponent = exponents[step * i];
        const int64_t r = quantize_one(pattern_of(x[i]), exponent, key != NULL, drawn[i % GROUP]);
        if (wide)
            ((int16_t *)out)[i] = (int16_t)r;
        else
            ((int8_t *)out)[i] = (int8_t)r;
    }
}

static inline void round_loop(const float *x, void *out, long first, long n, int exponent, int wide,
                              const philox_key *key) {
    round_body(x, out, first, n, &exponent, 0, wide, key);
}

static inline void round_each_loop(const float *x, void *out, long first, long n,
                                   const int32_t *exponents, int wide, const philox_key *key) {
    round_body(x, out, first, n, exponents, 1, wide, key);
}

static inline void transpose_loop(const int8_t *from, long from_row, int8_t *to, long to_row,
                                  long channels, long pixels) {
    for (long p = 0; p < pixels; p++)
        for (long c = 0; c < channels; c++) to[p * to_row + c] = from[c * from_row + p];
}

#endif
