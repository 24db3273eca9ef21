/* float32 to mantissas and back: paper sections 3.1 and 3.2, bit for bit as reference/mapping.py.
 *
 * Elements are mapped in their logical order, which numbers the random bits; mantissas of images
 * are then transposed to channels-last, where the products read them. */
#include "mapping.h"

#include "arithmetic/mapping.h"
#include "rounding.h"
#include "x86.h"

enum { CHUNK = 1 << 15 };

/* ---- the largest magnitude ---- */

INLINE uint32_t top_body(const uint32_t *x, long n) {
    uint32_t top = 0;
    for (long i = 0; i < n; i++) {
        uint32_t magnitude = x[i] & 0x7FFFFFFF;
        top = magnitude > top ? magnitude : top;
    }
    return top;
}

#if MMINT_X86
TARGET_AVX2 static uint32_t top_avx2(const uint32_t *x, long n) {
    const __m256i mask = _mm256_set1_epi32(0x7FFFFFFF);
    __m256i t0 = _mm256_setzero_si256(), t1 = t0, t2 = t0, t3 = t0;
    long i = 0;
#define STEP(t, o)                                                                     \
    t = _mm256_max_epu32(t, _mm256_and_si256(mask, _mm256_loadu_si256((const void *)(x + i + o))))
    for (; i + 32 <= n; i += 32) {
        STEP(t0, 0);
        STEP(t1, 8);
        STEP(t2, 16);
        STEP(t3, 24);
    }
#undef STEP
    uint32_t lanes[8], top = top_body(x + i, n - i);
    t0 = _mm256_max_epu32(_mm256_max_epu32(t0, t1), _mm256_max_epu32(t2, t3));
    _mm256_storeu_si256((void *)lanes, t0);
    for (int l = 0; l < 8; l++) top = lanes[l] > top ? lanes[l] : top;
    return top;
}
#endif

uint32_t top_of_run(const float *x, long n) {
#if MMINT_X86
    if (level->avx2) return top_avx2((const uint32_t *)x, n);
#endif
    return top_body((const uint32_t *)x, n);
}

uint32_t top_magnitude(const float *x, long n, int threads) {
    uint32_t top = 0;
    const long chunks = div_up(n, CHUNK);
#pragma omp parallel for num_threads(threads) reduction(max : top) if (chunks > 2)
    for (long c = 0; c < chunks; c++) {
        const uint32_t here = top_of_run(x + c * CHUNK, least(CHUNK, n - c * CHUNK));
        if (here > top) top = here;
    }
    return top;
}

/* ---- rounding ---- */

/* Elements `first` (a multiple of 64) ... `first + n - 1`. */
static void round_portable(const uint32_t *x, void *out, long first, long n, int exponent, int wide,
                           const philox_key *key) {
    uint16_t drawn[64] = {0};
    for (long i = 0; i < n; i++) {
        if (key && i % 64 == 0) philox_portable(key, (uint64_t)(first + i) / 64, drawn);
        const int64_t r = quantize_one(x[i], exponent, key != NULL, drawn[i % 64]);
        if (wide)
            ((int16_t *)out)[i] = (int16_t)r;
        else
            ((int8_t *)out)[i] = (int8_t)r;
    }
}

#if MMINT_X86
/* 64 elements, whose random bits are `words`; draws those of the group `next`. */
TARGET_AVX2 INLINE void round_block_avx2(const float *x, void *out, __m256i *words, uint64_t next,
                                         __m256 scale, int wide, const philox_key *key) {
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i made[2], half = _mm256_setzero_si256();
    philox_lanes lanes;
    if (key) lanes = philox_start_avx2(key, next);
#pragma GCC unroll 10
    for (int j = 0; j < PHILOX_ROUNDS; j++) {
        if (key) philox_round_avx2(&lanes, key, j);
        if (j >= 8) continue;
        const __m256i drawn = drawn_avx2(words[j / 2], j % 2);
        made[j % 2] = mantissas_avx2(_mm256_loadu_ps(x + 8 * j), scale, drawn, key != NULL);
        if (j % 2 == 0) continue;
        const __m256i packed = _mm256_packs_epi32(made[0], made[1]);
        if (wide)
            STORE((int16_t *)out + 8 * (j - 1), _mm256_permute4x64_epi64(packed, 0xD8));
        else if (j % 4 == 1)
            half = packed;
        else
            STORE((int8_t *)out + 8 * (j - 3),
                  _mm256_permutevar8x32_epi32(_mm256_packs_epi16(half, packed), order));
    }
    if (key) philox_words_avx2(&lanes, words);
}

