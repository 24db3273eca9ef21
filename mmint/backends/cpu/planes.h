/* Images plane by plane: mantissas (N, C, P), P the product of the spatial sizes. */
#ifndef MMINT_PLANES_H
#define MMINT_PLANES_H

#include "arithmetic/coefficients.h"
#include "common.h"

/* int8 x, (images, pixels, channels) in memory, to (images, channels, pixels). */
typedef struct {
    int64_t x, out, images, channels, pixels, threads;
} planar_args;
int64_t planar(const planar_args *a);

/* int64 out[2][planes]: sums of x and of its squares; of grad and of its products with x. */
typedef struct {
    int64_t x, out, planes, pixels, wide, threads;
} plane_sums_args;
int64_t plane_sums(const plane_sums_args *a);

typedef struct {
    int64_t grad, x, out, planes, pixels, wide, threads;
} plane_products_args;
int64_t plane_products(const plane_products_args *a);

/* Two tensors of mantissas (the second may be NULL), and float32 of their shape. */
typedef struct {
    const void *first, *second;
    float *out;
    long images, channels, pixels;
    int wide, threads;
} planes_t;

/* Coefficients [channels], or [images][channels]; returns the largest magnitude written. */
uint32_t combine(const planes_t *planes, const coefficients_t *coefficients, int per_image);

/* The larger one of `top` and the magnitude of `made`. */
INLINE uint32_t take(float made, uint32_t top) {
    return magnitude_bits(made) > top ? magnitude_bits(made) : top;
}

/* Adds the sums of `first` and of its products with `second` over one run of elements. */
void sum_run(const void *first, const void *second, long n, int wide, int64_t *sum);

#endif
