#include "arithmetic/mapping.h"
#include "winograd.h"
#include "winograd_parts.h"
#include "x86.h"

enum {
    BLOCK = 128,     /* tiles summed modulo 2**32: 64 * 127 * 127 * 16 * 128 < 2**31 */
    PAIRS = BLOCK / 2,
    ROW_PANELS = 8,  /* panels of MR rows whose sums stay in the cache */
    STREAM = 8 * MR, /* rows transformed before they are dealt out to panels: 3 vectors */
    TAPS = 9
};

typedef struct {
    const winograd_grad_t *p;
    long tiles_h, tiles_w, tiles, row_panels, lane_panels;
    int8_t *zeros;
    int32_t *grads;  /* (point, panel of rows, pair of tiles, MR) */
    int32_t *inputs; /* (point, panel of channels, pair of tiles, NR) */
    void *sums;      /* (row, panel of channels, tap, NR) of all blocks so far: int32 or, */
    int widened;     /* if so, int64 */
} shared_t;

typedef struct {
    const int8_t *pixel[POINTS], *grad[SIDE * SIDE];
} place_t;

static void locate(const shared_t *s, long tile, place_t *at) {
    const winograd_grad_t *p = s->p;
    const long x = tile % s->tiles_w, y = tile / s->tiles_w % s->tiles_h;
    const long rest = tile / s->tiles_w / s->tiles_h;
    const long phase_x = rest % p->dilation_w, phase_y = rest / p->dilation_w % p->dilation_h;
    const long n = rest / p->dilation_w / p->dilation_h;
    const long y0 = y * SIDE * p->dilation_h + phase_y, x0 = x * SIDE * p->dilation_w + phase_x;
    const int here = tile < s->tiles;
    for (int i = 0; i < 6; i++) {
        const long gy = y0 + i * p->dilation_h, iy = gy - p->pad_h;
        for (int j = 0; j < 6; j++) {
            const long gx = x0 + j * p->dilation_w, ix = gx - p->pad_w;
            at->pixel[6 * i + j] =
                !here || iy < 0 || iy >= p->height || ix < 0 || ix >= p->width
                    ? s->zeros
                    : p->image + ((n * p->height + iy) * p->width + ix) * p->channels;
            if (i < SIDE && j < SIDE)
                at->grad[SIDE * i + j] =
                    !here || gy >= p->out_h || gx >= p->out_w
                        ? s->zeros
                        : p->grad + ((n * p->out_h + gy) * p->out_w + gx) * p->rows;
        }
    }
}

/* The rows of G for four values. */
INLINE void grad_line(v16 *d, const v16 g0, const v16 g1, const v16 g2, const v16 g3, int step) {
    const v16 even = g0 + g2, odd = g1 + g3, far = g0 + g2 * 4, twice = (g1 + g3 * 4) * 2;
    d[0] = g0;
    d[step] = even + odd;
    d[2 * step] = even - odd;
    d[3 * step] = far + twice;
    d[4 * step] = far - twice;
    d[5 * step] = g3;
}

INLINE void grad_tile(v16 *d, const v16 *g) {
    v16 half[24];
    for (int i = 0; i < 4; i++) grad_line(half + i, g[i], g[4 + i], g[8 + i], g[12 + i], 4);
    for (int i = 0; i < 6; i++) {
        const v16 *h = half + 4 * i;
        grad_line(d + 6 * i, h[0], h[1], h[2], h[3], 1);
    }
}

/* The rows of A' for three results, with 24 s, on six values. */
INLINE void output_line(v8 *y, int to, const v8 *m, int step) {
    const v8 sum = m[step] + m[2 * step], difference = m[step] - m[2 * step];
    const v8 far = m[3 * step] + m[4 * step], twice = (m[3 * step] - m[4 * step]) * 2;
    y[0] = m[0] * 6 - sum * 4 + far;
    y[to] = twice - difference * 4;
    y[2 * to] = (far - sum) * 4 + m[5 * step] * 24;
}

INLINE void output_tile(v8 *y, const v8 *m) {
    v8 half[18];
    for (int i = 0; i < 6; i++) output_line(half + i, 6, m + i, 6);
    for (int i = 0; i < 3; i++) output_line(y + 3 * i, 1, half + 6 * i, 1);
    for (int i = 0; i < TAPS; i++) y[i] = divide_by_576(y[i]);
}

