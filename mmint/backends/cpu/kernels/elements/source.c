/* Elements of a norm that were not written: made plane by plane, a cache's worth at a time where
 * somebody reads them. */
#include "source.h"

#include "arguments.h"
#include "integers.h"
#include "levels/level.h"
#include "mapping.h"
#include "memory.h"
#include "planes.h"
#include "random.h"
#include "status.h"

enum { CHUNK = 1 << 15 };
_Static_assert(READ % GROUP == 0, "what is read at once begins with a group of random bits");

static const coefficients_t *coefficients_in(const source_t *s, long plane) {
    return s->coefficients + (s->per_image ? plane : plane % s->channels);
}

uint32_t write_plane(const source_t *s, long plane, long first, long n, float *out) {
    const long at = (plane * s->pixels + first) * (s->wide ? 2 : 1);
    const coefficients_t *c = coefficients_in(s, plane);
    const void *x = (const char *)s->mantissas + at;
    const void *y = s->others ? (const char *)s->others + at : NULL;
    const uint32_t top = s->wide ? combine16(x, y, out, n, c) : level->combine8(x, y, out, n, c);
    return s->cut.there ? level->cut(out, n, s->cut.ceiling) : top;
}

/* Of memory, where bits are set; at most READ elements. Returns the top. */
static uint32_t write_passed(const source_t *s, long first, long n, float *out) {
    const uint8_t *bits = s->passed + first / 8;
    const long by = first % 8;
    uint8_t moved[READ / 8];
    if (by) {
        for (long i = 0; i < div_up(n, 8); i++) {
            const int more = 8 * (i + 1) < by + n;
            moved[i] = (uint8_t)(bits[i] >> by | (more ? bits[i + 1] << (8 - by) : 0));
        }
        bits = moved;
    }
    return level->relu_grad(s->x + first, out, bits, n);
}

const float *read_source(const source_t *s, long first, long n, float *buffer) {
    if (in_memory(s)) return s->x + first;
    if (s->passed) {
        write_passed(s, first, n, buffer);
        return buffer;
    }
    long plane = first / s->pixels, at = first % s->pixels;
    for (long i = 0, count; i < n; i += count, at = 0, plane++) {
        count = least(n - i, s->pixels - at);
        write_plane(s, plane, at, count, buffer + i);
    }
    return buffer;
}

/* By making the elements. */
static uint32_t top_made(const source_t *s, long plane) {
    float buffer[READ];
    uint32_t top = 0;
    for (long i = 0; i < s->pixels; i += READ)
        top = (uint32_t)most(top, write_plane(s, plane, i, least(READ, s->pixels - i), buffer));
    return top;
}

static uint32_t top_passed(const source_t *s, long first, long n) {
    float buffer[READ];
    uint32_t top = 0;
    for (long i = 0; i < n; i += READ)
        top = (uint32_t)most(top, write_passed(s, first + i, least(READ, n - i), buffer));
    return top;
}

static uint32_t top_of_plane(const source_t *s, long plane) {
    const coefficients_t *c = coefficients_in(s, plane);
    if (s->others) return top_made(s, plane);
    if (s->wide) {
        const int16_t *x = (const int16_t *)s->mantissas + plane * s->pixels;
        int16_t low = x[0], high = x[0];
        for (long i = 0; i < s->pixels; i++) {
            low = x[i] < low ? x[i] : low;
            high = x[i] > high ? x[i] : high;
        }
        return top_between(low, high, c, s->cut);
    }
    int8_t low, high;
    level->extremes8((const int8_t *)s->mantissas + plane * s->pixels, s->pixels, &low, &high);
    return top_between(low, high, c, s->cut);
}

uint32_t top_of_part(const source_t *s, long first, long n) {
    uint32_t top = 0;
    if (in_memory(s)) return level->top((const uint32_t *)s->x + first, n);
    if (s->passed) return top_passed(s, first, n);
    for (long i = first; i < first + n; i += s->pixels)
        top = (uint32_t)most(top, top_of_plane(s, i / s->pixels));
    return top;
}

uint32_t top_of_source(const source_t *s, long n, int threads) {
    const long part = s->mantissas ? s->pixels : CHUNK;
    uint32_t top = 0;
#pragma omp parallel for num_threads(threads) reduction(max : top) if (n > CHUNK)
    for (long first = 0; first < n; first += part)
        top = (uint32_t)most(top, top_of_part(s, first, least(part, n - first)));
    return top;
}

int64_t elements(const elements_args *a) {
    const source_t source = SOURCE_OF(a, x);
    const long planes = a->images * source.channels;
    float *out = a->out;
    uint32_t top = 0;
#pragma omp parallel for num_threads((int)a->threads) \
    reduction(max : top) if (planes * source.pixels > CHUNK)
    for (long plane = 0; plane < planes; plane++) {
        const uint32_t here =
            write_plane(&source, plane, 0, source.pixels, out + plane * source.pixels);
        top = here > top ? here : top;
    }
    return top;
}

/* ---- where the gradient of a ReLU passes ---- */

/* Bits of n bytes that are 0 or 1, first ones lowest; there is memory for whole groups of eight. */
static void pack_bits(uint8_t *bytes, long n, uint8_t *bits) {
    memset(bytes + n, 0, (size_t)(-n & 7));
    for (long i = 0; i < n; i += 8) {
        uint64_t eight;
        memcpy(&eight, bytes + i, sizeof eight);
        bits[i / 8] = (uint8_t)(eight * 0x0102040810204080 >> 56); /* little-endian */
    }
}

/* Of mantissas of 8 bits: `of` are those of each channel, or plane, that pass. */
static void bits_of_part(const source_t *s, const mantissas_t *of, long first, long n,
                         uint8_t *bits) {
    const int8_t *x = s->mantissas;
    uint8_t bytes[READ];
    long plane = first / s->pixels, at = first % s->pixels;
    for (long i = 0, count; i < n; i += count, at = 0, plane++) {
        const mantissas_t passing = of[s->per_image ? plane : plane % s->channels];
        count = least(n - i, s->pixels - at);
        for (long j = i; j < i + count; j++)
            bytes[j] = (x[first + j] >= passing.first) & (x[first + j] <= passing.last);
    }
    pack_bits(bytes, n, bits);
}

static void bits_of_wide_part(source_t s, long first, long n, uint8_t *bits) {
    float buffer[READ];
    const float ceiling = s.cut.ceiling;
    s.cut.there = 0;
    read_source(&s, first, n, buffer);
    level->relu(buffer, buffer, bits, n, ceiling);
}

int64_t relu_passed(const elements_args *a) {
    const source_t source = SOURCE_OF(a, x);
    const long sets = source.channels * (source.per_image ? a->images : 1);
    const long n = a->images * source.channels * source.pixels;
    mantissas_t *of = allocate(sizeof *of * (size_t)(sets + 1));
    uint8_t *bits = a->out;
    if (!of) return NO_MEMORY;
    for (long i = 0; !source.wide && i < sets; i++)
        of[i] = passing(source.coefficients + i, source.cut.ceiling);
#pragma omp parallel for num_threads((int)a->threads) if (n > CHUNK)
    for (long first = 0; first < n; first += READ) {
        const long count = least(READ, n - first);
        if (source.wide)
            bits_of_wide_part(source, first, count, bits + first / 8);
        else
            bits_of_part(&source, of, first, count, bits + first / 8);
    }
    free(of);
    return OK;
}
