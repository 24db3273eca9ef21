#include "sgd.h"

#include "arithmetic/sgd.h"
#include "mapping.h"

enum { SPAN = 64, CHUNK = 1 << 13 };

/* The random bits of a role. */
static philox_key key_of(const sgd_args *a, int role) {
    philox_key key = philox_from(a->random);
    key.c2 |= (uint32_t)role;
    return key;
}

/* A sum, and the random bits that align it. */
typedef struct {
    sgd_sum plan;
    philox_key key;
} sum_t;

#if MMINT_X86
#define DRAW(level, target)                                                                   \
    target static void draw_##level(const philox_key *key, long first, uint16_t *drawn) {     \
        __m256i words[4];                                                                     \
        philox_##level(key, (uint64_t)first / SPAN, words);                                   \
        memcpy(drawn, words, sizeof words);                                                   \
    }
DRAW(avx2, TARGET_AVX2)
DRAW(avx512, TARGET_AVX512)
#endif

enum { PORTABLE, AVX2, AVX512 };

INLINE void draw(const philox_key *key, long first, uint16_t *drawn, int form) {
#if MMINT_X86
    if (form != PORTABLE) {
        (form == AVX512 ? draw_avx512 : draw_avx2)(key, first, drawn);
        return;
    }
#endif
    (void)form;
    philox_portable(key, (uint64_t)first / SPAN, drawn);
}

/* magnitude / 2**shift, rounded up with the drawn bits, times the sign of `signs`. */
INLINE int64_t round_signed(int64_t magnitude, int64_t signs, long cut, long left, uint16_t drawn) {
    const uint64_t fine = (uint64_t)magnitude >> cut << left;
    const int64_t rounded = (int64_t)((fine + drawn) >> FRACTION_BITS);
    return signs < 0 ? -rounded : rounded;
}

/* The sums of elements first ... first + n - 1 (first a multiple of SPAN, n at most SPAN). */
INLINE void sum_span(const sum_t *s, long first, int n, int64_t *out, int form) {
    uint16_t drawn[SPAN];
    if (s->plan.draws) draw(&s->key, first, drawn, form);
    for (int i = 0; i < SPAN; i++) out[i] = 0;
    for (int t = 0; t < 3; t++) {
        const sgd_term *term = &s->plan.terms[t];
        if (!term->counts) continue;
        int16_t mantissa[SPAN] = {0};
        memcpy(mantissa, (const int16_t *)term->mantissa + first, 2 * (size_t)n);
        const int32_t factor = (int32_t)term->factor;
        const int shift = s->plan.shift[t];
        if (shift <= 0) {
            const long up = -shift;
            for (int i = 0; i < SPAN; i++)
                out[i] += (int64_t)((uint64_t)(int64_t)(mantissa[i] * factor) << up);
        } else {
            const long cut = least(62, most(0, shift - FRACTION_BITS));
            const long left = most(0, FRACTION_BITS - shift);
            for (int i = 0; i < SPAN; i++) {
                const int32_t product = mantissa[i] * factor;
                out[i] += round_signed(product < 0 ? -product : product, product, cut, left,
                                       drawn[i]);
            }
        }
    }
}

INLINE int64_t top_body(const sum_t *s, long first, long n, int form) {
    int64_t sum[SPAN], top = 0;
    for (long i = 0; i < n; i += SPAN) {
        sum_span(s, first + i, (int)least(SPAN, n - i), sum, form);
        for (int l = 0; l < SPAN; l++) {
            const int64_t magnitude = sum[l] < 0 ? -sum[l] : sum[l];
            top = magnitude > top ? magnitude : top;
        }
    }
    return top;
}

INLINE void narrow_body(const sum_t *s, const philox_key *key, long shift, long first, long n,
                        int16_t *out, int form) {
    int64_t sum[SPAN];
    int16_t made[SPAN];
    uint16_t drawn[SPAN];
    for (long i = 0; i < n; i += SPAN) {
        const int size = (int)least(SPAN, n - i);
        sum_span(s, first + i, size, sum, form);
        if (shift > 0) {
            const long cut = most(0, shift - FRACTION_BITS), left = most(0, FRACTION_BITS - shift);
            draw(key, first + i, drawn, form);
            for (int l = 0; l < SPAN; l++)
                made[l] = (int16_t)round_signed(sum[l] < 0 ? -sum[l] : sum[l], sum[l], cut, left,
                                                drawn[l]);
        } else {
            for (int l = 0; l < SPAN; l++) made[l] = (int16_t)((uint64_t)sum[l] << -shift);
        }
        memcpy(out + first + i, made, 2 * (size_t)size);
    }
}

static int64_t top_portable(const sum_t *s, long first, long n) {
    return top_body(s, first, n, PORTABLE);
}

static void narrow_portable(const sum_t *s, const philox_key *key, long shift, long first, long n,
                            int16_t *out) {
    narrow_body(s, key, shift, first, n, out, PORTABLE);
}

#if MMINT_X86
#define TOP_AND_NARROW(level, target, form)                                                   \
    target static int64_t top_##level(const sum_t *s, long first, long n) {                   \
        return top_body(s, first, n, form);                                                   \
    }                                                                                         \
    target static void narrow_##level(const sum_t *s, const philox_key *key, long shift,      \
                                      long first, long n, int16_t *out) {                     \
        narrow_body(s, key, shift, first, n, out, form);                                      \
    }
