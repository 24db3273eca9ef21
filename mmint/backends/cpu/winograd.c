#include "winograd.h"

#include "product.h"
#include "winograd_parts.h"
#include "x86.h"

enum {
    PANELS = 2,    /* panels of NR tiles that share the filters */
    ROW_PANELS = 8, /* panels of MR rows whose sums stay in the cache */
    FILTER_BYTES = 384 << 10 /* of one thread's share, where filters are made as they are used */
};

typedef struct {
    const winograd_t *p;
    long tiles_h, tiles_w, tiles; /* of one phase of the dilation; of all images and phases */
    long groups, row_panels, lane_panels;
    /* Either all filters are made first, (point, panel of rows, group, MR), or all inputs,
     * (panel of tiles, point, group, NR), whichever are fewer. */
    int32_t *filters, *inputs;
    int8_t *zeros;
} shared_t;

/* ---- transforms ---- */

/* G / s on three values. */
INLINE void filter_line(v16 *d, const v16 g0, const v16 g1, const v16 g2, int step) {
    const v16 sum = g0 + g2, far = g0 + g2 * 4, twice = g1 * 2;
    d[0] = g0;
    d[step] = sum + g1;
    d[2 * step] = sum - g1;
    d[3 * step] = far + twice;
    d[4 * step] = far - twice;
    d[5 * step] = g2;
}

INLINE void filter_tile(v16 *d, const v16 *g) {
    v16 half[18];
    for (int i = 0; i < 3; i++) filter_line(half + i, g[i], g[3 + i], g[6 + i], 3);
    for (int i = 0; i < 6; i++)
        filter_line(d + 6 * i, half[3 * i], half[3 * i + 1], half[3 * i + 2], 1);
}

/* A' with 24 s on six values. */
INLINE void output_line(v8 *y, int to, const v8 *m, int step) {
    const v8 sum = m[step] + m[2 * step], difference = m[step] - m[2 * step];
    const v8 far = m[3 * step] + m[4 * step], twice = (m[3 * step] - m[4 * step]) * 2;
    y[0] = m[0] * 6 - sum * 4 + far;
    y[to] = twice - difference * 4;
    y[2 * to] = (far - sum) * 4;
    y[3 * to] = twice * 4 - difference * 4 + m[5 * step] * 24;
}

/* Eight tiles of one row: m[point] to y[4 * i + j], exact sums. */
INLINE void output_tile(v8 *y, const v8 *m) {
    v8 half[24];
    for (int i = 0; i < 6; i++) output_line(half + i, 6, m + i, 6);
    for (int i = 0; i < 4; i++) output_line(y + 4 * i, 1, half + 6 * i, 1);
    for (int i = 0; i < 16; i++) y[i] = divide_by_576(y[i]);
}

/* ---- packing what was transformed: made[point][lane] of 16 channels to groups of two ---- */

INLINE void pack_points(int32_t *to, long point_stride, int width, int first, long groups,
                        v16 (*made)[8]) {
    for (int point = 0; point < POINTS; point++, to += point_stride) {
        int32_t from[64];
        memcpy(from, made[point], sizeof from);
        for (long g = 0; g < groups; g++)
            for (int l = 0; l < least(8, width - first); l++)
                to[g * width + first + l] = from[8 * l + g];
    }
}

#if MMINT_X86
TARGET_AVX2 static void pack_points_avx2(int32_t *to, long point_stride, int width, int first,
                                         long groups, v16 (*made)[8]) {
    to += first;
    for (int point = 0; point < POINTS; point++, to += point_stride) {
        __m256i v[8];
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) v[i] = LOAD(&made[point][i]);
        transpose8(v);
        for (long g = 0; g < groups; g++) {
            if (width == MR)
                store6((int16_t *)(to + g * width), v[g]);
            else
                STORE(to + g * width, v[g]);
        }
    }
}
#endif

/* ---- filters ---- */

