/* Elements that are read where they lie, or made where they are read. */
#ifndef MMINT_SOURCE_H
#define MMINT_SOURCE_H

#include "arithmetic/source.h"

/* float32 in memory, where there are bits `passed`, 0 but for elements whose bit is set; or, where
 * there are any, made of mantissas (images, channels, pixels), and of others unless NULL, with
 * coefficients [channels], or [images][channels]. */
typedef struct {
    const float *x;
    const uint8_t *passed;
    const void *mantissas, *others;
    const coefficients_t *coefficients;
    long channels, pixels;
    int per_image, wide;
    cut_t cut;
} source_t;

enum { READ = 2048 }; /* elements that are made at once, a whole number of groups of random bits */

/* Do the elements lie in memory as they are? */
static inline int in_memory(const source_t *s) { return !s->mantissas && !s->passed; }

/* Elements first ... first + n - 1, in `buffer` unless they lie in memory: then n <= READ. */
const float *read_source(const source_t *s, long first, long n, float *buffer);

/* Writes a plane; returns the top. */
uint32_t write_plane(const source_t *s, long plane, long first, long n, float *out);

/* The largest magnitude of elements first ... first + n - 1, whole planes where there are mantissas;
 * and of all n elements. */
uint32_t top_of_part(const source_t *s, long first, long n);
uint32_t top_of_source(const source_t *s, long n, int threads);

#endif
