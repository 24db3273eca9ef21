/* Rows of layer norm. */
#ifndef MMINT_LAYER_NORM_LOOPS_H
#define MMINT_LAYER_NORM_LOOPS_H

#include <string.h>

#include "layer_norm.h"
#include "planes_loops.h"

/* What each level writes itself: as sums8_loop, and as product_sums_rest from 0. */
static void sums8(const int8_t *a, const int8_t *b, long n, int64_t *sum);
static void product_sums8(const int8_t *grad, const int8_t *x, const int16_t *weight, long n,
                          int64_t *sum);

/* integer / 2**shift to nearest even, 0 <= shift < the width of its type; it is below half of what
 * that holds, so that half a unit goes on top. */
#define SHIFTED_EVEN(integer, shift, up, odd) \
    (((integer) + (up) + ((integer) >> (shift) & (odd))) >> (shift))

#define NORMALISE(name, X, S)                                                                     \
    INLINE void name(const X *restrict x, int16_t *restrict out, long n, const coefficients_t *c, \
                     long shift) {                                                                \
        const S p = (S)c->p, r = (S)c->r, most = (1 << NORMALISED_BITS) - 1;                      \
        const S odd = shift > 0, up = shift > 0 ? ((S)1 << (shift - 1)) - 1 : 0;                  \
        for (long i = 0; i < n; i++) {                                                            \
            const S total = p * x[i] + r, rounded = SHIFTED_EVEN(total, shift, up, odd);          \
            const S kept = rounded < most ? rounded : most;                                       \
            out[i] = (int16_t)(kept > -most ? kept : -most);                                      \
        }                                                                                         \
    }
NORMALISE(normalise8, int8_t, int32_t)
NORMALISE(normalise16, int16_t, int64_t)

INLINE void normalise_body(const void *x, int16_t *out, long n, const coefficients_t *c,
                           int exponent, int wide) {
    const long shift = most(0, exponent - c->exponent);
    if (shift > (wide ? 63 : 31))
        memset(out, 0, sizeof *out * (size_t)n);
    else if (wide)
        normalise16(x, out, n, c, shift);
    else
        normalise8(x, out, n, c, shift);
}

INLINE uint32_t affine_run(const int16_t *restrict x, float *restrict out, long n,
                           const affine_t *a, long shift) {
    const int16_t *weight = a->weight;
    const int32_t *bias = a->bias;
    const int32_t odd = shift > 0, up = shift > 0 ? (1 << (shift - 1)) - 1 : 0;
    uint32_t top = 0;
    if (scale_is_exact(a->exponent, SCALED_INT32)) {
        const float scale = scale_of(a->exponent);
        for (long i = 0; i < n; i++) {
            const int32_t product = x[i] * weight[i];
            out[i] = (float)(SHIFTED_EVEN(product, shift, up, odd) + bias[i]) * scale;
            top = take(out[i], top);
        }
    } else {
        for (long i = 0; i < n; i++) {
            const int32_t product = x[i] * weight[i];
            out[i] = dequantize_one(SHIFTED_EVEN(product, shift, up, odd) + bias[i], a->exponent);
            top = take(out[i], top);
        }
    }
    return top;
}

/* The bias is seldom so large that products go right. */
INLINE uint32_t affine_body(const int16_t *x, float *out, long n, const affine_t *a) {
    const long shift = least(31, a->shift);
    return shift ? affine_run(x, out, n, a, shift) : affine_run(x, out, n, a, 0);
}

/* Adds the sums of t = weight * g and of t * x; from element `first` on. */
INLINE void product_sums_rest(const void *grad, const void *x, const int16_t *weight, long first,
                              long n, int64_t *sum, int wide) {
    for (long i = first; i < n; i++) {
        const int32_t g = wide ? ((const int16_t *)grad)[i] : ((const int8_t *)grad)[i];
        const int64_t v = wide ? ((const int16_t *)x)[i] : ((const int8_t *)x)[i];
        sum[0] += weight[i] * g;
        sum[1] += weight[i] * g * v;
    }
}