/* (a0, b0, a1, b1, ...) of two vectors of sixteen. */
INLINE void interleave(int32_t *to, v16 a, v16 b) {
    typedef uint32_t u16x2 __attribute__((vector_size(64)));
    typedef uint16_t u16 __attribute__((vector_size(32)));
    const u16x2 made = __builtin_convertvector((u16)a, u16x2) |
                       __builtin_convertvector((u16)b, u16x2) << 16;
    memcpy(to, &made, sizeof made);
}

/* Tiles 2 * pair and 2 * pair + 1 of the block that starts at tile `first`. */
INLINE void transform_body(const shared_t *s, long first, long pair) {
    const winograd_grad_t *p = s->p;
    place_t at[2];
    for (int i = 0; i < 2; i++) locate(s, first + 2 * pair + i, &at[i]);
    for (long c = 0; c < p->channels; c += VECTOR) {
        int32_t *to = s->inputs + (c / NR * PAIRS + pair) * NR;
        v16 d[2][POINTS];
        for (int i = 0; i < 2; i++) {
            for (int k = 0; k < POINTS; k++)
                d[i][k] = load16(at[i].pixel[k] + c, p->channels - c);
            input_tile(d[i]);
        }
        for (int k = 0; k < POINTS; k++)
            interleave(to + k * s->lane_panels * PAIRS * NR, d[0][k], d[1][k]);
    }
    for (long row = 0; row < p->rows; row += STREAM) {
        int32_t stream[POINTS][STREAM];
        const long panels = least(STREAM / MR, s->row_panels - row / MR);
        for (long v = 0; v < STREAM; v += VECTOR) {
            v16 g[SIDE * SIDE], d[2][POINTS];
            const long count = p->rows - row - v;
            for (int i = 0; i < 2; i++) {
                for (int k = 0; k < SIDE * SIDE; k++)
                    g[k] = load16(at[i].grad[k] + (count > 0 ? row + v : 0), count);
                grad_tile(d[i], g);
            }
            for (int k = 0; k < POINTS; k++) interleave(&stream[k][v], d[0][k], d[1][k]);
        }
        for (int k = 0; k < POINTS; k++) {
            int32_t *to = s->grads + ((k * s->row_panels + row / MR) * PAIRS + pair) * MR;
            for (long i = 0; i < panels; i++)
                memcpy(to + i * PAIRS * MR, &stream[k][i * MR], MR * sizeof(int32_t));
        }
    }
}

/* Sums of one row and panel of channels, sums[point * TILE], into `total`; the last ones to out. */
INLINE void output_body(const shared_t *s, const int32_t *sums, long row, long panel, int is_first,
                        int is_last) {
    const winograd_grad_t *p = s->p;
    const long place = (row * s->lane_panels + panel) * TAPS * NR;
    const long count = least(NR, p->channels - panel * NR);
    const int fast = !s->widened && scale_is_exact(p->exponent, SCALED_INT32);
    const float scale = fast ? scale_of(p->exponent) : 0;
    float *out = p->out + (row * p->channels + panel * NR) * TAPS;
    int32_t made[TAPS][NR];
    for (int first = 0; first < NR; first += 8) {
        v8 m[POINTS], y[TAPS];
        for (int i = 0; i < POINTS; i++) memcpy(&m[i], sums + i * TILE + first, sizeof m[i]);
        output_tile(y, m);
        for (int t = 0; t < TAPS; t++) memcpy(&made[t][first], &y[t], sizeof y[t]);
    }
    int64_t *wide = (int64_t *)s->sums + place;
    int32_t *narrow = (int32_t *)s->sums + place;
    if (s->widened) {
        for (int i = 0; i < TAPS * NR; i++)
            wide[i] = (is_first ? 0 : wide[i]) + made[i / NR][i % NR];
    } else if (!is_first || !is_last) {
        for (int i = 0; i < TAPS * NR; i++) {
            narrow[i] = (is_first ? 0 : narrow[i]) + made[i / NR][i % NR];
            made[i / NR][i % NR] = narrow[i];
        }
    }
    if (!is_last) return;
    float f[TAPS][NR];
    for (int t = 0; t < TAPS; t++)
        for (int l = 0; l < NR; l++)
            f[t][l] = fast ? (float)made[t][l] * scale
                           : dequantize_one(s->widened ? wide[t * NR + l] : made[t][l],
                                            p->exponent);
    for (long l = 0; l < count; l++)
        for (int t = 0; t < TAPS; t++) out[l * TAPS + t] = f[t][l];
}

