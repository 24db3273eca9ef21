#include "winograd.h"

#include "product.h"
#include "x86.h"

enum {
    SIDE = 4,      /* of an output tile */
    POINTS = 36,   /* products for each tile and channel */
    VECTOR = 16,   /* channels transformed at a time */
    PANELS = 2,    /* panels of NR tiles that share the filters */
    ROW_PANELS = 8 /* panels of MR rows whose sums stay in the cache */
};

#define INVERSE_OF_9 954437177u

typedef int16_t v16 __attribute__((vector_size(32)));
typedef uint32_t v8 __attribute__((vector_size(32)));

typedef struct {
    const winograd_t *p;
    long tiles_h, tiles_w, tiles; /* of one phase of the dilation; of all images and phases */
    long groups, row_panels;
    int32_t *filters; /* (point, panel of rows, group, MR) */
} shared_t;

/* ---- transforms ---- */

INLINE v16 load16(const int8_t *from, long count) {
    int8_t bytes[VECTOR] = {0};
    v16 wide;
    if (count >= VECTOR)
        memcpy(bytes, from, VECTOR);
    else
        memcpy(bytes, from, (size_t)count);
#if defined(__clang__) || __GNUC__ >= 9
    typedef int8_t b16 __attribute__((vector_size(16)));
    b16 narrow;
    memcpy(&narrow, bytes, VECTOR);
    wide = __builtin_convertvector(narrow, v16);
#else
    for (int i = 0; i < VECTOR; i++) wide[i] = bytes[i];
#endif
    return wide;
}

/* B' on six values. */
INLINE void input_line(v16 *d, int step) {
    const v16 d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step],
              d5 = d[5 * step];
    const v16 even = d4 - d2 * 4, odd = d3 - d1 * 4, low = d4 - d2, twice = (d3 - d1) * 2;
    d[0] = d0 * 4 - d2 * 5 + d4;
    d[step] = even + odd;
    d[2 * step] = even - odd;
    d[3 * step] = low + twice;
    d[4 * step] = low - twice;
    d[5 * step] = d1 * 4 - d3 * 5 + d5;
}

INLINE void input_tile(v16 *d) {
    for (int i = 0; i < 6; i++) input_line(d + i, 6);
    for (int i = 0; i < 6; i++) input_line(d + 6 * i, 1);
}

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

/* A' with 24 s on six values, times `by`. */
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
    for (int i = 0; i < 16; i++) {
        typedef int32_t s8 __attribute__((vector_size(32)));
        y[i] = (v8)((s8)(y[i] * INVERSE_OF_9) >> 6);
    }
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

INLINE void filters_body(const shared_t *s, long panel, v16 (*made)[8], int avx2) {
    const winograd_t *p = s->p;
    const long stride = s->row_panels * s->groups * MR;
    int32_t *to = s->filters + panel * s->groups * MR;
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
} places_t;

static void locate(const shared_t *s, long first, places_t *at, const int8_t *zeros) {
    const winograd_t *p = s->p;
    for (int l = 0; l < NR; l++) {
        const long tile = first + l;
        at->high[l] = 0;
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

typedef float f8 __attribute__((vector_size(32)));
typedef int32_t s8 __attribute__((vector_size(32)));

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
INLINE int outputs_body(const shared_t *s, const places_t *at, const int32_t *sums, long row,
                        int avx2) {
    const winograd_t *p = s->p;
    const long offset = row * p->out_h * p->out_w, down = p->dilation_h * p->out_w;
    const long right = p->dilation_w;
    const uint32_t bias = (uint32_t)p->finish->bias32[row];
    int found = 0;
    for (int first = 0; first < NR && at->high[first]; first += 8) {
        v8 m[POINTS], y[16], any = {0};
        f8 f[16];
        float made[8][16];
        for (int i = 0; i < POINTS; i++) memcpy(&m[i], sums + i * TILE + first, sizeof m[i]);
        output_tile(y, m);
        for (int i = 0; i < 16; i++) {
            any |= y[i];
            f[i] = __builtin_convertvector((s8)(y[i] + bias), f8) * p->finish->scale;
        }
#if MMINT_X86
        if (avx2)
            stage_avx2(made, f);
        else
#endif
            stage(made, f);
        (void)avx2;
        for (int l = 0; l < 8 && at->high[first + l]; l++) {
            const int high = at->high[first + l], wide = at->wide[first + l];
            float *out = at->out[first + l] + offset;
            if (high == SIDE && wide == SIDE && right == 1) {
                found |= any[l] != 0;
                for (int i = 0; i < SIDE; i++) memcpy(out + i * down, made[l] + SIDE * i, 16);
                continue;
            }
            for (int i = 0; i < high; i++)
                for (int j = 0; j < wide; j++) {
                    found |= y[SIDE * i + j][l] != 0;
                    out[i * down + j * right] = made[l][SIDE * i + j];
                }
        }
    }
    return found;
}

/* ---- both forms ---- */

#define FORMS(suffix, target, avx2)                                                              \
    target static void filters_##suffix(const shared_t *s, long panel, v16(*made)[8]) {          \
        filters_body(s, panel, made, avx2);                                                      \
    }                                                                                            \
    target static void inputs_##suffix(const shared_t *s, const places_t *at, int32_t *to,       \
                                       long stride, v16(*made)[8]) {                             \
        inputs_body(s, at, to, stride, made, avx2);                                              \
    }                                                                                            \
    target static int outputs_##suffix(const shared_t *s, const places_t *at,                    \
                                       const int32_t *sums, long row) {                          \
        return outputs_body(s, at, sums, row, avx2);                                             \
    }
