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

/* Each top becomes the larger one of itself and the magnitude of x. */
static inline void raise_loop(uint32_t *tops, const uint32_t *x, long n) {
    for (long i = 0; i < n; i++) {
        uint32_t magnitude = x[i] & 0x7FFFFFFF;
        tops[i] = magnitude > tops[i] ? magnitude : tops[i];
    }
}

/* Element i of a tensor has exponent of[i / run % count]; elements that follow each other and share
 * one are a block. Where blocks are short there may be a table, of a period of count * run elements
 * and GROUP more, of what each is scaled by. */
typedef struct blocks {
    const int32_t *of;
    long count, run;
    const float *scales;
} blocks_t;

/* Zeros are rounded alike at any exponent. */
INLINE int rounding_exponent(const blocks_t *e, long block) {
    return e->of[block] == ZEROS_EXPONENT ? 0 : e->of[block];
}

/* What elements are scaled by, and then rounded. */
INLINE float scale_to_round(int exponent, int stochastic) {
    return scale_of((stochastic ? FRACTION_BITS : 0) - exponent);
}

/* A block, and how far it reaches from where one began to walk. */
typedef struct {
    long block, end;
} place_t;

/* From element `first` on. */
INLINE place_t place_of(const blocks_t *e, long first) {
    return (place_t){first / e->run % e->count, e->run - first % e->run};
}

INLINE void next_block(const blocks_t *e, place_t *at) {
    at->block = at->block + 1 == e->count ? 0 : at->block + 1;
    at->end += e->run;
}

/* Of elements first ... first + n - 1. */
INLINE int lowest_exponent(const blocks_t *e, long first, long n) {
    place_t at = place_of(e, first);
    int lowest = rounding_exponent(e, at.block);
    while (at.end < n) {
        next_block(e, &at);
        lowest = (int)least(lowest, rounding_exponent(e, at.block));
    }
    return lowest;
}

/* Any exponents. */
static inline void round_loop(const float *x, void *out, long first, long n, const blocks_t *e,
                              int wide, const philox_key *key) {
    uint16_t drawn[GROUP] = {0};
    place_t at = place_of(e, first);
    for (long i = 0; i < n; i++) {
        const long element = first + i;
        if (key && (i == 0 || element % GROUP == 0))
            draw_group(key, (uint64_t)element / GROUP, drawn);
        if (i == at.end) next_block(e, &at);
        const int64_t r = quantize_one(pattern_of(x[i]), rounding_exponent(e, at.block),
                                       key != NULL, drawn[element % GROUP]);
        if (wide)
            ((int16_t *)out)[i] = (int16_t)r;
        else
            ((int8_t *)out)[i] = (int8_t)r;
    }
}

static inline void transpose_loop(const int8_t *from, long from_row, int8_t *to, long to_row,
                                  long channels, long pixels) {
    for (long p = 0; p < pixels; p++)
        for (long c = 0; c < channels; c++) to[p * to_row + c] = from[c * from_row + p];
}

#endif
