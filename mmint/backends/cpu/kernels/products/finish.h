/* From sums of products to float32, with or without a bias: reference/products.py, `_finish`. */
#ifndef MMINT_FINISH_H
#define MMINT_FINISH_H

#include "arithmetic/exponents.h"
#include "arithmetic/finish.h"
#include "arithmetic/philox.h"
#include "extent.h"

/* Of a group of channels that share an exponent. */
typedef struct finish {
    /* The fast form: (float32)(sum + bias) * scale, exact but for the one rounding. */
    int fast, all_fast; /* this group; all of them */
    float scale, same[NR]; /* NR times `scale` */
    /* The general form: dequantize(round(sum / 2**excess) + bias, exponent). */
    int exponent, excess;
    const int64_t *bias;   /* one for each row (or lane), or NULL */
    const int32_t *bias32; /* the same, zeros where there is none; padded */
    const float *scales;   /* `scale` for each */
    int by_lane;
} finish_t;

/* float32, or x NULL: none. */
typedef struct {
    const float *x;
    int64_t length;
    random_words random;
} bias_t;

#define BIAS_OF(a) ((bias_t){(a)->bias, (a)->bias_length, RANDOM_OF(a)})

/* Prepares the finishes of `groups` groups, which have `length` channels in all, for sums of magnitude
 * `bound` at most; arrays of neighbouring groups follow each other. Returns a status; `finishes` is
 * for the caller to free. */
int finish_prepare(finish_t **finishes, long groups, bias_t bias, exponents_t exponents,
                   double bound, long length, int by_lane);

INLINE float finish_one(const finish_t *f, int64_t total, long index) {
    return finish_sum(total, f->excess, f->bias ? f->bias[index] : 0, f->exponent);
}

#endif