/* Panel `panel` of rows, to to[point * stride]. */
INLINE void filters_body(const shared_t *s, long panel, int32_t *to, long stride, v16 (*made)[8],
                         int avx2) {
    const winograd_t *p = s->p;
    for (long c = 0; c < p->channels; c += VECTOR, to += VECTOR / 2 * MR) {
        const long count = p->channels - c, groups = least(VECTOR / 2, (count + 1) / 2);
        for (int r = 0; r < MR; r++) {
            const long row = least(panel * MR + r, p->rows - 1); /* beyond: not read */
            v16 g[9], d[POINTS];
            for (int t = 0; t < 9; t++)
                g[t] = load16(p->weight + row * p->row_stride + t * p->tap_stride + c, count);
            filter_tile(d, g);
            for (int i = 0; i < POINTS; i++) made[i][r] = d[i];
        }
#if MMINT_X86
        if (avx2) {
            pack_points_avx2(to, stride, MR, 0, groups, made);
            continue;
        }
#endif
        (void)avx2;
        pack_points(to, stride, MR, 0, groups, made);
    }
}

/* ---- inputs ---- */

/* Where the tiles of a panel read and write. */
typedef struct {
    const int8_t *pixel[NR][POINTS];
    float *out[NR];
    int high[NR], wide[NR]; /* how much of the tile lies inside */
    int count;              /* of tiles */
} places_t;

static void locate(const shared_t *s, long first, places_t *at, const int8_t *zeros) {
    const winograd_t *p = s->p;
    at->count = (int)least(NR, s->tiles - first);
    for (int l = 0; l < NR; l++) {
        const long tile = first + l;
        if (tile >= s->tiles) {
            for (int i = 0; i < POINTS; i++) at->pixel[l][i] = zeros;
            continue;
        }
        const long x = tile % s->tiles_w, y = tile / s->tiles_w % s->tiles_h;
        const long rest = tile / s->tiles_w / s->tiles_h;
        const long phase_x = rest % p->dilation_w, phase_y = rest / p->dilation_w % p->dilation_h;
        const long n = rest / p->dilation_w / p->dilation_h;
        const long y0 = y * SIDE * p->dilation_h + phase_y, x0 = x * SIDE * p->dilation_w + phase_x;
        const int8_t *image = p->image + n * p->height * p->width * p->channels;
        for (int i = 0; i < 6; i++) {
            const long iy = y0 + i * p->dilation_h - p->pad_h;
            for (int j = 0; j < 6; j++) {
                const long ix = x0 + j * p->dilation_w - p->pad_w;
                at->pixel[l][6 * i + j] =
                    iy < 0 || iy >= p->height || ix < 0 || ix >= p->width
                        ? zeros
                        : image + (iy * p->width + ix) * p->channels;
            }
        }
        at->out[l] = p->out + n * p->rows * p->out_h * p->out_w + y0 * p->out_w + x0;
        at->high[l] = (int)most(0, least(SIDE, div_up(p->out_h - y0, p->dilation_h)));
        at->wide[l] = (int)most(0, least(SIDE, div_up(p->out_w - x0, p->dilation_w)));
    }
}

INLINE void inputs_body(const shared_t *s, const places_t *at, int32_t *to, long stride,
                        v16 (*made)[8], int avx2) {
    const winograd_t *p = s->p;
    for (long c = 0; c < p->channels; c += VECTOR, to += VECTOR / 2 * NR) {
        const long count = p->channels - c, groups = least(VECTOR / 2, (count + 1) / 2);
        for (int first = 0; first < NR; first += 8) {
            for (int l = 0; l < 8; l++) {
                v16 d[POINTS];
                for (int i = 0; i < POINTS; i++)
                    d[i] = load16(at->pixel[first + l][i] + c, count);
                input_tile(d);
                for (int i = 0; i < POINTS; i++) made[i][l] = d[i];
            }
#if MMINT_X86
            if (avx2) {
                pack_points_avx2(to, stride, NR, first, groups, made);
                continue;
            }
#endif
            (void)avx2;
            pack_points(to, stride, NR, first, groups, made);
        }
    }
}

/* ---- outputs ---- */

INLINE s8 larger(s8 a, s8 b) {
    const s8 less = a < b;
    return (a & ~less) | (b & less);
}