#define ROUND_RUN(name, WIDE, KEY)                                                                 \
    TARGET_AVX2 static void name(const float *x, void *out, long first, long n, int exponent,      \
                                 const philox_key *key) {                                          \
        const __m256 scale = rounding_scale_avx2(exponent, (KEY) != NULL);                         \
        const int size = (WIDE) ? 2 : 1;                                                           \
        uint64_t next = (uint64_t)first / 64;                                                      \
        __m256i words[4] = {_mm256_setzero_si256()};                                               \
        long i = 0;                                                                                \
        if (KEY) philox_avx2(key, next, words);                                                    \
        for (; i + 64 <= n; i += 64)                                                               \
            round_block_avx2(x + i, (char *)out + size * i, words, ++next, scale, WIDE, KEY);      \
        if (i < n) {                                                                               \
            float rest[64] = {0};                                                                  \
            int16_t made[64];                                                                      \
            memcpy(rest, x + i, 4 * (size_t)(n - i));                                              \
            round_block_avx2(rest, made, words, ++next, scale, WIDE, KEY);                         \
            memcpy((char *)out + size * i, made, (size_t)(size * (n - i)));                        \
        }                                                                                          \
    }
ROUND_RUN(round_stochastic8, 0, key)
ROUND_RUN(round_stochastic16, 1, key)
ROUND_RUN(round_even8, 0, NULL)
ROUND_RUN(round_even16, 1, NULL)
#endif

void round_run(const float *x, void *out, long first, long n, int exponent, int wide,
               const philox_key *key) {
#if MMINT_X86
    if (level->avx2 && scale_does(exponent)) {
        if (key)
            (wide ? round_stochastic16 : round_stochastic8)(x + first, out, first, n, exponent, key);
        else
            (wide ? round_even16 : round_even8)(x + first, out, first, n, exponent, NULL);
        return;
    }
#endif
    round_portable((const uint32_t *)x + first, out, first, n, exponent, wide, key);
}

void round_all(const float *x, void *out, long n, int exponent, int wide, const philox_key *key,
               int threads) {
    const long chunks = div_up(n, CHUNK);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (chunks > 1)
    for (long c = 0; c < chunks; c++)
        round_run(x, (char *)out + (wide ? 2 : 1) * c * CHUNK, c * CHUNK,
                  least(CHUNK, n - c * CHUNK), exponent, wide, key);
}

/* ---- (C, pixels) to (pixels, C), bytes ---- */

#if MMINT_X86
/* 16 x 16 bytes: four rounds of interleaving rows i and i + 8. */
TARGET_AVX2 INLINE void transpose16(const int8_t *from, long from_row, int8_t *to, long to_row) {
    __m128i a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = _mm_loadu_si128((const void *)(from + i * from_row));
#pragma GCC unroll 4
    for (int round = 0; round < 4; round++) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
            b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) a[i] = b[i];
    }
    for (int i = 0; i < 16; i++) _mm_storeu_si128((void *)(to + i * to_row), a[i]);
}

TARGET_AVX2 static void transpose_avx2(const int8_t *from, long from_row, int8_t *to, long to_row,
                                       long channels, long pixels) {
    const long full_c = channels / 16 * 16, full_p = pixels / 16 * 16;
    for (long p = 0; p < full_p; p += 16)
        for (long c = 0; c < full_c; c += 16)
            transpose16(from + c * from_row + p, from_row, to + p * to_row + c, to_row);
    for (long p = 0; p < pixels; p++)
        for (long c = p < full_p ? full_c : 0; c < channels; c++)
            to[p * to_row + c] = from[c * from_row + p];
}
#endif

/* to[p * to_row + c] = from[c * from_row + p] */
static void transpose(const int8_t *from, long from_row, int8_t *to, long to_row, long channels,
                      long pixels) {
#if MMINT_X86
    if (level->avx2) {
        transpose_avx2(from, from_row, to, to_row, channels, pixels);
        return;
    }
#endif
    for (long p = 0; p < pixels; p++)
        for (long c = 0; c < channels; c++) to[p * to_row + c] = from[c * from_row + p];
}

void channels_last(const int8_t *from, int8_t *to, long images, long channels, long pixels,
                   int threads) {
    const long strip = 256, strips = div_up(pixels, strip);
#pragma omp parallel for num_threads(threads) if (images * channels * pixels > CHUNK)
    for (long j = 0; j < images * strips; j++) {
        const long base = j / strips * channels * pixels, p = j % strips * strip;
        transpose(from + base + p, pixels, to + base + p * channels, channels, channels,
                  least(strip, pixels - p));
    }
}

/* ---- both: mapped in blocks that stay in the cache, a whole cache line of channels at a time ---- */

enum { BLOCK_CHANNELS = 64, BLOCK_PIXELS = 2048 };

