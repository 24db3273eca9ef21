#include "weight_grad.h"

#include "arithmetic/mapping.h"
#include "levels/level.h"
#include "memory.h"
#include "product.h"
#include "status.h"

enum {
    BLOCK = 256,     /* groups of pixels at a time, as in product.c */
    SUPERBLOCK = 4,  /* blocks whose gradient is packed at a time */
    JOB_PANELS = 4,  /* panels of lanes, of one tap, that share what is known of pixels */
    MOST_TAPS = 25   /* that are put into the result a panel at a time */
};

typedef struct {
    const weight_grad_t *p;
    const form_t *form;
    long groups, block, super, panels, lane_panels; /* panels of rows; of lanes, for one tap */
    int widened;
    int32_t *grad;
    int32_t *sums;
    int64_t *wide_sums;
} shared_t;

/* Where a panel of the gradient lies that has `size` groups from group `first` of the superblock. */
static long grad_at(const shared_t *s, long first, long size, long panel) {
    const form_t *form = s->form;
    const long before = first + form->heads * (first / s->block);
    return form->rows * (before * s->panels + (form->heads + size) * panel);
}

static void pack_pixels(const shared_t *s, int32_t *lanes, const void **rows, long pixels,
                        int count) {
    s->form->pack_columns(lanes, rows, pixels, NR, count, s->p->x.wide);
    if (s->form->complete_lanes) s->form->complete_lanes(lanes, div_up(pixels, s->form->depth));
}

/* Adds the pixels of the superblock at group g0 to the sums of lane panels first ... last - 1. */
static void work(const shared_t *s, long g0, long g1, long tap, long first, long last,
                 int32_t *lanes, const void **rows, char *scratch) {
    const operand_t *x = &s->p->x;
    const long size = x->wide ? 2 : 1;
    const form_t *form = s->form;
    const long depth = form->depth, tile_size = form->rows * NR;
    int32_t tile[MOST_TILE];
    for (long g = g0; g < g1; g += s->block) {
        const long here = least(s->block, g1 - g);
        const long pixels = least(depth * here, x->lanes - depth * g);
        pixel_rows(x, tap, depth * g, pixels, rows, scratch);
        for (long i = 0; i < pixels; i++) rows[i] = (const char *)rows[i] + first * NR * size;
        for (long j = first; j < last; j++) {
            const int count = (int)least(NR, x->channels - j * NR);
            pack_pixels(s, lanes, rows, pixels, count);
            for (long i = 0; i < pixels; i++) rows[i] = (const char *)rows[i] + NR * size;
            const int32_t *a = s->grad + grad_at(s, g - g0, here, 0);
            const long at = (tap * s->lane_panels + j) * s->panels;
            for (long i = 0; i < s->panels; i++, a += (form->heads + here) * form->rows) {
                if (!s->widened) {
                    int32_t *sums = s->sums + (at + i) * tile_size;
                    form->tile(a, lanes, here, g ? sums : NULL, sums, NULL);
                } else {
                    int64_t *wide = s->wide_sums + (at + i) * tile_size;
                    form->tile(a, lanes, here, NULL, tile, NULL);
                    for (int e = 0; e < tile_size; e++) wide[e] = (g ? wide[e] : 0) + tile[e];
                }
            }
        }
    }
}

/* out[l][t] = made[t][l], l < count: with constants where it matters. */
static void store_taps(float *restrict out, float (*made)[NR], long count, long taps) {
    if (taps == 1) {
        memcpy(out, made[0], (size_t)count * sizeof(float));
    } else if (taps == 9 && count == NR) {
#pragma GCC unroll 16
        for (int l = 0; l < NR; l++)
#pragma GCC unroll 9
            for (int t = 0; t < 9; t++) out[9 * l + t] = made[t][l];
    } else {
        for (long l = 0; l < count; l++)
            for (long t = 0; t < taps; t++) out[l * taps + t] = made[t][l];
    }
}

/* Few pixels: all of them for one panel of channels, all taps, straight to the result. `lanes` and
 * `tiles` hold those of every tap. */
static void work_and_finish(const shared_t *s, long j, int32_t *lanes, int32_t *tiles,
                            const void **rows, char *scratch) {
    const operand_t *x = &s->p->x;
    const form_t *form = s->form;
    const long taps = x->taps, here = s->groups, size = x->wide ? 2 : 1;
    const long tile_size = form->rows * NR;
    const long count = least(NR, x->channels - j * NR);
    const float scale = scale_of(s->p->exponent);
    float made[MOST_TAPS][NR];
    for (long t = 0; t < taps; t++) {
        pixel_rows(x, t, 0, x->lanes, rows, scratch);
        for (long i = 0; i < x->lanes; i++) rows[i] = (const char *)rows[i] + j * NR * size;
        pack_pixels(s, lanes + t * here * NR, rows, x->lanes, (int)count);
    }
    for (long i = 0; i < s->panels; i++) {
        for (long t = 0; t < taps; t++)
            form->tile(s->grad + grad_at(s, 0, here, i), lanes + t * here * NR, here, NULL,
                       tiles + t * tile_size, NULL);
        for (long r = 0; r < least(form->rows, s->p->grad.lanes - i * form->rows); r++) {
            float *out = s->p->out + ((i * form->rows + r) * x->channels + j * NR) * taps;
            for (long t = 0; t < taps; t++)
                for (int l = 0; l < NR; l++)
                    made[t][l] = (float)tiles[t * tile_size + r * NR + l] * scale;
            store_taps(out, made, count, taps);
        }
    }
}

