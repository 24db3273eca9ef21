/* Addition of two tensors in integers, bit for bit as reference/addition.py.
 *
 * One pass: 64 elements at a time share their random bits, both operands are rounded and aligned,
 * and the largest sum is noted on the way out.
 *
 * The AVX2 form rounds as rounding.h has it. Aligned sums stay below 2**31 where p + alignment <= 30,
 * and with an exponent of -126 to 96 their conversion to float32 is the only rounding. Other
 * exponents, those too far apart to be aligned, and tensors of subnormals take the general form of
 * arithmetic/addition.h. */
#include "addition.h"

#include "arithmetic/addition.h"
#include "mapping.h"
#include "rounding.h"

enum { CHUNK = 1 << 15, SPAN = 64 };

typedef struct {
    const uint32_t *x[2];
    addition_t plan;
    int stochastic;
    philox_key key;
} sum_t;

/* Elements first, a multiple of SPAN, ... first + n - 1; returns their top. */
static uint32_t add_general(const sum_t *s, float *out, long first, long n) {
    uint16_t drawn[SPAN] = {0};
    uint32_t top = 0;
    for (long i = first; i < first + n; i++) {
        if (s->stochastic && i % SPAN == 0) philox_portable(&s->key, (uint64_t)i / SPAN, drawn);
        out[i] = add_one(&s->plan, s->x[0][i], s->x[1][i], s->stochastic, drawn[i % SPAN]);
        if (magnitude_bits(out[i]) > top) top = magnitude_bits(out[i]);
    }
    return top;
}

#if MMINT_X86
/* Of the operand of the higher exponent, which goes left, and of the other one. */
typedef struct {
    __m256 scale[2], back;
    __m128i alignment;
    __m256i flip, top;
} lanes_t;

/* Two to a 32-bit lane. */
TARGET_AVX2 INLINE void draw_avx2(const lanes_t *l, const philox_lanes *drawn, __m256i *words) {
    philox_words_avx2(drawn, words);
    for (int w = 0; w < 4; w++) words[w] = _mm256_xor_si256(words[w], l->flip);
}

/* Eight elements, with `drawn` (of two of such vectors, `half` says which). */
TARGET_AVX2 INLINE void add8_avx2(lanes_t *l, const float *x, const float *y, float *out,
                                  __m256i words, int half, int stochastic) {
    __m256i drawn = _mm256_setzero_si256(), inverse = drawn;
    if (stochastic) {
        drawn = drawn_avx2(words, half);
        inverse = _mm256_xor_si256(drawn, _mm256_set1_epi32(0xFFFF));
    }
    const __m256i high = mantissas_avx2(_mm256_loadu_ps(x), l->scale[0], drawn, stochastic);
    const __m256i low = mantissas_avx2(_mm256_loadu_ps(y), l->scale[1], inverse, stochastic);
    const __m256i total = _mm256_add_epi32(_mm256_sll_epi32(high, l->alignment), low);
    const __m256 made = _mm256_mul_ps(_mm256_cvtepi32_ps(total), l->back);
    const __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), made);
    l->top = _mm256_max_epu32(l->top, _mm256_castps_si256(magnitude));
    _mm256_storeu_ps(out, made);
}

/* Elements of `group`, whose random bits are `words`; draws those of the next group. */
TARGET_AVX2 INLINE void add_span_avx2(lanes_t *l, const float *x, const float *y, float *out,
                                      uint64_t group, __m256i *words, const philox_key *key) {
    philox_lanes next;
    if (key) next = philox_start_avx2(key, group + 1);
#pragma GCC unroll 10
    for (int j = 0; j < PHILOX_ROUNDS; j++) {
        if (key) philox_round_avx2(&next, key, j);
        if (j >= 8) continue;
        add8_avx2(l, x + 8 * j, y + 8 * j, out + 8 * j, words[j / 2], j % 2, key != NULL);
    }
    if (key) draw_avx2(l, &next, words);
}

