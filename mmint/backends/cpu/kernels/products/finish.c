#include "finish.h"

#include <stdlib.h>

#include "elements/random.h"
#include "status.h"

/* One group's exponent, and its part of the bias, if any, whose largest magnitude is `top`. */
static void prepare_group(finish_t *f, long size, long first, const bias_t *bias, uint32_t top,
                          const philox_key *key, uint16_t *drawn, double bound) {
    int64_t *wide = (int64_t *)f->bias;
    int32_t *narrow = (int32_t *)f->bias32;
    float *scales = (float *)f->scales;
    const int zeros = f->exponent < ZEROS_EXPONENT / 2; /* an operand is zeros */
    if (bias->x) {
        const uint32_t *x = (const uint32_t *)bias->x + first;
        f->excess = bias_excess(top, f->exponent);
        f->exponent += f->excess;
        double largest = 0;
        for (long i = 0; i < size; i++) {
            const long at = first + i;
            if (bias->random.stochastic && at % GROUP == 0)
                draw_group(key, (uint64_t)at / GROUP, drawn);
            wide[i] = quantize_one(x[i], f->exponent, bias->random.stochastic, drawn[at % GROUP]);
            const double magnitude = (double)magnitude_of(wide[i]);
            if (magnitude > largest) largest = magnitude;
            narrow[i] = (int32_t)wide[i];
        }
        bound += largest;
    } else {
        f->bias = NULL;
    }
    f->fast = !f->excess && bound < 2147483648.0 && scale_is_exact(f->exponent, SCALED_INT32);
    f->scale = f->fast ? scale_of(f->exponent) : 0;
    f->fast |= zeros && !bias->x;
    for (int l = 0; l < NR; l++) f->same[l] = f->scale;
    for (long i = 0; i < size; i++) scales[i] = f->scale;
}

int finish_prepare(finish_t **finishes, long groups, bias_t bias, exponents_t exponents,
                   double bound, long length, int by_lane) {
    const size_t padded = (size_t)length + 64;
    const size_t element = sizeof(int64_t) + sizeof(int32_t) + sizeof(float);
    finish_t *f = calloc(1, (size_t)groups * sizeof *f + padded * element);
    *finishes = f;
    if (!f) return NO_MEMORY;
    const philox_key key = key_of(bias.random);
    uint16_t drawn[GROUP] = {0};
    uint32_t top = 0;
    for (long i = 0; bias.x && i < bias.length; i++)
        if (magnitude_bits(bias.x[i]) > top) top = magnitude_bits(bias.x[i]);
    if (!is_finite(top)) return NOT_FINITE;
    int64_t *wide = (int64_t *)(f + groups);
    int32_t *narrow = (int32_t *)(wide + padded);
    float *scales = (float *)(narrow + padded);
    int all_fast = 1;
    for (long g = 0; g < groups; g++) {
        const long size = length / groups, first = g * size;
        f[g] = (finish_t){.exponent = clamped_exponent(exponent_at(exponents, g)),
                          .by_lane = by_lane,
                          .bias = wide + first,
                          .bias32 = narrow + first,
                          .scales = scales + first};
        prepare_group(&f[g], size, first, &bias, top, &key, drawn, bound);
        all_fast &= f[g].fast;
    }
    for (long g = 0; g < groups; g++) f[g].all_fast = all_fast;
    return OK;
}
