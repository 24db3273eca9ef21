#include "winograd.h"

#include "levels/level.h"
#include "memory.h"
#include "status.h"
#include "winograd_parts.h"

enum { ROW_PANELS = 8 /* panels of MR rows whose sums stay in the cache */ };

static winograd_grad_job_t prepare(const winograd_grad_t *p) {
    winograd_grad_job_t s = {
        .p = p, .row_panels = div_up(p->rows, MR), .lane_panels = div_up(p->channels, NR)};
    s.tiles_h = div_up(div_up(p->out_h, p->dilation_h), SIDE);
    s.tiles_w = div_up(div_up(p->out_w, p->dilation_w), SIDE);
    s.tiles = p->n * p->dilation_h * p->dilation_w * s.tiles_h * s.tiles_w;
    s.widened = p->n * p->out_h * p->out_w > INT32_MAX / (127 * 127);
    return s;
}

int winograd_grad_pays(const winograd_grad_t *p) {
    const winograd_grad_job_t s = prepare(p);
    /* in cycles, by measurement */
    const double products = (double)(s.row_panels * MR) * (double)(s.lane_panels * NR);
    const double blocks = (double)div_up(s.tiles, TILE_BLOCK);
    const double plain =
        (double)p->n * p->out_h * p->out_w * FILTER_TAPS * products / 26 + 20 * products;
    const double here = (double)s.tiles * POINTS * products / 24 + 60 * products * blocks +
                        (double)s.tiles * 12 * (double)(p->channels + p->rows);
    return s.tiles && p->channels >= VECTOR / 2 && p->rows >= VECTOR / 2 && here < 0.9 * plain;
}

int winograd_grad(const winograd_grad_t *p, int threads) {
    winograd_grad_job_t s = prepare(p);
    const long most_channels = most(p->channels, p->rows), all = s.row_panels * s.lane_panels;
    const long panels = most(1, least(ROW_PANELS, all / (4 * threads)));
    const long chunks = div_up(s.row_panels, panels);
    const size_t results = (size_t)(p->rows * s.lane_panels * FILTER_TAPS * NR);
    s.zeros = calloc((size_t)most_channels + 64, 1);
    s.grads = allocate((size_t)(POINTS * s.row_panels * TILE_PAIRS * MR) * 4);
    s.inputs = allocate((size_t)(POINTS * s.lane_panels * TILE_PAIRS * NR) * 4);
    s.sums = s.widened || s.tiles > TILE_BLOCK ? allocate(results * (s.widened ? 8 : 4)) : NULL;
    int failed =
        !s.zeros || !s.grads || !s.inputs || (!s.sums && (s.widened || s.tiles > TILE_BLOCK));
#pragma omp parallel num_threads(threads)
    {
        int32_t *sums = allocate(ROW_PANELS * POINTS * TILE * 4);
        if (!sums) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
        for (long first = 0; !failed && first < s.tiles; first += TILE_BLOCK) {
            const long pairs = least(TILE_PAIRS, div_up(s.tiles - first, 2));
            const int is_last = first + TILE_BLOCK >= s.tiles;
#pragma omp for schedule(dynamic, 4)
            for (long pair = 0; pair < pairs; pair++)
                level->winograd_grad_transform(&s, first, pair);
#pragma omp for schedule(dynamic, 1)
            for (long job = 0; job < s.lane_panels * chunks; job++) {
                const long j = job / chunks, i0 = job % chunks * panels;
                const long i1 = least(s.row_panels, i0 + panels);
                for (long k = 0; k < POINTS; k++)
                    for (long i = i0; i < i1; i++)
                        level->pairs.tile(s.grads + (k * s.row_panels + i) * TILE_PAIRS * MR,
                                          s.inputs + (k * s.lane_panels + j) * TILE_PAIRS * NR,
                                          pairs, NULL, sums + ((i - i0) * POINTS + k) * TILE, NULL);
                for (long row = i0 * MR; row < least(p->rows, i1 * MR); row++)
                    level->winograd_grad_output(
                        &s, sums + (row / MR - i0) * POINTS * TILE + row % MR * NR, row, j,
                        first == 0, is_last);
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