INLINE void stage(float (*made)[16], const f8 *f) {
    for (int i = 0; i < 16; i++)
        for (int l = 0; l < 8; l++) made[l][i] = f[i][l];
}

#if MMINT_X86
TARGET_AVX2 static void stage_avx2(float (*made)[16], const f8 *f) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const __m256 a = (__m256)f[4 * i], b = (__m256)f[4 * i + 1];
        const __m256 c = (__m256)f[4 * i + 2], d = (__m256)f[4 * i + 3];
        const __m256d ab = (__m256d)_mm256_unpacklo_ps(a, b);
        const __m256d AB = (__m256d)_mm256_unpackhi_ps(a, b);
        const __m256d cd = (__m256d)_mm256_unpacklo_ps(c, d);
        const __m256d CD = (__m256d)_mm256_unpackhi_ps(c, d);
        const __m256 tiles[4] = {
            (__m256)_mm256_unpacklo_pd(ab, cd), (__m256)_mm256_unpackhi_pd(ab, cd),
            (__m256)_mm256_unpacklo_pd(AB, CD), (__m256)_mm256_unpackhi_pd(AB, CD)};
#pragma GCC unroll 4
        for (int l = 0; l < 4; l++) {
            _mm_storeu_ps(made[l] + 4 * i, _mm256_castps256_ps128(tiles[l]));
            _mm_storeu_ps(made[l + 4] + 4 * i, _mm256_extractf128_ps(tiles[l], 1));
        }
    }
}
#endif

/* Sums of one row, sums[point * TILE + lane], to float32. */
INLINE void outputs_body(const shared_t *s, const places_t *at, const int32_t *sums, long row,
                         extent_t *seen, int avx2) {
    const winograd_t *p = s->p;
    const long offset = row * p->out_h * p->out_w, down = p->dilation_h * p->out_w;
    const long right = p->dilation_w;
    const uint32_t bias = (uint32_t)p->finish->bias32[row];
    for (int first = 0; first < NR && first < at->count; first += 8) {
        v8 m[POINTS], y[16], any = {0};
        s8 top = {0};
        f8 f[16];
        float made[8][16];
        for (int i = 0; i < POINTS; i++) memcpy(&m[i], sums + i * TILE + first, sizeof m[i]);
        output_tile(y, m);
        for (int i = 0; i < 16; i++) {
            any |= y[i];
            f[i] = __builtin_convertvector((s8)(y[i] + bias), f8) * p->finish->scale;
            top = larger(top, (s8)f[i] & 0x7FFFFFFF);
        }
#if MMINT_X86
        if (avx2)
            stage_avx2(made, f);
        else
#endif
            stage(made, f);
        (void)avx2;
        for (int l = 0; l < 8 && first + l < at->count; l++) {
            const int high = at->high[first + l], wide = at->wide[first + l]; /* 0 in some phases */
            float *out = at->out[first + l] + offset;
            if (high == SIDE && wide == SIDE && right == 1) {
                seen->any[l] |= any[l];
                seen->top[l] = (uint32_t)most(seen->top[l], top[l]);
                for (int i = 0; i < SIDE; i++) memcpy(out + i * down, made[l] + SIDE * i, 16);
                continue;
            }
            for (int i = 0; i < high; i++)
                for (int j = 0; j < wide; j++) {
                    out[i * down + j * right] = made[l][SIDE * i + j];
                    extent_take(seen, l, y[SIDE * i + j][l] != 0, made[l][SIDE * i + j]);
                }
        }
    }
}

/* ---- both forms ---- */

#define FORMS(suffix, target, avx2)                                                              \
    target static void filters_##suffix(const shared_t *s, long panel, int32_t *to, long stride, \
                                        v16(*made)[8]) {                                         \
        filters_body(s, panel, to, stride, made, avx2);                                          \
    }                                                                                            \
    target static void inputs_##suffix(const shared_t *s, const places_t *at, int32_t *to,       \
                                       long stride, v16(*made)[8]) {                             \
        inputs_body(s, at, to, stride, made, avx2);                                              \
    }                                                                                            \
    target static void outputs_##suffix(const shared_t *s, const places_t *at,                   \
                                        const int32_t *sums, long row, extent_t *seen) {         \
        outputs_body(s, at, sums, row, seen, avx2);                                              \
    }
