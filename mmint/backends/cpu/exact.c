/* ReLU and max pooling as reference/exact.py has them: comparisons and moves, so exact.
 *
 * Each thread takes whole bytes of ReLU's bits, or whole planes of a pooled image; the sums of a
 * pooling gradient, where windows overlap, are thus taken in row-major order by one thread. */
#include "exact.h"

#include "arithmetic/number.h"
#include "mapping.h"

#include <math.h>

enum { CHUNK = 1 << 15 };

#if MMINT_X86
TARGET_AVX2 INLINE __m256i larger(__m256i top, __m256 made) {
    const __m256i magnitude = _mm256_and_si256((__m256i)made, _mm256_set1_epi32(0x7FFFFFFF));
    return _mm256_max_epu32(top, magnitude);
}

TARGET_AVX2 INLINE uint32_t largest(__m256i top) {
    float lanes[8];
    _mm256_storeu_si256((void *)lanes, top);
    return top_of_run(lanes, 8);
}

TARGET_AVX2 static int64_t relu_avx2(const float *x, float *out, uint8_t *positive, int64_t n,
                                     uint32_t *top) {
    const __m256 zero = _mm256_setzero_ps();
    __m256i seen = _mm256_setzero_si256();
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 v = _mm256_loadu_ps(x + i);
        positive[i / 8] = (uint8_t)_mm256_movemask_ps(_mm256_cmp_ps(v, zero, _CMP_GT_OQ));
        /* not v < 0, so that NaN and -0 stay, as in PyTorch */
        const __m256 negative = _mm256_cmp_ps(v, zero, _CMP_LT_OQ);
        const __m256 made = _mm256_andnot_ps(negative, v);
        _mm256_storeu_ps(out + i, made);
        seen = larger(seen, made);
    }
    *top = largest(seen);
    return i;
}

TARGET_AVX2 static int64_t relu_grad_avx2(const float *g, float *out, const uint8_t *positive,
                                          int64_t n, uint32_t *top) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i seen = _mm256_setzero_si256();
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256i bits = _mm256_and_si256(_mm256_set1_epi32(positive[i / 8]), bit);
        const __m256 kept = _mm256_castsi256_ps(_mm256_cmpeq_epi32(bits, bit));
        const __m256 made = _mm256_and_ps(kept, _mm256_loadu_ps(g + i));
        _mm256_storeu_ps(out + i, made);
        seen = larger(seen, made);
    }
    *top = largest(seen);
    return i;
}
#endif

static uint32_t relu_chunk(const float *x, float *out, uint8_t *positive, int64_t n) {
    uint32_t top = 0;
    int64_t i = 0;
#if MMINT_X86
    if (level->avx2) i = relu_avx2(x, out, positive, n, &top);
#endif
    for (; i < n; i++) {
        const float v = x[i];
        if (i % 8 == 0) positive[i / 8] = 0;
        positive[i / 8] |= (uint8_t)((v > 0) << i % 8);
        out[i] = v < 0 ? 0 : v;
        top = (uint32_t)most(top, magnitude_bits(out[i]));
    }
    return top;
}

static uint32_t relu_grad_chunk(const float *g, float *out, const uint8_t *positive, int64_t n) {
    uint32_t top = 0;
    int64_t i = 0;
#if MMINT_X86
    if (level->avx2) i = relu_grad_avx2(g, out, positive, n, &top);
#endif
    for (; i < n; i++) {
        out[i] = positive[i / 8] >> i % 8 & 1 ? g[i] : 0;
        top = (uint32_t)most(top, magnitude_bits(out[i]));
    }
    return top;
}

int64_t relu(const relu_args *a) {
    const int64_t chunks = div_up(a->count, CHUNK);
    uint32_t top = 0;
#pragma omp parallel for num_threads(a->threads) reduction(max : top) if (chunks > 1)
    for (int64_t c = 0; c < chunks; c++) {
        const int64_t i = c * CHUNK;
        const uint32_t here =
            relu_chunk((const float *)a->x + i, (float *)a->out + i,
                       (uint8_t *)a->positive + i / 8, least(CHUNK, a->count - i));
        top = (uint32_t)most(top, here);
    }
    return top;
}

