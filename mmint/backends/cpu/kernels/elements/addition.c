/* Addition of two tensors in integers, bit for bit as reference/addition.py.
 *
 * One pass: a group of elements draws its random bits, both operands are rounded and aligned,
 * and the largest sum is noted on the way out.
 *
 * The vector forms round with a power of two (levels/avx2_rounding.h). Aligned sums stay below
 * 2**31 where p + alignment <= 30, and with an exponent of -126 to 96 their conversion to float32
 * is the only rounding. Other exponents, those too far apart to be aligned, and tensors of
 * subnormals take the general form of arithmetic/addition.h. */
#include "addition.h"

#include "arguments.h"
#include "levels/level.h"
#include "mapping.h"
#include "mapping_loops.h"
#include "status.h"

enum { CHUNK = 1 << 15 };

/* Do powers of two and int32 do? See the top of this file. */
static int is_usual(const addition_t *a, int bits) {
    int usual = bits - 1 + a->high - a->low <= 30 && scale_is_exact(a->low, SCALED_INT32);
    for (int t = 0; t < 2; t++) usual = usual && (!a->counts[t] || scale_does(a->exponent[t]));
    return usual;
}

/* A tensor of subnormals may be rounded to zero everywhere. */
static int any_mantissa(const sum_t *s, int t, uint32_t top, int bits, long n) {
    uint16_t drawn[GROUP] = {0};
    if (field_of(top)) return 1;
    for (long first = 0; top && first < n; first += READ) {
        float buffer[READ];
        const long count = least(READ, n - first);
        const float *x = read_source(&s->x[t], first, count, buffer);
        for (long i = 0; i < count; i++) {
            if (s->stochastic && i % GROUP == 0)
                draw_group(&s->key, (uint64_t)(first + i) / GROUP, drawn);
            const uint32_t seen = seen_by(t, drawn[i % GROUP]);
            if (map_one(pattern_of(x[i]), exponent_of(top, bits), s->stochastic, seen)) return 1;
        }
    }
    return 0;
}

static int prepare(const add_args *a, sum_t *s) {
    const int64_t known[2] = {a->top_x, a->top_y};
    const int bits = (int)a->bits;
    uint32_t top[2];
    int counts[2];
    *s = (sum_t){.x = {SOURCE_OF(a, x), SOURCE_OF(a, y)},
                 .stochastic = (int)a->stochastic,
                 .key = key_of(RANDOM_OF(a))};
    for (int t = 0; t < 2; t++) {
        top[t] =
            known[t] >= 0 ? (uint32_t)known[t] : top_of_source(&s->x[t], a->n, (int)a->threads);
        if (!is_finite(top[t])) return NOT_FINITE;
        counts[t] = any_mantissa(s, t, top[t], bits, a->n);
    }
    s->plan = addition_of(top[0], counts[0], top[1], counts[1], bits);
    s->usual = is_usual(&s->plan, bits);
    return OK;
}

static uint32_t add_some(const sum_t *s, float *out, long first, long n) {
    float buffers[2][READ];
    const long step = s->x[0].mantissas || s->x[1].mantissas ? READ : n;
    uint32_t top = 0;
    for (long i = 0; i < n; i += step) {
        const long at = first + i, count = least(step, n - i);
        const float *x[2];
        for (int t = 0; t < 2; t++) x[t] = read_source(&s->x[t], at, count, buffers[t]);
        top = (uint32_t)most(top, level->add(s, x, out + i, at, count));
    }
    return top;
}

int64_t add(const add_args *a) {
    sum_t s;
    if (prepare(a, &s)) return NOT_FINITE;
    const long chunks = div_up(a->n, CHUNK);
    uint32_t top = 0;
#pragma omp parallel for num_threads((int)a->threads) reduction(max : top) if (chunks > 1)
    for (long c = 0; c < chunks; c++) {
        const uint32_t t =
            add_some(&s, a->out + c * CHUNK, c * CHUNK, least(CHUNK, a->n - c * CHUNK));
        if (t > top) top = t;
    }
    return top;
}