FORMS(portable, , 0)
#if MMINT_X86
FORMS(avx2, TARGET_AVX2, 1)
#define FORM(name) (level->avx2 ? name##_avx2 : name##_portable)
#else
#define FORM(name) name##_portable
#endif

typedef struct {
    int32_t *filters, *inputs, *sums; /* sums: (panel of rows, panel of tiles, point, tile) */
    v16 (*made)[8];
} worker_t;

/* Sums of panels i0 ... i1 - 1 of rows and `panels` of tiles, to float32. */
static void outputs(const shared_t *s, const worker_t *w, const places_t *at, long i0, long i1,
                    long panels, extent_t *seen) {
    for (long i = i0; i < i1; i++)
        for (long j = 0; j < panels; j++)
            for (long r = 0; r < least(MR, s->p->rows - i * MR); r++)
                FORM(outputs)(s, &at[j],
                              w->sums + ((i - i0) * PANELS + j) * POINTS * TILE + r * NR,
                              i * MR + r, seen);
}

static void multiply(const shared_t *s, const worker_t *w, const int32_t *filters,
                     const int32_t *inputs, long i, long j, long point) {
    level->tile(filters, inputs, s->groups, NULL,
                w->sums + ((i * PANELS + j) * POINTS + point) * TILE, NULL);
}

/* Panels of tiles j0 ... and all rows, whose filters are there. */
static void work_on_tiles(const shared_t *s, const worker_t *w, long j0, extent_t *seen) {
    const long panels = least(PANELS, s->lane_panels - j0), panel = s->groups * NR;
    places_t at[PANELS];
    for (long j = 0; j < panels; j++) {
        locate(s, (j0 + j) * NR, &at[j], s->zeros);
        FORM(inputs)(s, &at[j], w->inputs + j * panel, PANELS * panel, w->made);
    }
    for (long i0 = 0; i0 < s->row_panels; i0 += ROW_PANELS) {
        const long i1 = least(s->row_panels, i0 + ROW_PANELS);
        for (long point = 0; point < POINTS; point++)
            for (long j = 0; j < panels; j++)
                for (long i = i0; i < i1; i++)
                    multiply(s, w, s->filters + (point * s->row_panels + i) * s->groups * MR,
                             w->inputs + (point * PANELS + j) * panel, i - i0, j, point);
        outputs(s, w, at, i0, i1, panels, seen);
    }
}

/* Panels of rows i0 ... i1 - 1 and all tiles, whose inputs are there. */
static void work_on_rows(const shared_t *s, const worker_t *w, long i0, long i1, extent_t *seen) {
    const long size = s->groups * MR, panel = s->groups * NR;
    places_t at[PANELS];
    for (long i = i0; i < i1; i++)
        FORM(filters)(s, i, w->filters + (i - i0) * size, (i1 - i0) * size, w->made);
    for (long j0 = 0; j0 < s->lane_panels; j0 += PANELS) {
        const long panels = least(PANELS, s->lane_panels - j0);
        for (long j = 0; j < panels; j++) locate(s, (j0 + j) * NR, &at[j], s->zeros);
        for (long point = 0; point < POINTS; point++)
            for (long j = 0; j < panels; j++)
                for (long i = i0; i < i1; i++)
                    multiply(s, w, w->filters + (point * (i1 - i0) + i - i0) * size,
                             s->inputs + ((j0 + j) * POINTS + point) * panel, i - i0, j, point);
        outputs(s, w, at, i0, i1, panels, seen);
    }
}

static shared_t prepare(const winograd_t *p) {
    shared_t s = {.p = p, .groups = div_up(p->channels, 2), .row_panels = div_up(p->rows, MR)};
    s.tiles_h = div_up(div_up(p->out_h, p->dilation_h), SIDE);
    s.tiles_w = div_up(div_up(p->out_w, p->dilation_w), SIDE);
    s.tiles = p->n * p->dilation_h * p->dilation_w * s.tiles_h * s.tiles_w;
    s.lane_panels = div_up(s.tiles, NR);
    return s;
}

