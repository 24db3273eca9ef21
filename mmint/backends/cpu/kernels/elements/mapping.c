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
    return top_of_source(&(source_t){.x = x}, n, threads);
}

/* ---- exponents that blocks of elements share ---- */

/* The largest magnitudes of blocks `from` to `to` - 1, whole planes where there are mantissas. */
static void tops_of_blocks(const source_t *s, long n, long count, long run, long from, long to,
                           int32_t *tops) {
    enum { SHORT = 32 };
    const int loop = in_memory(s) && run < SHORT;
    memset(tops + from, 0, sizeof *tops * (size_t)(to - from));
    for (long period = 0; period < n; period += count * run)
        for (long b = from; b < to; b++) {
            const long first = period + b * run;
            const uint32_t top =
                loop ? top_loop((const uint32_t *)s->x + first, run) : top_of_part(s, first, run);
            if ((int32_t)top > tops[b]) tops[b] = (int32_t)top;
        }
}

/* Exponents of blocks, in the place of their tops. Is any not finite? */
static int exponents_of_tops(int32_t *tops, long from, long to, long count, int bits) {
    for (long b = from; b < to; b++) {
        const uint32_t top = (uint32_t)tops[b];
        if (!is_finite(top)) return NOT_FINITE;
        tops[b] = !top && count > 1 ? ZEROS_EXPONENT : exponent_of(top, bits);
    }
    return OK;
}

/* As `level->round`, of elements first ... first + n - 1 of a source. */
static void round_some(const source_t *s, void *out, long first, long n, const blocks_t *exponents,
                       int wide, const philox_key *key) {
    if (in_memory(s)) {
        level->round(s->x + first, out, first, n, exponents, wide, key);
        return;
    }
    float buffer[READ];
    for (long i = 0; i < n; i += READ) {
        const long count = least(READ, n - i);
        level->round(read_source(s, first + i, count, buffer), (char *)out + (wide ? 2 : 1) * i,
                     first + i, count, exponents, wide, key);
    }
}

static void round_blocks(const source_t *s, void *out, long n, const blocks_t *exponents, int wide,
                         const philox_key *key, int threads) {
    const long chunks = div_up(n, CHUNK);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (chunks > 1)
    for (long c = 0; c < chunks; c++)
        round_some(s, (char *)out + (wide ? 2 : 1) * c * CHUNK, c * CHUNK,
                   least(CHUNK, n - c * CHUNK), exponents, wide, key);
}

/* Looks for the exponents and, if it `rounds`, makes the mantissas: a part of the blocks at a time,
 * which stays in the cache. */
static int map_blocks(const quantize_args *a, const source_t *s, long n, int rounds,
                      const philox_key *key) {
    enum { PART = 1 << 16, LEAST = 1 << 10 };
    const blocks_t blocks = {a->exponents, a->count, a->run, NULL};
    const long period = a->count * a->run;
    const long part = n ? most(div_up(LEAST, a->run), PART / (a->run * (n / period))) : a->count;
    const int wide = a->bits > 8;
    int failed = 0;
#pragma omp parallel for num_threads((int)a->threads) schedule(dynamic, 1) \
    reduction(| : failed) if (n > CHUNK)
    for (long first = 0; first < a->count; first += part) {
        const long end = least(a->count, first + part);
        tops_of_blocks(s, n, a->count, a->run, first, end, a->exponents);
        failed |= exponents_of_tops(a->exponents, first, end, a->count, (int)a->bits);
        if (failed || !rounds) continue;
        for (long at = first * a->run; at < n; at += period)
            round_some(s, (char *)a->out + (wide ? 2 : 1) * at, at, (end - first) * a->run, &blocks,
                       wide, key);
    }
    return failed ? NOT_FINITE : OK;
}

/* ---- short blocks, such as the columns of a matrix: whole rows are mapped by a table ---- */

enum { MOST_SCALES = 1 << 17 };

static int has_scales(const quantize_args *a) {
    return a->count > 1 && a->run > 0 && a->run < GROUP && a->count * a->run <= MOST_SCALES;
}