#define FORMS(suffix, target)                                                                  \
    target static void transform_##suffix(const shared_t *s, long first, long pair) {          \
        transform_body(s, first, pair);                                                        \
    }                                                                                          \
    target static void output_##suffix(const shared_t *s, const int32_t *sums, long row,       \
                                       long panel, int is_first, int is_last) {                \
        output_body(s, sums, row, panel, is_first, is_last);                                   \
    }
FORMS(portable, )
#if MMINT_X86
FORMS(avx2, TARGET_AVX2)
#define FORM(name) (level->avx2 ? name##_avx2 : name##_portable)
#else
#define FORM(name) name##_portable
#endif

static shared_t prepare(const winograd_grad_t *p) {
    shared_t s = {.p = p, .row_panels = div_up(p->rows, MR), .lane_panels = div_up(p->channels, NR)};
    s.tiles_h = div_up(div_up(p->out_h, p->dilation_h), SIDE);
    s.tiles_w = div_up(div_up(p->out_w, p->dilation_w), SIDE);
    s.tiles = p->n * p->dilation_h * p->dilation_w * s.tiles_h * s.tiles_w;
    s.widened = p->n * p->out_h * p->out_w > INT32_MAX / (127 * 127);
    return s;
}

int winograd_grad_pays(const winograd_grad_t *p) {
    const shared_t s = prepare(p);
    /* in cycles, by measurement */
    const double products = (double)(s.row_panels * MR) * (double)(s.lane_panels * NR);
    const double blocks = (double)div_up(s.tiles, BLOCK);
    const double plain = (double)p->n * p->out_h * p->out_w * TAPS * products / 26 + 20 * products;
    const double here = (double)s.tiles * POINTS * products / 24 + 60 * products * blocks +
                        (double)s.tiles * 12 * (double)(p->channels + p->rows);
    return s.tiles && p->channels >= VECTOR / 2 && p->rows >= VECTOR / 2 && here < 0.9 * plain;
}

int winograd_grad(const winograd_grad_t *p, int threads) {
    shared_t s = prepare(p);
    const long most_channels = most(p->channels, p->rows), all = s.row_panels * s.lane_panels;
    const long panels = most(1, least(ROW_PANELS, all / (4 * threads)));
    const long chunks = div_up(s.row_panels, panels);
    const size_t results = (size_t)(p->rows * s.lane_panels * TAPS * NR);
    s.zeros = calloc((size_t)most_channels + 64, 1);
    s.grads = allocate((size_t)(POINTS * s.row_panels * PAIRS * MR) * 4);
    s.inputs = allocate((size_t)(POINTS * s.lane_panels * PAIRS * NR) * 4);
    s.sums = s.widened || s.tiles > BLOCK ? allocate(results * (s.widened ? 8 : 4)) : NULL;
    int failed = !s.zeros || !s.grads || !s.inputs ||
                 (!s.sums && (s.widened || s.tiles > BLOCK));
#pragma omp parallel num_threads(threads)
    {
        int32_t *sums = allocate(ROW_PANELS * POINTS * TILE * 4);
        if (!sums) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
        for (long first = 0; !failed && first < s.tiles; first += BLOCK) {
            const long pairs = least(PAIRS, div_up(s.tiles - first, 2));
            const int is_last = first + BLOCK >= s.tiles;
#pragma omp for schedule(dynamic, 4)
            for (long pair = 0; pair < pairs; pair++) FORM(transform)(&s, first, pair);
#pragma omp for schedule(dynamic, 1)
            for (long job = 0; job < s.lane_panels * chunks; job++) {
                const long j = job / chunks, i0 = job % chunks * panels;
                const long i1 = least(s.row_panels, i0 + panels);
                for (long k = 0; k < POINTS; k++)
                    for (long i = i0; i < i1; i++)
                        level->tile(s.grads + (k * s.row_panels + i) * PAIRS * MR,
                                    s.inputs + (k * s.lane_panels + j) * PAIRS * NR, pairs, NULL,
                                    sums + ((i - i0) * POINTS + k) * TILE, NULL);
                for (long row = i0 * MR; row < least(p->rows, i1 * MR); row++)
                    FORM(output)(&s, sums + (row / MR - i0) * POINTS * TILE + row % MR * NR, row,
                                 j, first == 0, is_last);
            }
        }
        free(sums);
    }
    free(s.zeros);
    free(s.grads);
    free(s.inputs);
    free(s.sums);
    return failed ? NO_MEMORY : OK;
}
