#include "sgd.h"

#include "mapping.h"
#include "number.h"

enum { SPAN = 64, CHUNK = 1 << 13, MAX_ALIGNMENT = 28 };

/* mmint/numerics/random_bits.py, Role */
enum { PARAMETER = 16, GRADIENT, DIRECTION_SUM, MOMENTUM, NESTEROV_SUM, NESTEROV, UPDATE_SUM, UPDATE };

/* mantissa * factor * 2**exponent; a term that is zero everywhere does not count. */
typedef struct {
    const int16_t *mantissa;
    int64_t factor;
    long exponent;
    int counts;
} term_t;

/* Terms aligned at `exponent`: each is shifted right by shift[i] (left where negative). */
typedef struct {
    term_t term[3];
    long shift[3];
    int terms, draws;
    long exponent;
    philox_key key;
} sum_t;

static philox_key key_of(const sgd_args *a, int role) {
    philox_key key = philox_from(a->random);
    key.c2 |= (uint32_t)role;
    return key;
}

static sum_t align(const sgd_args *a, int role, const term_t *terms, int count) {
    sum_t sum = {.key = key_of(a, role)};
    for (int i = 0; i < count; i++)
        if (terms[i].counts) sum.term[sum.terms++] = terms[i];
    if (!sum.terms) sum.term[sum.terms++] = terms[0];
    long low = sum.term[0].exponent, high = low;
    for (int i = 1; i < sum.terms; i++) {
        low = least(low, sum.term[i].exponent);
        high = most(high, sum.term[i].exponent);
    }
    sum.exponent = most(low, high - MAX_ALIGNMENT);
    for (int i = 0; i < sum.terms; i++) {
        sum.shift[i] = sum.exponent - sum.term[i].exponent;
        sum.draws |= sum.shift[i] > 0;
    }
    return sum;
}

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
    if (s->draws) draw(&s->key, first, drawn, form);
    for (int i = 0; i < SPAN; i++) out[i] = 0;
    for (int t = 0; t < s->terms; t++) {
        int16_t mantissa[SPAN] = {0};
        memcpy(mantissa, s->term[t].mantissa + first, 2 * (size_t)n);
        const int32_t factor = (int32_t)s->term[t].factor;
        if (s->shift[t] <= 0) {
            const long up = -s->shift[t];
            for (int i = 0; i < SPAN; i++)
                out[i] += (int64_t)((uint64_t)(int64_t)(mantissa[i] * factor) << up);
        } else {
            const long cut = least(62, most(0, s->shift[t] - FRACTION_BITS));
            const long left = most(0, FRACTION_BITS - s->shift[t]);
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

/* Sums mapped to `bits`, into `out`; returns them as a term of factor 1. */
static term_t narrow(const sgd_args *a, const sum_t *s, int role, int16_t *out) {
    const philox_key key = key_of(a, role);
    const long chunks = div_up(a->n, CHUNK);
    const int p = (int)a->bits - 1;
    int64_t top = 0;
#pragma omp parallel for num_threads((int)a->threads) reduction(max : top) if (chunks > 1)
    for (long c = 0; c < chunks; c++) {
        const long n = least(CHUNK, a->n - c * CHUNK);
        int64_t t;
#if MMINT_X86
        if (level->avx512)
            t = top_avx512(s, c * CHUNK, n);
        else if (level->avx2)
            t = top_avx2(s, c * CHUNK, n);
        else
#endif
            t = top_portable(s, c * CHUNK, n);
        if (t > top) top = t;
    }
    long shift = bit_length((uint64_t)top) - p;
    if (shift > 0 && top > (int64_t)((1 << p) - 1) << shift) shift++;
#pragma omp parallel for num_threads((int)a->threads) if (chunks > 1)
    for (long c = 0; c < chunks; c++) {
        const long n = least(CHUNK, a->n - c * CHUNK);
#if MMINT_X86
        if (level->avx2) {
            (level->avx512 ? narrow_avx512 : narrow_avx2)(s, &key, shift, c * CHUNK, n, out);
            continue;
        }
#endif
        narrow_portable(s, &key, shift, c * CHUNK, n, out);
    }
    return (term_t){out, 1, top ? s->exponent + shift : 0, top != 0};
}

static term_t scaled(term_t t, const int64_t *factor) {
    t.counts = t.counts && factor[0];
    t.factor = factor[0];
    t.exponent += factor[1];
    return t;
}

static int any_of(const int16_t *mantissa, long n) {
    for (long i = 0; i < n; i++)
        if (mantissa[i]) return 1;
    return 0;
}

/* float32 mapped to `bits`, into `out`; `*status` tells what went wrong. Subnormals may all be
 * rounded to zero, and then do not count. */
static term_t mapped(const sgd_args *a, int64_t x, int role, int16_t *out, int *status) {
    const philox_key key = key_of(a, role);
    const uint32_t top = top_magnitude((const float *)x, a->n, (int)a->threads);
    int exponent;
    *status = exponent_of(top, (int)a->bits, &exponent);
    if (!*status) round_all((const float *)x, out, a->n, exponent, 1, &key, (int)a->threads);
    return (term_t){out, 1, exponent, !*status && any_of(out, a->n)};
}

int64_t sgd_step(const sgd_args *a) {
    const size_t size = (size_t)a->n * 2;
    int16_t *g = allocate(size), *w = allocate(size), *u = allocate(size);
    int16_t *v = a->bits > 8 ? (int16_t *)a->out : allocate(size);
    const int8_t *old8 = a->bits > 8 ? NULL : (const int8_t *)a->momentum;
    const int16_t *old = a->bits > 8 ? (const int16_t *)a->momentum : NULL;
    int status = g && w && u && (v || !a->n) ? OK : NO_MEMORY;
    int64_t result = 0;
    term_t grad, param;
    if (!status) grad = mapped(a, a->grad, GRADIENT, g, &status);
    if (!status) param = mapped(a, a->param, PARAMETER, w, &status);
    if (!status) {
        int count = 2;
        term_t terms[3] = {grad, scaled(param, a->weight_decay)};
        if (a->momentum) {
            if (old8) {
                for (long j = 0; j < a->n; j++) u[j] = old8[j];
                old = u;
            }
            const term_t momentum = {old, 1, a->momentum_exponent, any_of(old, a->n)};
            terms[count++] = scaled(momentum, a->momentum_factor);
        }
        sum_t sum = align(a, DIRECTION_SUM, terms, count);
        term_t buffer = narrow(a, &sum, MOMENTUM, v), direction = buffer;
        result = buffer.exponent;
        if (a->bits <= 8)
            for (long i = 0; i < a->n; i++) ((int8_t *)a->out)[i] = (int8_t)v[i];
        if (a->nesterov) {
            terms[2] = scaled(buffer, a->momentum_factor);
            sum = align(a, NESTEROV_SUM, terms, 3);
            direction = narrow(a, &sum, NESTEROV, u);
        }
        const term_t step[2] = {param, scaled(direction, a->negative_lr)};
        sum = align(a, UPDATE_SUM, step, 2);
        const term_t updated = narrow(a, &sum, UPDATE, g);
        const dequantize_args back = {(int64_t)g, a->param, a->n, 2, updated.exponent, a->threads};
        dequantize(&back);
    }
    free(g);
    free(w);
    free(u);
    if (a->bits <= 8) free(v);
    return status ? status : result;
}