FORMS(portable, , 0)
#if MMINT_X86
FORMS(avx2, TARGET_AVX2, 1)
#define FORM(name) (level->avx2 ? name##_avx2 : name##_portable)
#else
#define FORM(name) name##_portable
#endif

/* Tiles first ... first + PANELS * NR - 1, all rows. */
static int work(const shared_t *s, long first, int32_t *inputs, int32_t *sums, v16 (*made)[8],
                const int8_t *zeros) {
    const long panels = least(PANELS, div_up(s->tiles - first, NR)), panel = s->groups * NR;
    places_t at[PANELS];
    int any = 0;
    for (long j = 0; j < panels; j++) {
        locate(s, first + j * NR, &at[j], zeros);
        FORM(inputs)(s, &at[j], inputs + j * panel, PANELS * panel, made);
    }
    for (long i0 = 0; i0 < s->row_panels; i0 += ROW_PANELS) {
        const long i1 = least(s->row_panels, i0 + ROW_PANELS);
        for (long point = 0; point < POINTS; point++)
            for (long j = 0; j < panels; j++)
                for (long i = i0; i < i1; i++)
                    level->tile(s->filters + (point * s->row_panels + i) * s->groups * MR,
                                inputs + (point * PANELS + j) * panel, s->groups, NULL,
                                sums + (((i - i0) * PANELS + j) * POINTS + point) * TILE, NULL,
                                NULL, NULL, NULL, 0, 0);
        for (long i = i0; i < i1; i++)
            for (long j = 0; j < panels; j++)
                for (long r = 0; r < least(MR, s->p->rows - i * MR); r++)
                    any |= FORM(outputs)(s, &at[j],
                                         sums + ((i - i0) * PANELS + j) * POINTS * TILE + r * NR,
                                         i * MR + r);
    }
    return any;
}

static shared_t prepare(const winograd_t *p) {
    shared_t s = {.p = p, .groups = div_up(p->channels, 2), .row_panels = div_up(p->rows, MR)};
    s.tiles_h = div_up(div_up(p->out_h, p->dilation_h), SIDE);
    s.tiles_w = div_up(div_up(p->out_w, p->dilation_w), SIDE);
    s.tiles = p->n * p->dilation_h * p->dilation_w * s.tiles_h * s.tiles_w;
    return s;
}

int winograd_pays(const winograd_t *p) {
    const shared_t s = prepare(p);
    /* in cycles, by measurement */
    const double channels = (double)p->channels, rows = (double)(s.row_panels * MR);
    const double lanes = (double)(div_up(s.tiles, NR) * NR);
    const double plain = (double)p->n * p->out_h * p->out_w * 9 * channels * rows / 26;
    const double here = lanes * POINTS * channels * rows / 24 + 24 * channels * rows +
                        lanes * (10 * channels + 25 * rows);
    if (!p->finish->fast || p->channels < VECTOR / 2 || here > 0.9 * plain) return 0;
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

int winograd(const winograd_t *p, int threads, int *any) {
    shared_t s = prepare(p);
    const long jobs = div_up(s.tiles, PANELS * NR);
    int failed = 0, found = 0;
    if (!s.row_panels || !jobs) return OK;
    s.filters = allocate((size_t)(POINTS * s.row_panels * s.groups * MR) * 4);
    int8_t *zeros = calloc((size_t)p->channels + 64, 1);
    if (!s.filters || !zeros) failed = 1;
#pragma omp parallel num_threads(threads) reduction(| : found)
    {
        int32_t *inputs = allocate((size_t)(POINTS * PANELS * s.groups * NR) * 4);
        int32_t *sums = allocate(ROW_PANELS * PANELS * POINTS * TILE * 4);
        v16(*made)[8] = allocate(POINTS * sizeof *made);
        if (!inputs || !sums || !made) {
#pragma omp atomic write
            failed = 1;
        } else {
            memset(made, 0, POINTS * sizeof *made);
        }
#pragma omp barrier
#pragma omp for schedule(static)
        for (long i = 0; i < s.row_panels; i++)
            if (!failed) FORM(filters)(&s, i, made);
#pragma omp for schedule(dynamic, 1)
        for (long job = 0; job < jobs; job++)
            if (!failed) found |= work(&s, job * PANELS * NR, inputs, sums, made, zeros);
        free(inputs);
        free(sums);
        free(made);
    }
    free(s.filters);
    free(zeros);
    *any |= found;
    return failed ? NO_MEMORY : OK;
}