/* The largest magnitudes of blocks. `each` is memory for those of a period's elements. */
static void tops_of_columns(const float *x, long n, long count, long run, uint32_t *each,
                            int32_t *tops, int threads) {
    const long period = count * run, part = div_up(period, n > CHUNK ? threads : 1);
#pragma omp parallel for num_threads(threads) if (part < period)
    for (long from = 0; from < period; from += part) {
        const long width = least(part, period - from);
        memset(each + from, 0, sizeof *each * (size_t)width);
        for (long i = from; i < n; i += period)
            level->raise(each + from, (const uint32_t *)x + i, width);
    }
    for (long b = 0; b < count; b++) tops[b] = (int32_t)top_loop(each + b * run, run);
}

/* Fills the table of scales, but where a power of two does not do for an exponent. */
static void fill_scales(blocks_t *e, float *scales, int stochastic) {
    const long period = e->count * e->run;
    for (long b = 0; b < e->count; b++) {
        const int exponent = rounding_exponent(e, b);
        if (!scale_does(exponent)) return;
        for (long i = 0; i < e->run; i++)
            scales[b * e->run + i] = scale_to_round(exponent, stochastic);
    }
    for (long i = 0; i < GROUP; i++) scales[period + i] = scales[i];
    e->scales = scales;
}

void round_all(const float *x, void *out, long n, int exponent, int wide, const philox_key *key,
               int threads) {
    const source_t source = {.x = x};
    round_blocks(&source, out, n, &(blocks_t){&exponent, 1, n, NULL}, wide, key, threads);
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
    int failed = 0;
#pragma omp parallel num_threads(threads) if (jobs > 1)
    {
        int8_t *block = allocate((size_t)(BLOCK_CHANNELS * size));
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
            if (strips == 1) /* the channels follow each other */
                round_some(s, block, first, here * pixels, exponents, 0, key);
            for (long i = 0; strips > 1 && i < here; i++)
                round_some(s, block + i * size, first + i * pixels, count, exponents, 0, key);
            level->transpose(block, size, to, channels, here, count);
        }
        free(block);
    }
    return failed ? NO_MEMORY : OK;
}

/* The exponents of all blocks, before the first element is rounded. `each` as above. */
static int find_exponents(const quantize_args *a, const source_t *s, long n, void *each) {
    const int threads = (int)a->threads;
    if (a->tops)
        memcpy(a->exponents, a->tops, sizeof *a->tops * (size_t)a->count);
    else if (a->count > 1)
        tops_of_columns(s->x, n, a->count, a->run, each, a->exponents, threads);
    else
        a->exponents[0] = (int32_t)top_of_source(s, n, threads);
    return exponents_of_tops(a->exponents, 0, a->count, a->count, (int)a->bits);
}

int64_t quantize(const quantize_args *a) {
    const philox_key key = key_of(RANDOM_OF(a));
    const long n = a->images * a->channels * a->pixels;
    const int wide = a->bits > 8, threads = (int)a->threads;
    const int transposed = !wide && a->channels > 1 && a->pixels > 1;
    const philox_key *drawn = a->stochastic ? &key : NULL;
    const source_t source = SOURCE_OF(a, x);
    blocks_t blocks = {a->exponents, a->count, a->run, NULL};
    void *scales = NULL;
    if (has_scales(a) && !(scales = allocate(4 * (size_t)(a->count * a->run + GROUP))))
        return NO_MEMORY;
    const int in_parts = a->count != 1 && !a->tops && !(scales && in_memory(&source));
    const int rounds = in_parts && !scales && !transposed;
    int status =
        in_parts ? map_blocks(a, &source, n, rounds, drawn) : find_exponents(a, &source, n, scales);
    if (!status && scales) fill_scales(&blocks, scales, (int)a->stochastic);
    if (!status && transposed)
        status = round_channels_last(&source, a->out, a->images, a->channels, a->pixels, &blocks,
                                     drawn, threads);
    else if (!status && !rounds)
        round_blocks(&source, a->out, n, &blocks, wide, drawn, threads);
    free(scales);
    return status;
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
