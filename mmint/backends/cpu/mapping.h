/* Mapping float32 to mantissas and back. Arguments are int64 throughout: see module.c. */
#ifndef MMINT_MAPPING_H
#define MMINT_MAPPING_H

#include "common.h"
#include "philox.h"

/* `top`: the largest magnitude where it is known, else negative. */
typedef struct {
    int64_t x, out, images, channels, pixels, bits, top, stochastic, random[5], threads;
} quantize_args;
int64_t quantize(const quantize_args *a); /* the exponent, or a status */

typedef struct {
    int64_t x, out, n, size, exponent, threads;
} dequantize_args;
int64_t dequantize(const dequantize_args *a);

typedef struct {
    int64_t x, out, rows, channels, wide, exponent, threads;
} channel_sum_args;
int64_t channel_sum(const channel_sum_args *a);

/* (images, channels, pixels) to (images, pixels, channels). */
void channels_last(const int8_t *from, int8_t *to, long images, long channels, long pixels,
                   int threads);

/* The largest magnitude (a bit pattern without the sign): of a run that one thread has at hand, or
 * of a whole tensor. */
uint32_t top_of_run(const float *x, long n);
uint32_t top_magnitude(const float *x, long n, int threads);

/* Mantissas (int16 if `wide`) of the elements first, a multiple of 64, ... first + n - 1 of tensor
 * x, to out[0] ... out[n - 1]; rounded to nearest where `key` is NULL. */
void round_run(const float *x, void *out, long first, long n, int exponent, int wide,
               const philox_key *key);

/* The same for elements 0 ... n - 1. */
void round_all(const float *x, void *out, long n, int exponent, int wide, const philox_key *key,
               int threads);
void dequantize_some(const void *x, float *out, long n, int size, int64_t exponent);

#endif
