/* Loops over sources that every level compiles for itself. */
#ifndef MMINT_SOURCE_LOOPS_H
#define MMINT_SOURCE_LOOPS_H

#include "arithmetic/source.h"

/* The smallest and the largest of n > 0 mantissas. */
static inline void extremes8_loop(const int8_t *x, long n, int8_t *low, int8_t *high) {
    int8_t least = x[0], most = x[0];
    for (long i = 0; i < n; i++) {
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
    }
    *low = least;
    *high = most;
}

/* In place. Returns the top. */
static inline uint32_t cut_loop(float *x, long n, float ceiling) {
    uint32_t top = 0;
    for (long i = 0; i < n; i++) {
        x[i] = cut_one(x[i], ceiling);
        top = magnitude_bits(x[i]) > top ? magnitude_bits(x[i]) : top;
    }
    return top;
}

#endif
