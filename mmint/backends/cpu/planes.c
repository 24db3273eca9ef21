/* The passes of batch and group norm over their elements, as reference/norm.py has them.
 *
 * Sums of int8 products are int32 over a block of 2**16 elements (127 * 127 * 2**16 < 2**31), then
 * int64. A combination of int8 mantissas stays below 2**31, though not the terms it is made of:
 * int32 modulo 2**32 gives it, one conversion to float32 rounds it, and a power of two that keeps
 * it normal scales it exactly. Mantissas of 16 bits do the same in int64, below 2**39. */
#include "planes.h"

#include "mapping.h"
#include "x86.h"

enum { BLOCK = 1 << 16, CHUNK = 1 << 15 };

int64_t planar(const planar_args *a) {
    channels_last((const int8_t *)a->x, (int8_t *)a->out, a->images, a->pixels, a->channels,
                  (int)a->threads);
    return OK;
}

/* sum[0] of a, sum[1] of a * b */
static void sums8(const int8_t *a, const int8_t *b, long n, int64_t *sum) {
    for (long i = 0; i < n; i += BLOCK) {
        const long end = least(n, i + BLOCK);
        int32_t plain = 0, product = 0;
        for (long j = i; j < end; j++) {
            plain += a[j];
            product += a[j] * b[j];
        }
        sum[0] += plain;
        sum[1] += product;
    }
}

#if MMINT_X86
TARGET_AVX2 INLINE int32_t lanes_sum(__m256i v) {
    int32_t lanes[8], total = 0;
    STORE(lanes, v);
    for (int l = 0; l < 8; l++) total += lanes[l];
    return total;
}

TARGET_AVX2 static void sums8_avx2(const int8_t *a, const int8_t *b, long n, int64_t *sum) {
    const __m256i ones = _mm256_set1_epi16(1);
    for (long i = 0; i < n; i += BLOCK) {
        const long end = least(n, i + BLOCK);
        __m256i plain = _mm256_setzero_si256(), even = plain, odd = plain;
        long j = i;
        for (; j + 32 <= end; j += 32) {
            const __m256i a0 = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(a + j)));
            const __m256i a1 = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(a + j + 16)));
            const __m256i b0 = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(b + j)));
            const __m256i b1 = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(b + j + 16)));
            even = _mm256_add_epi32(even, _mm256_madd_epi16(a0, b0));
            odd = _mm256_add_epi32(odd, _mm256_madd_epi16(a1, b1));
            plain = _mm256_add_epi32(plain, _mm256_madd_epi16(_mm256_add_epi16(a0, a1), ones));
        }
        sum[0] += lanes_sum(plain);
        sum[1] += lanes_sum(_mm256_add_epi32(even, odd));
        if (j < end) sums8(a + j, b + j, end - j, sum);
    }
}
#endif

INLINE void sums16_body(const int16_t *a, const int16_t *b, long n, int64_t *sum) {
    for (long i = 0; i < n; i++) {
        sum[0] += a[i];
        sum[1] += a[i] * b[i];
    }
}

INLINE uint32_t combine8_body(const int8_t *a, const int8_t *b, float *out, long n,
                              const coefficients_t *c) {
    const uint32_t p = (uint32_t)c->p, q = (uint32_t)c->q, r = (uint32_t)c->r;
    const int fast = scale_is_exact(c->exponent, SCALED_INT32);
    const float scale = fast ? scale_of((int)c->exponent) : 0;
    uint32_t top = 0;
    if (fast && b) {
        for (long i = 0; i < n; i++) {
            out[i] = (float)(int32_t)(p * (uint32_t)a[i] + q * (uint32_t)b[i] + r) * scale;
            top = take(out[i], top);
        }
    } else if (fast) {
        for (long i = 0; i < n; i++) {
            out[i] = (float)(int32_t)(p * (uint32_t)a[i] + r) * scale;
            top = take(out[i], top);
        }
    } else {
        for (long i = 0; i < n; i++) {
            const uint32_t second = b ? q * (uint32_t)b[i] : 0;
            out[i] = dequantize_one((int32_t)(p * (uint32_t)a[i] + second + r), (int)c->exponent);
            top = take(out[i], top);
        }
    }
    return top;
}

INLINE uint32_t combine16_body(const int16_t *a, const int16_t *b, float *out, long n,
                               const coefficients_t *c) {
    const scale_t scale = scale_at((int)c->exponent);
    uint32_t top = 0;
    for (long i = 0; i < n; i++) {
        out[i] = scaled_int64(c->p * a[i] + (b ? c->q * b[i] : 0) + c->r, scale);
        top = take(out[i], top);
    }
    return top;
}

#define COMBINE8(name, target)                                                       \
    target static uint32_t name(const int8_t *a, const int8_t *b, float *restrict out, \
                                long n, const coefficients_t *c) {                     \
        return combine8_body(a, b, out, n, c);                                         \
    }
COMBINE8(combine8, )
#if MMINT_X86
COMBINE8(combine8_avx2, TARGET_AVX2)
#define FORM(name) (level->avx2 ? name##_avx2 : name)
#else
#define FORM(name) (name)
#endif

void sum_run(const void *first, const void *second, long n, int wide, int64_t *sum) {
    if (wide)
        sums16_body(first, second, n, sum);
    else
        FORM(sums8)(first, second, n, sum);
}

static int64_t sum_planes(const void *first, const void *second, int64_t *out, long planes,
                          long pixels, int wide, int threads) {
#pragma omp parallel for num_threads(threads) if (planes * pixels > CHUNK)
    for (long n = 0; n < planes; n++) {
        int64_t sum[2] = {0, 0};
        const long at = (wide ? 2 : 1) * n * pixels;
        sum_run((const char *)first + at, (const char *)second + at, pixels, wide, sum);
        out[n] = sum[0];
        out[planes + n] = sum[1];
    }
    return OK;
}

int64_t plane_sums(const plane_sums_args *a) {
    return sum_planes((const void *)a->x, (const void *)a->x, (int64_t *)a->out, a->planes,
                      a->pixels, (int)a->wide, (int)a->threads);
}

int64_t plane_products(const plane_products_args *a) {
    return sum_planes((const void *)a->grad, (const void *)a->x, (int64_t *)a->out, a->planes,
                      a->pixels, (int)a->wide, (int)a->threads);
}

uint32_t combine(const planes_t *s, const coefficients_t *coefficients, int per_image) {
    const long planes = s->images * s->channels, size = s->wide ? 2 : 1;
    uint32_t top = 0;
#pragma omp parallel for num_threads(s->threads) reduction(max : top) \
    if (planes * s->pixels > CHUNK)
    for (long n = 0; n < planes; n++) {
        const long at = n * s->pixels;
        const void *first = (const char *)s->first + size * at;
        const void *second = s->second ? (const char *)s->second + size * at : NULL;
        const coefficients_t *c = coefficients + (per_image ? n : n % s->channels);
        const uint32_t t = s->wide ? combine16_body(first, second, s->out + at, s->pixels, c)
                                   : FORM(combine8)(first, second, s->out + at, s->pixels, c);
        top = t > top ? t : top;
    }
    return top;
}