/* One row of the result: (channel, tap). */
static void finish_row(const shared_t *s, long row) {
    const operand_t *x = &s->p->x;
    float *out = s->p->out + row * x->channels * x->taps;
    const long rows = s->form->rows, panel = row / rows, r = row % rows;
    const int exponent = s->p->exponent;
    const int fast = !s->widened && scale_is_exact(exponent, SCALED_INT32);
    const float scale = fast ? scale_of(exponent) : 0;
    /* lane l of tap t is channel l; of merged taps, channel l % channels of tap l / channels */
    const long channels = x->pixels.merged_taps ? x->pixels.merged_channels : x->channels;
    const long taps = x->pixels.merged_taps ? x->pixels.merged_taps : x->taps;
    if (fast && x->taps <= MOST_TAPS && !x->pixels.merged_taps) {
        /* by panel: all taps of sixteen channels lie side by side in the result */
        for (long j = 0; j < s->lane_panels; j++) {
            float made[MOST_TAPS][NR];
            for (long t = 0; t < taps; t++) {
                const int32_t *sums =
                    s->sums + (((t * s->lane_panels + j) * s->panels + panel) * rows + r) * NR;
                for (int l = 0; l < NR; l++) made[t][l] = (float)sums[l] * scale;
            }
            store_taps(out + j * NR * taps, made, least(NR, channels - j * NR), taps);
        }
        return;
    }
    for (long t = 0; t < x->taps; t++) {
        for (long j = 0; j < s->lane_panels; j++) {
            const long at = (((t * s->lane_panels + j) * s->panels + panel) * rows + r) * NR;
            const long count = least(NR, x->channels - j * NR);
            for (long l = 0; l < count; l++) {
                const long lane = j * NR + l;
                float *to = x->pixels.merged_taps ? out + lane % channels * taps + lane / channels
                                                  : out + lane * taps + t;
                *to = fast ? (float)s->sums[at + l] * scale
                           : dequantize_one(s->widened ? s->wide_sums[at + l] : s->sums[at + l],
                                            exponent);
            }
        }
    }
}

int weight_grad(const weight_grad_t *p, int threads) {
    const operand_t *x = &p->x;
    const form_t *form = form_for(x->wide);
    const long limit = int32_groups(form, p->largest), tile_size = form->rows * NR;
    shared_t s = {.p = p, .form = form, .groups = div_up(x->lanes, form->depth)};
    s.panels = div_up(p->grad.lanes, form->rows);
    s.lane_panels = div_up(x->channels, NR);
    s.widened = s.groups > limit;
    s.block = least(BLOCK, limit);
    s.super = SUPERBLOCK * s.block;
    const long all_panels = x->taps * s.lane_panels;
    const int few = s.groups && s.groups <= s.block && x->taps <= MOST_TAPS &&
                    !x->pixels.merged_taps && scale_is_exact(p->exponent, SCALED_INT32);
    const size_t sums = (size_t)((few ? 1 : all_panels * s.panels) * tile_size);
    if (!all_panels || !s.panels) return OK;
    const long wanted = most(1, all_panels / (2 * threads));
    const long job_panels = x->pixels.merged_taps ? div_up(s.lane_panels, threads)
                                                  : least(least(JOB_PANELS, s.lane_panels), wanted);
    const long jobs_per_tap = div_up(s.lane_panels, job_panels);
    const long most_groups = least(s.super, s.groups) + form->heads * SUPERBLOCK;
    s.grad = allocate((size_t)(most_groups * form->rows * s.panels) * 4);
    if (s.widened)
        s.wide_sums = calloc(sums, 8);
    else
        s.sums = s.groups ? allocate(4 * sums) : calloc(sums, 4);
    int failed = !s.grad || !(s.sums || s.wide_sums);
#pragma omp parallel num_threads(threads)
    {
        const long pixels = form->depth * s.block, together = few ? x->taps : 1;
        int32_t *lanes = allocate((size_t)(together * s.block * NR) * 4);
        int32_t *tiles = few ? allocate((size_t)(x->taps * tile_size) * 4) : NULL;
        const void **rows = allocate((size_t)(pixels + NR) * sizeof *rows);
        char *scratch =
            allocate(x->pixels.merged_taps ? (size_t)((pixels + NR) * (x->channels + 64) * 2) : 64);
        if (!lanes || !rows || !scratch || (few && !tiles)) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
        for (long g0 = 0; !failed && g0 < s.groups; g0 += s.super) {
            const long g1 = least(s.groups, g0 + s.super), blocks = div_up(g1 - g0, s.block);
#pragma omp for schedule(static)
            for (long i = 0; i < blocks * s.panels; i++) {
                const long b0 = g0 + i / s.panels * s.block, b1 = least(g1, b0 + s.block);
                int32_t *to = s.grad + grad_at(&s, b0 - g0, b1 - b0, i % s.panels);
                pack_rows(&p->grad, form, i % s.panels, b0, b1, to, scratch);
            }
            if (few) {
#pragma omp for schedule(dynamic, 1)
                for (long j = 0; j < s.lane_panels; j++)
                    work_and_finish(&s, j, lanes, tiles, rows, scratch);
                continue;
            }
#pragma omp for schedule(dynamic, 1)
            for (long job = 0; job < x->taps * jobs_per_tap; job++) {
                const long first = job % jobs_per_tap * job_panels;
                work(&s, g0, g1, job / jobs_per_tap, first,
                     least(s.lane_panels, first + job_panels), lanes, rows, scratch);
            }
        }
        if (!failed && !few) {
#pragma omp for schedule(static)
            for (long row = 0; row < p->grad.lanes; row++) finish_row(&s, row);
        }
        free(lanes);
        free(tiles);
        free(rows);
        free(scratch);
    }
    free(s.grad);
    free(s.sums);
    free(s.wide_sums);
    return failed ? NO_MEMORY : OK;
}