TARGET_AVX2 INLINE uint32_t add_body_avx2(const sum_t *s, float *out, long first, long n,
                                          const philox_key *key) {
    const addition_t *a = &s->plan;
    const int higher = !a->counts[0] || (a->counts[1] && a->exponent[1] > a->exponent[0]);
    const float *x = (const float *)s->x[higher], *y = (const float *)s->x[!higher];
    lanes_t l = {.back = _mm256_set1_ps(scale_of(a->low)),
                 .alignment = _mm_cvtsi32_si128(a->high - a->low),
                 .flip = _mm256_set1_epi16((short)seen_by(higher, 0)),
                 .top = _mm256_setzero_si256()};
    for (int i = 0; i < 2; i++) {
        const int t = i ? !higher : higher;
        l.scale[i] = a->counts[t] ? rounding_scale_avx2(a->exponent[t], key != NULL)
                                  : _mm256_setzero_ps();
    }
    __m256i words[4] = {_mm256_setzero_si256()};
    if (key) {
        philox_avx2(key, (uint64_t)first / SPAN, words);
        for (int w = 0; w < 4; w++) words[w] = _mm256_xor_si256(words[w], l.flip);
    }
    long i = first;
    for (; i + SPAN <= first + n; i += SPAN)
        add_span_avx2(&l, x + i, y + i, out + i, (uint64_t)i / SPAN, words, key);
    if (i < first + n) {
        const size_t size = sizeof(float) * (size_t)(first + n - i);
        float rest[2][SPAN] = {{0}};
        memcpy(rest[0], x + i, size);
        memcpy(rest[1], y + i, size);
        add_span_avx2(&l, rest[0], rest[1], rest[0], (uint64_t)i / SPAN, words, key);
        memcpy(out + i, rest[0], size);
    }
    uint32_t lanes[8], top = 0;
    _mm256_storeu_si256((void *)lanes, l.top);
    for (int j = 0; j < 8; j++) top = lanes[j] > top ? lanes[j] : top;
    return top;
}

TARGET_AVX2 static uint32_t add_avx2(const sum_t *s, float *out, long first, long n) {
    return s->stochastic ? add_body_avx2(s, out, first, n, &s->key)
                         : add_body_avx2(s, out, first, n, NULL);
}
#endif

/* Do powers of two and int32 do? See the top of this file. */
static int is_usual(const addition_t *a, int bits) {
    int usual = bits - 1 + a->high - a->low <= 30 && scale_is_exact(a->low, SCALED_INT32);
    for (int t = 0; t < 2; t++)
        usual = usual && (!a->counts[t] || scale_does(a->exponent[t]));
    return usual;
}

/* A tensor of subnormals may be rounded to zero everywhere. */
static int any_mantissa(const sum_t *s, int t, uint32_t top, int bits, long n) {
    uint16_t drawn[SPAN] = {0};
    if (field_of(top)) return 1;
    for (long i = 0; top && i < n; i++) {
        if (s->stochastic && i % SPAN == 0) philox_portable(&s->key, (uint64_t)i / SPAN, drawn);
        if (map_one(s->x[t][i], exponent_of(top, bits), s->stochastic, seen_by(t, drawn[i % SPAN])))
            return 1;
    }
    return 0;
}

static int prepare(const add_args *a, sum_t *s) {
    const int64_t known[2] = {a->top_x, a->top_y};
    const int bits = (int)a->bits;
    uint32_t top[2];
    int counts[2];
    *s = (sum_t){.x = {(const uint32_t *)a->x, (const uint32_t *)a->y},
                 .stochastic = (int)a->stochastic,
                 .key = philox_from(a->random)};
    for (int t = 0; t < 2; t++) {
        top[t] = known[t] >= 0 ? (uint32_t)known[t]
                               : top_magnitude((const float *)s->x[t], a->n, (int)a->threads);
        if (!is_finite(top[t])) return NOT_FINITE;
        counts[t] = any_mantissa(s, t, top[t], bits, a->n);
    }
    s->plan = addition_of(top[0], counts[0], top[1], counts[1], bits);
    return OK;
}

int64_t add(const add_args *a) {
    sum_t s;
    if (prepare(a, &s)) return NOT_FINITE;
    const int usual = level->avx2 && is_usual(&s.plan, (int)a->bits);
    const long chunks = div_up(a->n, CHUNK);
    uint32_t top = 0;
#pragma omp parallel for num_threads((int)a->threads) reduction(max : top) if (chunks > 1)
    for (long c = 0; c < chunks; c++) {
        const long first = c * CHUNK, n = least(CHUNK, a->n - first);
        uint32_t t;
#if MMINT_X86
        if (usual)
            t = add_avx2(&s, (float *)a->out, first, n);
        else
#endif
            t = add_general(&s, (float *)a->out, first, n);
        if (t > top) top = t;
    }
    (void)usual;
    return top;
}