int winograd_pays(const winograd_t *p) {
    const shared_t s = prepare(p);
    /* in cycles, by measurement */
    const double channels = (double)p->channels, rows = (double)(s.row_panels * MR);
    const double lanes = (double)(s.lane_panels * NR);
    const double plain = (double)p->n * p->out_h * p->out_w * 9 * channels * rows / 26;
    const double here = lanes * POINTS * channels * rows / 24 + 24 * channels * rows +
                        lanes * (10 * channels + 25 * rows);
    return p->finish->fast && p->channels >= VECTOR / 2 && here < 0.9 * plain;
}

int winograd_fits(const winograd_t *p) {
    for (long row = 0; row < p->rows; row++) {
        long sum = 0;
        for (long t = 0; t < 9; t++) {
            const int8_t *weight = p->weight + row * p->row_stride + t * p->tap_stride;
            int32_t part = 0;
            for (long c = 0; c < p->channels; c++) part += weight[c] < 0 ? -weight[c] : weight[c];
            sum += part;
        }
        if (sum * 127 * 64 > INT32_MAX) return 0;
    }
    return 1;
}

int winograd(const winograd_t *p, int threads, extent_t *seen) {
    shared_t s = prepare(p);
    if (!s.row_panels || !s.lane_panels) return OK;
    const int by_rows = s.lane_panels * NR < s.row_panels * MR;
    const long filter_size = POINTS * s.groups * MR, input_size = POINTS * s.groups * NR;
    const long wanted = least(ROW_PANELS, div_up(s.row_panels, 2 * threads));
    const long rows = most(1, least(wanted, FILTER_BYTES / (4 * filter_size)));
    if (by_rows)
        s.inputs = allocate((size_t)(s.lane_panels * input_size) * 4);
    else
        s.filters = allocate((size_t)(s.row_panels * filter_size) * 4);
    s.zeros = calloc((size_t)p->channels + 64, 1);
    int failed = !(s.filters || s.inputs) || !s.zeros;
    extent_t found = {{0}, {0}};
#pragma omp parallel num_threads(threads) reduction(join : found)
    {
        worker_t w = {.sums = allocate(ROW_PANELS * PANELS * POINTS * TILE * 4)};
        w.made = allocate(POINTS * sizeof *w.made);
        if (by_rows)
            w.filters = allocate((size_t)(rows * filter_size) * 4);
        else
            w.inputs = allocate((size_t)(PANELS * input_size) * 4);
        if (!w.sums || !w.made || !(w.filters || w.inputs)) {
#pragma omp atomic write
            failed = 1;
        } else {
            memset(w.made, 0, POINTS * sizeof *w.made);
        }
#pragma omp barrier
        if (!failed && by_rows) {
#pragma omp for schedule(dynamic, 1)
            for (long j = 0; j < s.lane_panels; j++) {
                places_t at;
                locate(&s, j * NR, &at, s.zeros);
                FORM(inputs)(&s, &at, s.inputs + j * input_size, s.groups * NR, w.made);
            }
#pragma omp for schedule(dynamic, 1)
            for (long i = 0; i < s.row_panels; i += rows)
                work_on_rows(&s, &w, i, least(s.row_panels, i + rows), &found);
        } else if (!failed) {
#pragma omp for schedule(dynamic, 1)
            for (long i = 0; i < s.row_panels; i++)
                FORM(filters)(&s, i, s.filters + i * s.groups * MR, s.row_panels * s.groups * MR,
                              w.made);
#pragma omp for schedule(dynamic, 1)
            for (long j = 0; j < s.lane_panels; j += PANELS) work_on_tiles(&s, &w, j, &found);
        }
        free(w.sums);
        free(w.made);
        free(w.filters);
        free(w.inputs);
    }
    free(s.filters);
    free(s.inputs);
    free(s.zeros);
    extent_join(seen, &found, NR);
    return failed ? NO_MEMORY : OK;
}
