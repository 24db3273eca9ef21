/* Addition of two tensors in integers, bit for bit as reference/addition.py.
 *
 * Elements that share exponents are a block. One pass over memory: the largest magnitudes of a block
 * are looked for first, while it comes into the cache; then a group of elements draws its random
 * bits, both operands are rounded and aligned, and the largest sum is noted on the way out.
 *
 * The vector forms round with a power of two (levels/avx2_rounding.h). Aligned sums stay below
 * 2**31 where p + alignment <= 30, and with an exponent of -126 to 96 their conversion to float32
 * is the only rounding. Those of exponents farther apart are doubles, exact below 2**53, where the
 * alignment is at most 37; above, a higher mantissa that is not 0 is the float32 nearest to the sum
 * (the lower one, below 2**15, is less than half of its last place), and so it is once a double has
 * rounded. Other exponents take the general form of arithmetic/addition.h. */
#include "addition.h"

#include "arguments.h"
#include "levels/level.h"
#include "mapping_loops.h"
#include "status.h"

enum { CHUNK = 1 << 15 };

/* Do powers of two do? See the top of this file. */
static int is_usual(const addition_t *a) {
    int usual = scale_is_exact(a->low, SCALED_INT32);
    for (int t = 0; t < 2; t++) usual = usual && (!a->counts[t] || scale_does(a->exponent[t]));
    return usual;
}

/* Prepares the addition of elements with these largest magnitudes. Are they finite? */
static int prepare(sum_t *s, uint32_t top_x, uint32_t top_y, int bits) {
    if (!is_finite(top_x) || !is_finite(top_y)) return 0;
    s->plan = addition_of(top_x, top_y, bits);
    s->usual = is_usual(&s->plan);
    s->far = bits - 1 + s->plan.high - s->plan.low > 30;
    return 1;
}

static uint32_t add_some(const sum_t *s, float *out, long first, long n) {
    float buffers[2][READ];
    const long step = in_memory(&s->x[0]) && in_memory(&s->x[1]) ? n : READ;
    uint32_t top = 0;
    for (long i = 0; i < n; i += step) {
        const long at = first + i, count = least(step, n - i);
        const float *x[2];
        for (int t = 0; t < 2; t++) x[t] = read_source(&s->x[t], at, count, buffers[t]);
        top = (uint32_t)most(top, level->add(s, x, out + at, at, count));
    }
    return top;
}

/* All elements share their exponents. */
static int64_t add_alike(sum_t *s, float *out, long n, int bits, int threads) {
    const long chunks = div_up(n, CHUNK);
    uint32_t top = 0;
    if (!prepare(s, top_of_source(&s->x[0], n, threads), top_of_source(&s->x[1], n, threads), bits))
        return NOT_FINITE;
#pragma omp parallel for num_threads(threads) reduction(max : top) if (chunks > 1)
    for (long c = 0; c < chunks; c++)
        top = (uint32_t)most(top, add_some(s, out, c * CHUNK, least(CHUNK, n - c * CHUNK)));
    return top;
}

static int64_t add_blocks(sum_t s, float *out, long blocks, long n, int bits, int threads) {
    int failed = 0;
    uint32_t top = 0;
#pragma omp parallel for num_threads(threads) firstprivate(s) reduction(max : top) \
    reduction(| : failed) if (blocks * n > CHUNK)
    for (long first = 0; first < blocks * n; first += n) {
        failed |=
            !prepare(&s, top_of_part(&s.x[0], first, n), top_of_part(&s.x[1], first, n), bits);
        if (!failed) top = (uint32_t)most(top, add_some(&s, out, first, n));
    }
    return failed ? NOT_FINITE : (int64_t)top;
}

int64_t add(const add_args *a) {
    sum_t s = {.x = {SOURCE_OF(a, x), SOURCE_OF(a, y)},
               .stochastic = (int)a->stochastic,
               .key = key_of(RANDOM_OF(a))};
    return a->count > 1 ? add_blocks(s, a->out, a->count, a->run, (int)a->bits, (int)a->threads)
                        : add_alike(&s, a->out, a->run, (int)a->bits, (int)a->threads);
}
