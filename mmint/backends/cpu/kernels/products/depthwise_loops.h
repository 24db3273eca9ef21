/* Rows of channels of depthwise convolution. */
#ifndef MMINT_DEPTHWISE_LOOPS_H
#define MMINT_DEPTHWISE_LOOPS_H

#include "extent.h"

#define ADD_PRODUCTS(name, type)                                                                   \
    static inline void name(int32_t *restrict sum, const type *restrict a, const type *restrict b, \
                            long n) {                                                              \
        for (long c = 0; c < n; c++) sum[c] += (int32_t)a[c] * b[c];                               \
    }
ADD_PRODUCTS(add_products8, int8_t)
ADD_PRODUCTS(add_products16, int16_t)

static inline void add_products_loop(int32_t *sum, const void *a, const void *b, long n, int wide) {
    wide ? add_products16(sum, a, b, n) : add_products8(sum, a, b, n);
}

static inline void finish_row_loop(float *restrict made, const int32_t *restrict sum,
                                   const int32_t *restrict bias, const float *restrict scales,
                                   long n, extent_t *restrict seen) {
    uint32_t any = seen->any[0], top = seen->top[0];
    for (long c = 0; c < n; c++) {
        made[c] = (float)(sum[c] + bias[c]) * scales[c];
        const uint32_t magnitude = magnitude_bits(made[c]);
        any |= (uint32_t)sum[c];
        top = magnitude > top ? magnitude : top;
    }
    seen->any[0] = any;
    seen->top[0] = top;
}

#endif
