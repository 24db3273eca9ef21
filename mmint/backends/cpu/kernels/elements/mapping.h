/* Mapping whole tensors, for kernels that need it. */
#ifndef MMINT_MAPPING_H
#define MMINT_MAPPING_H

#include "random.h"

/* (images, channels, pixels) to (images, pixels, channels). */
void channels_last(const int8_t *from, int8_t *to, long images, long channels, long pixels,
                   int threads);

/* The largest magnitude (a bit pattern without the sign). */
uint32_t top_magnitude(const float *x, long n, int threads);

/* Mantissas (int16 if `wide`), rounded to nearest where `key` is NULL. */
void round_all(const float *x, void *out, long n, int exponent, int wide, const philox_key *key,
               int threads);

/* float32 of n integers of `size` bytes. */
void dequantize_some(const void *x, float *out, long n, int size, int64_t exponent);

#endif
