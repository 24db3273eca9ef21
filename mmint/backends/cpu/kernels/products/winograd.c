#include "winograd.h"

#include "levels/level.h"
#include "memory.h"
#include "status.h"
#include "winograd_parts.h"

enum {
    PANELS = 2,    /* panels of NR tiles that share the filters */
    ROW_PANELS = 8, /* panels of MR rows whose sums stay in the cache */
    FILTER_BYTES = 384 << 10 /* of one thread's share, where filters are made as they are used */
};

static void locate(const winograd_job_t *s, long first, winograd_places_t *at,
                   const int8_t *zeros) {
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
                at->pixel[l][6 * i + j] = iy < 0 || iy >= p->height || ix < 0 || ix >= p->width
                                              ? zeros
                                              : image + (iy * p->width + ix) * p->channels;
            }
        }
        at->out[l] = p->out + n * p->rows * p->out_h * p->out_w + y0 * p->out_w + x0;
        at->high[l] = (int)most(0, least(SIDE, div_up(p->out_h - y0, p->dilation_h)));
        at->wide[l] = (int)most(0, least(SIDE, div_up(p->out_w - x0, p->dilation_w)));
    }
}

typedef struct {
    int32_t *filters, *inputs, *sums; /* sums: (panel of rows, panel of tiles, point, tile) */
    winograd_points_t *made;
} worker_t;

/* Sums of panels i0 ... i1 - 1 of rows and `panels` of tiles, to float32. */
static void outputs(const winograd_job_t *s, const worker_t *w, const winograd_places_t *at,
                    long i0, long i1, long panels, extent_t *seen) {
    for (long i = i0; i < i1; i++)
        for (long j = 0; j < panels; j++)
            for (long r = 0; r < least(MR, s->p->rows - i * MR); r++)
                level->winograd_outputs(s, &at[j],
                                        w->sums + ((i - i0) * PANELS + j) * POINTS * TILE + r * NR,
                                        i * MR + r, seen);
}

static void multiply(const winograd_job_t *s, const worker_t *w, const int32_t *filters,
                     const int32_t *inputs, long i, long j, long point) {
    level->pairs.tile(filters, inputs, s->groups, NULL,
                      w->sums + ((i * PANELS + j) * POINTS + point) * TILE, NULL);
}

/* Panels of tiles j0 ... and all rows, whose filters are there. */
static void work_on_tiles(const winograd_job_t *s, const worker_t *w, long j0, extent_t *seen) {
    const long panels = least(PANELS, s->lane_panels - j0), panel = s->groups * NR;
    winograd_places_t at[PANELS];
    for (long j = 0; j < panels; j++) {
        locate(s, (j0 + j) * NR, &at[j], s->zeros);
        level->winograd_inputs(s, &at[j], w->inputs + j * panel, PANELS * panel, w->made);
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
static void work_on_rows(const winograd_job_t *s, const worker_t *w, long i0, long i1,
                         extent_t *seen) {
    const long size = s->groups * MR, panel = s->groups * NR;
    winograd_places_t at[PANELS];
    for (long i = i0; i < i1; i++)
        level->winograd_filters(s, i, w->filters + (i - i0) * size, (i1 - i0) * size, w->made);
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

static winograd_job_t prepare(const winograd_t *p) {
    winograd_job_t s = {
        .p = p, .groups = div_up(p->channels, 2), .row_panels = div_up(p->rows, MR)};
    s.tiles_h = div_up(div_up(p->out_h, p->dilation_h), SIDE);
    s.tiles_w = div_up(div_up(p->out_w, p->dilation_w), SIDE);
    s.tiles = p->n * p->dilation_h * p->dilation_w * s.tiles_h * s.tiles_w;
    s.lane_panels = div_up(s.tiles, NR);
    return s;
}

int winograd_pays(const winograd_t *p) {
    const winograd_job_t s = prepare(p);
    /* in cycles, by measurement */
    const double channels = (double)p->channels, rows = (double)(s.row_panels * MR);
    const double lanes = (double)(s.lane_panels * NR);
    const double plain = (double)p->n * p->out_h * p->out_w * 9 * channels * rows / 26;
    const double here = lanes * POINTS * channels * rows / 24 + 24 * channels * rows +
                        lanes * (10 * channels + 25 * rows);
    return p->finish->all_fast && p->channels >= VECTOR / 2 && here < 0.9 * plain;
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
    winograd_job_t s = prepare(p);
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
        w.made = allocate(sizeof *w.made);
        if (by_rows)
            w.filters = allocate((size_t)(rows * filter_size) * 4);
        else
            w.inputs = allocate((size_t)(PANELS * input_size) * 4);
        if (!w.sums || !w.made || !(w.filters || w.inputs)) {
#pragma omp atomic write
            failed = 1;
        } else {
            memset(w.made, 0, sizeof *w.made);
        }
#pragma omp barrier
        if (!failed && by_rows) {
#pragma omp for schedule(dynamic, 1)
            for (long j = 0; j < s.lane_panels; j++) {
                winograd_places_t at;
                locate(&s, j * NR, &at, s.zeros);
                level->winograd_inputs(&s, &at, s.inputs + j * input_size, s.groups * NR, w.made);
            }
#pragma omp for schedule(dynamic, 1)
            for (long i = 0; i < s.row_panels; i += rows)
                work_on_rows(&s, &w, i, least(s.row_panels, i + rows), &found);
        } else if (!failed) {
#pragma omp for schedule(dynamic, 1)
            for (long i = 0; i < s.row_panels; i++)
                level->winograd_filters(&s, i, s.filters + i * s.groups * MR,
                                        s.row_panels * s.groups * MR, w.made);
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
