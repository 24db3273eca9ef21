/* float32 to mantissas and back: paper sections 3.1 and 3.2, bit for bit as reference/mapping.py.
 *
 * Elements are mapped in their logical order, which numbers the random bits; mantissas of images
 * are then transposed to channels-last, where the products read them. */
#include "mapping.h"

#include "arguments.h"
#include "arithmetic/mapping.h"
#include "levels/level.h"
#include "mapping_loops.h"
#include "memory.h"
#include "source.h"
#include "status.h"

enum { CHUNK = 1 << 15 };

uint32_t top_magnitude(const float *x, long n, int threads) {
    uint32_t top = 0;
    const long chunks = div_up(n, CHUNK);
#pragma omp parallel for num_threads(threads) reduction(max : top) if (chunks > 2)
    for (long c = 0; c < chunks; c++) {
        const uint32_t here =
            level->top((const uint32_t *)x + c * CHUNK, least(CHUNK, n - c * CHUNK));
        if (here > top) top = here;
    }
    return top;
}

/* ---- exponents that blocks of elements share ---- */

/* Element i has exponent of[i / run % count]. */
typedef struct {
    const int32_t *of;
    long count, run;
} blocks_t;

/* The largest magnitude of each block. */
static void tops_of_blocks(const float *x, long n, long count, long run, int32_t *tops,
                           int threads) {
    enum { SHORT = 32 };
    if (count == 1) {
        tops[0] = (int32_t)top_magnitude(x, n, threads);
        return;
    }
    memset(tops, 0, sizeof *tops * (size_t)count);
    const long part = n ? div_up(SHORT, run) : 1;
#pragma omp parallel for num_threads(threads) if (n > CHUNK)
    for (long first = 0; first < count; first += part)
        for (long period = 0; period < n; period += count * run)
            for (long b = first; b < least(count, first + part); b++) {
                const uint32_t *block = (const uint32_t *)x + period + b * run;
                const uint32_t top = run < SHORT ? top_loop(block, run) : level->top(block, run);
                if ((int32_t)top > tops[b]) tops[b] = (int32_t)top;
            }
}

/* The same of a source that is made, whose blocks hold whole planes. */
static int tops_of_planes(const source_t *s, long planes, long count, long run, int32_t *tops,
                          int threads) {
    uint32_t *of = allocate(sizeof *of * (size_t)(planes + 1));
    if (!of) return NO_MEMORY;
#pragma omp parallel for num_threads(threads) if (planes * s->pixels > CHUNK)
    for (long plane = 0; plane < planes; plane++) of[plane] = top_of_plane(s, plane);
    memset(tops, 0, sizeof *tops * (size_t)count);
    for (long plane = 0; plane < planes; plane++) {
        int32_t *top = &tops[plane * s->pixels / run % count];
        *top = (int32_t)most(*top, of[plane]);
    }
    free(of);
    return OK;
}

/* Zeros are rounded alike at any exponent. */
INLINE int rounding_exponent(const blocks_t *e, long block) {
    return e->of[block] == ZEROS_EXPONENT ? 0 : e->of[block];
}

/* Exponents of elements first ... first + n - 1; returns the lowest. */
static int spread_exponents(const blocks_t *e, long first, long n, int32_t *out) {
    long block = first / e->run % e->count, end = e->run - first % e->run;
    int lowest = rounding_exponent(e, block);
    for (long i = 0; i < n; end += e->run) {
        const int here = rounding_exponent(e, block);
        for (; i < least(n, end); i++) out[i] = here;
        lowest = (int)least(lowest, here);
        block = block + 1 == e->count ? 0 : block + 1;
    }
    return lowest;
}

/* As `level->round`, of elements first ... first + n - 1. */
static void round_blocks(const source_t *s, void *out, long first, long n, const blocks_t *e,
                         int wide, const philox_key *key) {
    int32_t exponents[READ];
    float buffer[READ];
    for (long i = 0, count; i < n; i += count) {
        const long at = first + i, alike = least(n - i, e->run - at % e->run);
        void *to = (char *)out + (wide ? 2 : 1) * i;
        count = least(n - i, READ);
        if (alike >= count) {
            if (!s->mantissas) count = alike == n - i ? alike : alike / GROUP * GROUP;
            const int exponent = rounding_exponent(e, at / e->run % e->count);
            level->round(read_source(s, at, count, buffer), to, at, count, exponent, wide, key);
            continue;
        }
        const float *x = read_source(s, at, count, buffer);
        if (scale_does(spread_exponents(e, at, count, exponents)))
            level->round_each(x, to, at, count, exponents, wide, key);
        else
            round_each_loop(x, to, at, count, exponents, wide, key);
    }
}