static int round_channels_last(const float *x, int8_t *out, long images, long channels, long pixels,
                               int exponent, const philox_key *key, int threads) {
    const long size = least(pixels, BLOCK_PIXELS), strips = div_up(pixels, size);
    const long parts = div_up(channels, BLOCK_CHANNELS), jobs = images * parts * strips;
    const long row = pixels == size ? size : size + 64;
    int failed = 0;
#pragma omp parallel num_threads(threads) if (jobs > 1)
    {
        int8_t *block = allocate((size_t)(BLOCK_CHANNELS * row) + 64);
        if (!block) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 1)
        for (long job = 0; job < jobs; job++) {
            if (!block) continue;
            const long n = job / (parts * strips), c = job / strips % parts * BLOCK_CHANNELS;
            const long p = job % strips * size, count = least(size, pixels - p);
            const long here = least(BLOCK_CHANNELS, channels - c);
            const long first = (n * channels + c) * pixels + p;
            int8_t *to = out + (n * pixels + p) * channels + c;
            if (strips == 1) { /* the channels follow each other */
                const long from = first / 64 * 64;
                round_run(x, block, from, first - from + here * pixels, exponent, 0, key);
                transpose(block + (first - from), pixels, to, channels, here, pixels);
                continue;
            }
            for (long i = 0; i < here; i++) {
                const long at = first + i * pixels, from = at / 64 * 64;
                round_run(x, block + i * row, from, at - from + count, exponent, 0, key);
                if (at > from) memmove(block + i * row, block + i * row + (at - from), (size_t)count);
            }
            transpose(block, row, to, channels, here, count);
        }
        free(block);
    }
    return failed ? NO_MEMORY : OK;
}

int64_t quantize(const quantize_args *a) {
    const philox_key key = philox_from(a->random);
    const long n = a->images * a->channels * a->pixels;
    const int wide = a->bits > 8, threads = (int)a->threads;
    const int transposed = !wide && a->channels > 1 && a->pixels > 1;
    const float *x = (const float *)a->x;
    const uint32_t top = a->top < 0 ? top_magnitude(x, n, threads) : (uint32_t)a->top;
    if (!is_finite(top)) return NOT_FINITE;
    const int exponent = exponent_of(top, (int)a->bits);
    const philox_key *drawn = a->stochastic ? &key : NULL;
    if (!transposed)
        round_all(x, (void *)a->out, n, exponent, wide, drawn, threads);
    else if (round_channels_last(x, (int8_t *)a->out, a->images, a->channels, a->pixels, exponent,
                                 drawn, threads))
        return NO_MEMORY;
    return exponent;
}

/* ---- back ---- */

INLINE int64_t integer_at(const void *x, long i, int size) {
    return size == 1   ? ((const int8_t *)x)[i]
           : size == 2 ? ((const int16_t *)x)[i]
           : size == 4 ? ((const int32_t *)x)[i]
                       : ((const int64_t *)x)[i];
}

#define DEQUANTIZE_RUN(type)                                                     \
    for (long i = 0; i < n; i++) out[i] = (float)((const type *)x)[i] * scale; \
    break

void dequantize_some(const void *x, float *out, long n, int size, int64_t exponent) {
    if (size < 8 && scale_is_exact(exponent, SCALED_INT32)) {
        const float scale = scale_of((int)exponent);
        switch (size) {
        case 1: DEQUANTIZE_RUN(int8_t);
        case 2: DEQUANTIZE_RUN(int16_t);
        default: DEQUANTIZE_RUN(int32_t);
        }
        return;
    }
    const int at = clamped_exponent(exponent);
    for (long i = 0; i < n; i++) out[i] = dequantize_one(integer_at(x, i, size), at);
}

int64_t dequantize(const dequantize_args *a) {
    const long chunks = div_up(a->n, CHUNK);
#pragma omp parallel for num_threads((int)a->threads) if (chunks > 1)
    for (long c = 0; c < chunks; c++)
        dequantize_some((const char *)a->x + a->size * c * CHUNK, (float *)a->out + c * CHUNK,
                        least(CHUNK, a->n - c * CHUNK), (int)a->size, a->exponent);
    return OK;
}

/* ---- sums over rows of a (rows, channels) matrix ---- */

int64_t channel_sum(const channel_sum_args *a) {
    enum { PART = 1 << 13 };
    const long channels = a->channels, parts = div_up(a->rows, PART);
    int64_t *total = calloc((size_t)channels + 1, sizeof *total);
    int failed = !total;
#pragma omp parallel num_threads((int)a->threads) if (a->rows * channels > CHUNK)
    {
        int32_t *sum = allocate((size_t)channels * 4);
        if (!sum) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for
        for (long part = 0; part < parts; part++) {
            if (failed) continue;
            memset(sum, 0, (size_t)channels * 4);
            for (long r = part * PART; r < least(a->rows, (part + 1) * PART); r++) {
                if (a->wide) {
                    const int16_t *row = (const int16_t *)a->x + r * channels;
                    for (long c = 0; c < channels; c++) sum[c] += row[c];
                } else {
                    const int8_t *row = (const int8_t *)a->x + r * channels;
                    for (long c = 0; c < channels; c++) sum[c] += row[c];
                }
            }
#pragma omp critical
            for (long c = 0; c < channels; c++) total[c] += sum[c];
        }
        free(sum);
    }
    if (!failed) dequantize_some(total, (float *)a->out, channels, 8, a->exponent);
    free(total);
    return failed ? NO_MEMORY : OK;
}
