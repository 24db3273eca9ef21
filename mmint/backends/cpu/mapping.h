/* Mapping float32 to mantissas and back. Arguments are int64 throughout: see module.c. */
#ifndef MMINT_MAPPING_H
#define MMINT_MAPPING_H

#include "common.h"
#include "philox.h"

typedef struct {
    int64_t x, out, images, channels, pixels, bits, stochastic, random[5], threads;
} quantize_args;
int64_t quantize(const quantize_args *a); /* the exponent */

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

uint32_t top_magnitude(const float *x, long n, int threads);
int exponent_of(uint32_t top, int bits, int *exponent);
void round_all(const float *x, void *out, long n, int exponent, int wide, const philox_key *key,
               int threads);
void dequantize_some(const void *x, float *out, long n, int size, long exponent);

#endif