static void round_blocks_all(const source_t *s, void *out, long n, const blocks_t *exponents,
                             int wide, const philox_key *key, int threads) {
    const long chunks = div_up(n, CHUNK);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (chunks > 1)
    for (long c = 0; c < chunks; c++)
        round_blocks(s, (char *)out + (wide ? 2 : 1) * c * CHUNK, c * CHUNK,
                     least(CHUNK, n - c * CHUNK), exponents, wide, key);
}

void round_all(const float *x, void *out, long n, int exponent, int wide, const philox_key *key,
               int threads) {
    const source_t source = {.x = x};
    round_blocks_all(&source, out, n, &(blocks_t){&exponent, 1, n}, wide, key, threads);
}

/* ---- (C, pixels) to (pixels, C), bytes ---- */

void channels_last(const int8_t *from, int8_t *to, long images, long channels, long pixels,
                   int threads) {
    const long strip = 256, strips = div_up(pixels, strip);
#pragma omp parallel for num_threads(threads) if (images * channels * pixels > CHUNK)
    for (long j = 0; j < images * strips; j++) {
        const long base = j / strips * channels * pixels, p = j % strips * strip;
        level->transpose(from + base + p, pixels, to + base + p * channels, channels, channels,
                         least(strip, pixels - p));
    }
}

/* ---- both: mapped in blocks that stay in the cache, a cache line of channels at a time ---- */

enum { BLOCK_CHANNELS = 64, BLOCK_PIXELS = 2048 };

static int round_channels_last(const source_t *s, int8_t *out, long images, long channels,
                               long pixels, const blocks_t *exponents, const philox_key *key,
                               int threads) {
    const long size = least(pixels, BLOCK_PIXELS), strips = div_up(pixels, size);
    const long parts = div_up(channels, BLOCK_CHANNELS), jobs = images * parts * strips;
    const long row = pixels == size ? size : size + GROUP;
    int failed = 0;
#pragma omp parallel num_threads(threads) if (jobs > 1)
    {
        int8_t *block = allocate((size_t)(BLOCK_CHANNELS * row) + GROUP);
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
                const long from = first / GROUP * GROUP;
                round_blocks(s, block, from, first - from + here * pixels, exponents, 0, key);
                level->transpose(block + (first - from), pixels, to, channels, here, pixels);
                continue;
            }
            for (long i = 0; i < here; i++) {
                const long at = first + i * pixels, from = at / GROUP * GROUP;
                round_blocks(s, block + i * row, from, at - from + count, exponents, 0, key);
                if (at > from)
                    memmove(block + i * row, block + i * row + (at - from), (size_t)count);
            }
            level->transpose(block, row, to, channels, here, count);
        }
        free(block);
    }
    return failed ? NO_MEMORY : OK;
}

int64_t quantize(const quantize_args *a) {
    const philox_key key = key_of(RANDOM_OF(a));
    const long n = a->images * a->channels * a->pixels;
    const int wide = a->bits > 8, threads = (int)a->threads;
    const int transposed = !wide && a->channels > 1 && a->pixels > 1;
    const source_t source = SOURCE_OF(a, x);
    int32_t *exponents = a->exponents;
    if (!a->tops && !source.mantissas)
        tops_of_blocks(source.x, n, a->count, a->run, exponents, threads);
    else if (!a->tops && tops_of_planes(&source, n ? n / source.pixels : 0, a->count, a->run,
                                        exponents, threads))
        return NO_MEMORY;
    for (long i = 0; i < a->count; i++) {
        const uint32_t top = (uint32_t)(a->tops ? a->tops : exponents)[i];
        if (!is_finite(top)) return NOT_FINITE;
        exponents[i] = !top && a->count > 1 ? ZEROS_EXPONENT : exponent_of(top, (int)a->bits);
    }
    const blocks_t blocks = {exponents, a->count, a->run};
    const philox_key *drawn = a->stochastic ? &key : NULL;
    if (transposed)
        return round_channels_last(&source, a->out, a->images, a->channels, a->pixels, &blocks,
                                   drawn, threads);
    round_blocks_all(&source, a->out, n, &blocks, wide, drawn, threads);
    return OK;
}

/* ---- back ---- */

INLINE int64_t integer_at(const void *x, long i, int size) {
    return size == 1   ? ((const int8_t *)x)[i]
           : size == 2 ? ((const int16_t *)x)[i]
           : size == 4 ? ((const int32_t *)x)[i]
                       : ((const int64_t *)x)[i];
}

#define DEQUANTIZE_RUN(type)                                                   \
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
        dequantize_some((const char *)a->x + a->size * c * CHUNK, a->out + c * CHUNK,
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
    for (long c = 0; !failed && c < channels; c++)
        a->out[c] = dequantize_one(total[c], exponent_at(EXPONENTS_OF(a, exponent), c));
    free(total);
    return failed ? NO_MEMORY : OK;
}