TOP_AND_NARROW(avx2, TARGET_AVX2, AVX2)
TOP_AND_NARROW(avx512, TARGET_AVX512, AVX512)
#endif

/* Sums mapped to `bits`, into `out`; returns the largest magnitude of the sums. */
static uint64_t narrow(const sgd_args *a, const sgd_sum *plan, int role, int16_t *out) {
    const sum_t s = {*plan, key_of(a, plan->role)};
    const philox_key key = key_of(a, role);
    const long chunks = div_up(a->n, CHUNK);
    int64_t top = 0;
#pragma omp parallel for num_threads((int)a->threads) reduction(max : top) if (chunks > 1)
    for (long c = 0; c < chunks; c++) {
        const long n = least(CHUNK, a->n - c * CHUNK);
        int64_t t;
#if MMINT_X86
        if (level->avx512)
            t = top_avx512(&s, c * CHUNK, n);
        else if (level->avx2)
            t = top_avx2(&s, c * CHUNK, n);
        else
#endif
            t = top_portable(&s, c * CHUNK, n);
        if (t > top) top = t;
    }
    const long shift = sgd_narrowing((uint64_t)top, (int)a->bits);
#pragma omp parallel for num_threads((int)a->threads) if (chunks > 1)
    for (long c = 0; c < chunks; c++) {
        const long n = least(CHUNK, a->n - c * CHUNK);
#if MMINT_X86
        if (level->avx2) {
            (level->avx512 ? narrow_avx512 : narrow_avx2)(&s, &key, shift, c * CHUNK, n, out);
            continue;
        }
#endif
        narrow_portable(&s, &key, shift, c * CHUNK, n, out);
    }
    return (uint64_t)top;
}

static int any_of(const int16_t *mantissa, long n) {
    for (long i = 0; i < n; i++)
        if (mantissa[i]) return 1;
    return 0;
}

/* float32 with this largest magnitude mapped to `bits`, into `out`. Is any mantissa not zero? That
 * of subnormals may all be. */
static int map(const sgd_args *a, int64_t x, uint64_t top, int role, int16_t *out) {
    const philox_key key = key_of(a, role);
    const int exponent = exponent_of((uint32_t)top, (int)a->bits);
    round_all((const float *)x, out, a->n, exponent, 1, &key, (int)a->threads);
    return any_of(out, a->n);
}

/* The update in the int16 tensors g, w, u and v of work: gradient, parameter, old momentum and then
 * Nesterov's direction, new momentum. */
static int64_t step(const sgd_args *a, int16_t *g, int16_t *w, int16_t *u, int16_t *v) {
    const int bits = (int)a->bits, threads = (int)a->threads, narrow_momentum = bits <= 8;
    const sgd_settings settings = {
        bits, a->nesterov, {a->momentum_factor[0], a->momentum_factor[1]},
        {a->weight_decay[0], a->weight_decay[1]}, {a->negative_lr[0], a->negative_lr[1]}};
    const int16_t *old = (const int16_t *)a->momentum;
    sgd_seen seen = {.grad_pattern = top_magnitude((const float *)a->grad, a->n, threads),
                     .param_pattern = top_magnitude((const float *)a->param, a->n, threads)};
    if (!is_finite((uint32_t)seen.grad_pattern) || !is_finite((uint32_t)seen.param_pattern))
        return NOT_FINITE;
    if (old && narrow_momentum) {
        for (long i = 0; i < a->n; i++) u[i] = ((const int8_t *)a->momentum)[i];
        old = u;
    }
    const sgd_mantissas of = {g, w, old, v, u, (int)a->momentum_exponent, true};
    seen.grad = (uint64_t)map(a, a->grad, seen.grad_pattern, SGD_GRADIENT, g);
    seen.param = (uint64_t)map(a, a->param, seen.param_pattern, SGD_PARAMETER, w);
    seen.momentum = old && any_of(old, a->n);
    sgd_plan plan = sgd_plan_of(&settings, &of, seen);
    seen.direction = narrow(a, &plan.direction, SGD_MOMENTUM, v);
    if (narrow_momentum)
        for (long i = 0; i < a->n; i++) ((int8_t *)a->out)[i] = (int8_t)v[i];
    if (a->nesterov) {
        plan = sgd_plan_of(&settings, &of, seen);
        seen.nesterov = narrow(a, &plan.nesterov, SGD_NESTEROV, u);
    }
    plan = sgd_plan_of(&settings, &of, seen);
    seen.update = narrow(a, &plan.update, SGD_UPDATE, g);
    const dequantize_args back = {
        (int64_t)g, a->param, a->n, 2, sgd_narrowed_exponent(&plan.update, seen.update, bits),
        threads};
    dequantize(&back);
    return plan.buffer_exponent;
}

int64_t sgd_step(const sgd_args *a) {
    const size_t size = (size_t)a->n * 2;
    int16_t *g = allocate(size), *w = allocate(size), *u = allocate(size);
    int16_t *v = a->bits > 8 ? (int16_t *)a->out : allocate(size);
    const int64_t result = g && w && u && (v || !a->n) ? step(a, g, w, u, v) : NO_MEMORY;
    free(g);
    free(w);
    free(u);
    if (a->bits <= 8) free(v);
    return result;
}
