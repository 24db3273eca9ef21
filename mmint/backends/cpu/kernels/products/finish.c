#include "finish.h"

#include <stdlib.h>

#include "elements/random.h"
#include "status.h"

int finish_prepare(finish_t *f, bias_t bias, int64_t exponent, double bound, long length,
                   int by_lane, void **buffer) {
    const size_t padded = (size_t)length + 64;
    int64_t *wide = calloc(padded, sizeof(int64_t) + sizeof(int32_t));
    *buffer = wide;
    if (!wide) return NO_MEMORY;
    int32_t *narrow = (int32_t *)(wide + padded);
    *f = (finish_t){.exponent = clamped_exponent(exponent), .by_lane = by_lane, .bias32 = narrow};
    if (bias.x) {
        const uint32_t *x = (const uint32_t *)bias.x;
        const philox_key key = key_of(bias.random);
        uint16_t drawn[GROUP] = {0};
        uint32_t top = 0;
        for (long i = 0; i < bias.length; i++)
            if ((x[i] & 0x7FFFFFFF) > top) top = x[i] & 0x7FFFFFFF;
        if (!is_finite(top)) return NOT_FINITE;
        f->excess = bias_excess(top, f->exponent);
        f->exponent += f->excess;
        f->bias = wide;
        double largest = 0;
        for (long i = 0; i < bias.length; i++) {
            if (bias.random.stochastic && i % GROUP == 0)
                draw_group(&key, (uint64_t)i / GROUP, drawn);
            wide[i] = quantize_one(x[i], f->exponent, bias.random.stochastic, drawn[i % GROUP]);
            const double magnitude = (double)magnitude_of(wide[i]);
            if (magnitude > largest) largest = magnitude;
            narrow[i] = (int32_t)wide[i];
        }
        bound += largest;
    }
    f->fast = !f->excess && bound < 2147483648.0 && scale_is_exact(f->exponent, SCALED_INT32);
    if (f->fast) f->scale = scale_of(f->exponent);
    return OK;
}