int64_t relu_grad(const relu_args *a) {
    const int64_t chunks = div_up(a->count, CHUNK);
    uint32_t top = 0;
#pragma omp parallel for num_threads(a->threads) reduction(max : top) if (chunks > 1)
    for (int64_t c = 0; c < chunks; c++) {
        const int64_t i = c * CHUNK;
        const uint32_t here =
            relu_grad_chunk((const float *)a->x + i, (float *)a->out + i,
                       (const uint8_t *)a->positive + i / 8, least(CHUNK, a->count - i));
        top = (uint32_t)most(top, here);
    }
    return top;
}

/* The first output, at stride, padding and offset in the window, whose element is inside. */
static int64_t first_output(int64_t offset, int64_t stride) {
    return offset >= 0 ? 0 : div_up(-offset, stride);
}

/* Places are tried one after the other for a whole row of outputs, so that the loop has no tests
 * of borders; each output still sees its elements in row-major order. */
static void pool_plane(const max_pool2d_args *a, const float *x, float *out, uint8_t *place) {
    for (int64_t i = 0; i < a->out_h; i++, out += a->out_w, place += a->out_w) {
        int started = 0;
        for (int64_t j = 0; j < a->out_w; j++) out[j] = -INFINITY;
        for (int64_t p = 0; p < a->kernel_h; p++) {
            const int64_t row = i * a->stride_h - a->padding_h + p;
            if (row < 0 || row >= a->height) continue;
            for (int64_t q = a->kernel_w; !started && q-- > 0;) {
                const int64_t offset = q - a->padding_w;
                for (int64_t j = first_output(offset, a->stride_w); j < a->out_w; j++)
                    place[j] = (uint8_t)(p * a->kernel_w + q); /* the first element inside */
            }
            started = 1;
            for (int64_t q = 0; q < a->kernel_w; q++) {
                const int64_t offset = q - a->padding_w;
                const int64_t end = least(a->out_w, div_up(a->width - offset, a->stride_w));
                const float *from = x + row * a->width + offset;
                const uint8_t where = (uint8_t)(p * a->kernel_w + q);
                for (int64_t j = first_output(offset, a->stride_w); j < end; j++) {
                    const float v = from[j * a->stride_w];
                    const int takes = v > out[j] || isnan(v);
                    place[j] = takes ? where : place[j];
                    out[j] = takes ? v : out[j];
                }
            }
        }
    }
}

static void pool_plane_grad(const max_pool2d_args *a, const float *g, float *out,
                            const uint8_t *place) {
    memset(out, 0, sizeof(float) * (size_t)(a->height * a->width));
    for (int64_t i = 0; i < a->out_h; i++) {
        for (int64_t j = 0; j < a->out_w; j++) {
            const int64_t p = *place / a->kernel_w, q = *place % a->kernel_w;
            const int64_t row = i * a->stride_h - a->padding_h + p;
            const int64_t column = j * a->stride_w - a->padding_w + q;
            out[row * a->width + column] += *g++;
            place++;
        }
    }
}

int64_t max_pool2d(const max_pool2d_args *a) {
    uint32_t top = 0;
    const int64_t in = a->height * a->width, out = a->out_h * a->out_w;
#pragma omp parallel for num_threads(a->threads) reduction(max : top) if (a->planes * out > CHUNK)
    for (int64_t n = 0; n < a->planes; n++) {
        pool_plane(a, (const float *)a->x + n * in, (float *)a->out + n * out,
                   (uint8_t *)a->place + n * out);
        const uint32_t here = top_of_run((const float *)a->out + n * out, out); /* cached */
        top = (uint32_t)most(top, here);
    }
    return top;
}

int64_t max_pool2d_grad(const max_pool2d_args *a) {
    uint32_t top = 0;
    const int64_t in = a->height * a->width, out = a->out_h * a->out_w;
#pragma omp parallel for num_threads(a->threads) reduction(max : top) if (a->planes * out > CHUNK)
    for (int64_t n = 0; n < a->planes; n++) {
        pool_plane_grad(a, (const float *)a->x + n * out, (float *)a->out + n * in,
                        (const uint8_t *)a->place + n * out);
        const uint32_t here = top_of_run((const float *)a->out + n * in, in); /* cached */
        top = (uint32_t)most(top, here);
    }
    return top;
}