INLINE uint32_t input_grad_body(const void *grad, const void *x, const int16_t *restrict weight,
                                float *restrict out, long n, const coefficients_t *c, int wide) {
    const int8_t *restrict g8 = grad, *restrict x8 = x;
    const int16_t *restrict g16 = grad, *restrict x16 = x;
    const scale_t scale = scale_at((int)c->exponent);
    uint32_t top = 0;
    if (scale.factor != 0.0f && !wide) {
        const double p = (double)c->p, q = (double)c->q, r = (double)c->r;
        for (long i = 0; i < n; i++) {
            out[i] = (float)(p * (weight[i] * g8[i]) + q * x8[i] + r) * scale.factor;
            top = take(out[i], top);
        }
        return top;
    }
    for (long i = 0; i < n; i++) {
        const int64_t t = weight[i] * (wide ? g16[i] : g8[i]), v = wide ? x16[i] : x8[i];
        out[i] = scaled_int64(c->p * t + c->q * v + c->r, scale);
        top = take(out[i], top);
    }
    return top;
}

INLINE void accumulate_body(const void *grad, const int16_t *restrict normalised, gradients_t *sums,
                            int wide) {
    const long n = sums->size;
    if (wide) {
        int64_t *restrict dweight = sums->total, *restrict dbias = dweight + n;
        for (long i = 0; i < n; i++) {
            dweight[i] += ((const int16_t *)grad)[i] * normalised[i];
            dbias[i] += ((const int16_t *)grad)[i];
        }
        return;
    }
    int32_t *restrict dweight = sums->recent, *restrict dbias = dweight + n;
    for (long i = 0; i < n; i++) {
        dweight[i] += ((const int8_t *)grad)[i] * normalised[i];
        dbias[i] += ((const int8_t *)grad)[i];
    }
    if (++sums->rows == RECENT_ROWS) settle(sums);
}

/* ---- a row of each kernel ---- */

INLINE uint32_t forward_body(const forward_t *f, long row, int16_t *scratch, int wide) {
    const layer_norm_args *a = f->a;
    const char *x = (const char *)a->x + (wide ? 2 : 1) * row * a->size;
    int64_t *sums = a->sums, sum[2] = {0, 0};
    if (wide)
        sums16_loop((const int16_t *)x, (const int16_t *)x, a->size, sum);
    else
        sums8((const int8_t *)x, (const int8_t *)x, a->size, sum);
    sums[row] = sum[0];
    sums[a->rows + row] = sum[1];
    const int exponent = exponent_at(EXPONENTS_OF(a, exponent), row);
    const spread_t spread = spread_of(sum[0], sum[1], a->size, exponent, f->eps);
    const coefficients_t c = normalising(spread, sum[0], a->size, exponent, (int)a->bits);
    normalise_body(x, scratch, a->size, &c, f->normalised_exponent, wide);
    return affine_body(scratch, a->out + row * a->size, a->size, &f->affine);
}

INLINE uint32_t backward_body(const backward_t *b, long row, int16_t *scratch, gradients_t *sums,
                              int wide) {
    const layer_norm_grad_args *a = b->a;
    const long size = a->size, bytes = (wide ? 2 : 1) * row * size;
    const char *grad = (const char *)a->grad + bytes, *x = (const char *)a->x + bytes;
    const int64_t s1 = a->sums[row];
    const int64_t s2 = a->sums[a->rows + row];
    int64_t products[2] = {0, 0};
    const int exponent = exponent_at(EXPONENTS_OF(a, exponent), row), bits = (int)a->bits;
    const spread_t spread = spread_of(s1, s2, size, exponent, b->eps);
    coefficients_t c =
        scale_in_place(shifted(spread.rstd, (int)a->grad_exponent + b->weight_exponent));
    if (!wide)
        product_sums8((const int8_t *)grad, (const int8_t *)x, b->weight, size, products);
    else
        product_sums_rest(grad, x, b->weight, 0, size, products, wide);
    backward_coefficients(&c, 1, spread.rstd, s1, &products[0], &products[1], size,
                          layer_wider((int)a->grad_bits, bits), exponent);
    const uint32_t top = input_grad_body(grad, x, b->weight, a->out + row * size, size, &c, wide);
    c = normalising(spread, s1, size, exponent, bits);
    normalise_body(x, scratch, size, &c, b->normalised_exponent, wide);
    accumulate_body(grad, scratch, sums, wide);
    return top;
}

static inline uint32_t layer_norm_loop(const forward_t *f, long row, int16_t *scratch) {
    return f->a->wide ? forward_body(f, row, scratch, 1) : forward_body(f, row, scratch, 0);
}

static inline uint32_t layer_norm_grad_loop(const backward_t *b, long row, int16_t *scratch,
                                            gradients_t *sums) {
    return b->a->wide ? backward_body(b, row, scratch, sums, 1)
                      : backward_body(b, row, scratch, sums, 0);
}

#endif
