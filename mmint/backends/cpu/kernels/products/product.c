#include "product.h"

#include "levels/level.h"
#include "memory.h"
#include "status.h"

enum {
    BLOCK = 256,   /* groups of depth at a time: panels of 16 KB and 6 KB, for the first cache */
    BLOCK_LANES = 4, /* panels of lanes that share rows, where there are many of those */
    ROW_BYTES = 192 << 10 /* of packed rows, for the second cache */
};

typedef struct {
    const product_t *p;
    const form_t *form;
    long panels, lane_panels, groups, block, blocks; /* panels of rows, of lanes */
    long at_once, jobs;                              /* panels of lanes a job */
    int widened;                                     /* each block's sums go to int64 */
    int32_t *rows, *lanes, *sums;
    int64_t *wide_sums;
    char *scratch;
} worker_t;

static long block_start(const worker_t *w, long block) {
    return least(block * w->block, w->groups);
}

/* Packed rows: blocks of panels of heads and groups. */
static long rows_at(const worker_t *w, long block, long panel) {
    const form_t *form = w->form;
    const long first = block_start(w, block), size = block_start(w, block + 1) - first;
    return form->rows * ((first + form->heads * block) * w->panels + (form->heads + size) * panel);
}

/* Finishes a tile that has no fast way: with int64 sums, or beyond what `finish` calls fast. */
static void finish_tile(const worker_t *w, const int32_t *sums, const int64_t *wide, long panel,
                        long lane, int count, const long *place, extent_t *seen) {
    const finish_t *finish = w->p->finish;
    const long first = panel * w->form->rows, rows = least(w->form->rows, w->p->a.lanes - first);
    const long step = w->p->finish_step;
    for (long r = 0; r < rows; r++) {
        float *out = w->p->out + (first + r) * w->p->row_stride;
        for (int l = 0; l < count; l++) {
            const long index = finish->by_lane ? lane + l : first + r;
            const int64_t sum = wide ? wide[NR * r + l] : sums[NR * r + l];
            out[place[l]] = finish_one(finish + step * index, sum, step ? 0 : index);
            extent_take(seen, l, sum != 0, out[place[l]]);
        }
    }
}

/* Panels of lanes first ... last - 1. */
static void work(const worker_t *w, long first, long last, extent_t *seen) {
    static const int32_t none[NR];
    static const float ones[NR] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    const product_t *p = w->p;
    const form_t *form = w->form;
    const int height = form->rows, tile_size = height * NR;
    const finish_t *f = p->finish;
    const int fast = p->finish_step ? f->all_fast : f->fast;
    const long per_image = p->grid_h * p->grid_w;
    long place[BLOCK_LANES][NR];
    int direct[BLOCK_LANES], count[BLOCK_LANES];
    for (long j = first; j < last; j++) {
        const long lane = j * NR;
        int straight = 1;
        count[j - first] = (int)least(NR, p->b.lanes - lane);
        long n = lane / per_image, y = lane % per_image / p->grid_w, x = lane % p->grid_w;
        for (int l = 0; l < count[j - first]; l++) {
            place[j - first][l] = n * p->image_stride + y * p->step_y + x * p->step_x;
            straight &= place[j - first][l] == place[j - first][0] + l;
            if (++x == p->grid_w) {
                x = 0;
                if (++y == p->grid_h) y = 0, n++;
            }
        }
        direct[j - first] = straight && count[j - first] == NR;
    }
    for (long block = 0; block < most(w->blocks, 1); block++) {
        const long g0 = block_start(w, block), g1 = block_start(w, block + 1);
        const int is_last = block + 1 >= w->blocks;
        for (long j = first; j < last; j++)
            pack_lanes(&p->b, form, j, g0, g1, w->lanes + (j - first) * w->block * NR, w->scratch);
        const long chunk = most(1, ROW_BYTES / (4 * height * most(1, g1 - g0)));
        for (long i0 = 0; i0 < w->panels; i0 += chunk) {
            for (long j = first; j < last; j++) {
                const long *to = place[j - first];
                const int lanes = count[j - first];
                for (long i = i0; i < least(w->panels, i0 + chunk); i++) {
                    const int32_t *a = w->rows + rows_at(w, block, i);
                    const int32_t *b = w->lanes + (j - first) * w->block * NR;
                    const long index = (j - first) * w->panels + i;
                    int32_t *sums = w->sums + (w->blocks > 1 ? index * tile_size : 0);
                    const int32_t *before = block && !w->widened ? sums : NULL;
                    if (is_last && fast && !w->widened) {
                        results_t results = {.rows = (int)least(height, p->a.lanes - i * height),
                                             .row_scale = ones,
                                             .lane_scale = f->same};
                        if (p->finish_step && f->by_lane)
                            results.lane_scale = f->scales + j * NR;
                        else if (p->finish_step) {
                            results.row_scale = f->scales + i * height;
                            results.lane_scale = ones;
                        }
                        if (f->bias) {
                            results.row_bias = f->by_lane ? none : f->bias32 + i * height;
                            results.lane_bias = f->by_lane ? f->bias32 + j * NR : none;
                        }
                        float *out = p->out + i * height * p->row_stride;
                        if (direct[j - first]) {
                            results.out = out + to[0];
                            results.stride = p->row_stride;
                            results.seen = seen;
                            form->tile(a, b, g1 - g0, before, NULL, &results);
                            continue;
                        }
                        float made[MOST_TILE];
                        extent_t part = {{0}, {0}};
                        results.out = made;
                        results.stride = NR;
                        results.seen = &part;
                        form->tile(a, b, g1 - g0, before, NULL, &results);
                        extent_join(seen, &part, lanes);
                        for (long r = 0; r < results.rows; r++, out += p->row_stride)
                            for (int l = 0; l < lanes; l++) out[to[l]] = made[NR * r + l];
                        continue;
                    }
                    form->tile(a, b, g1 - g0, before, sums, NULL);
                    int64_t *wide = NULL;
                    if (w->widened) {
                        wide = w->wide_sums + index * tile_size;
                        for (int e = 0; e < tile_size; e++)
                            wide[e] = (block ? wide[e] : 0) + sums[e];
                    }
                    if (is_last) finish_tile(w, sums, wide, i, j * NR, lanes, to, seen);
                }
            }
        }
    }
}

static void work_on_job(const worker_t *w, long job, extent_t *seen) {
    work(w, job * w->at_once, least(w->lane_panels, (job + 1) * w->at_once), seen);
}

static void pack_blocks(const worker_t *w, long panel) {
    for (long block = 0; block < most(w->blocks, 1); block++)
        pack_rows(&w->p->a, w->form, panel, block_start(w, block), block_start(w, block + 1),
                  w->rows + rows_at(w, block, panel), w->scratch);
}

static worker_t prepare(const product_t *p, int threads) {
    const form_t *form = form_for(p->a.wide);
    const long limit = int32_groups(form, p->largest);
    worker_t w = {.p = p, .form = form};
    w.panels = div_up(p->a.lanes, form->rows);
    w.lane_panels = div_up(p->b.lanes, NR);
    w.groups = p->b.taps * tap_groups(&p->b, form);
    w.blocks = div_up(w.groups, BLOCK);
    w.block = w.blocks ? div_up(w.groups, w.blocks) : 1;
    w.widened = w.groups > limit;
    if (w.widened) {
        w.block = least(w.block, limit);
        w.blocks = div_up(w.groups, w.block);
    }
    const int many = w.blocks > 1 || 4 * form->rows * w.panels * w.groups > ROW_BYTES;
    w.at_once = many ? most(1, least(BLOCK_LANES, w.lane_panels / (2 * threads))) : 1;
    w.jobs = w.panels ? div_up(w.lane_panels, w.at_once) : 0;
    return w;
}

static int32_t *rows_allocate(const worker_t *w) {
    const long heads = w->form->heads * most(1, w->blocks);
    return allocate((size_t)(w->panels * (heads + w->groups) * w->form->rows) * 4);
}

/* What each thread has of its own; is it there? */
static int worker_allocate(worker_t *w) {
    const size_t tile_size = (size_t)w->form->rows * NR;
    const size_t tiles = (size_t)(w->blocks > 1 ? w->at_once * w->panels : 1);
    w->lanes = allocate((size_t)(w->at_once * w->block * NR) * 4);
    w->sums = allocate(tiles * tile_size * 4);
    w->wide_sums = w->widened ? allocate(tiles * tile_size * 8) : NULL;
    w->scratch = allocate((size_t)most(pack_scratch(&w->p->a), pack_scratch(&w->p->b)));
    return w->lanes && w->sums && w->scratch && (w->wide_sums || !w->widened);
}

static void worker_free(const worker_t *w) {
    free(w->lanes);
    free(w->sums);
    free(w->wide_sums);
    free(w->scratch);
}

int product(const product_t *p, int threads, extent_t *seen) {
    worker_t shared = prepare(p, threads);
    if (!shared.jobs) return OK;
    shared.rows = rows_allocate(&shared);
    if (!shared.rows) return NO_MEMORY;
    extent_t found = {{0}, {0}};
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(join : found) if (shared.jobs > 1)
    {
        worker_t w = shared;
        const int ready = worker_allocate(&w);
        if (!ready) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (long i = 0; i < shared.panels; i++)
            if (ready) pack_blocks(&w, i);
#pragma omp for schedule(dynamic, 1)
        for (long job = 0; job < shared.jobs; job++)
            if (ready) work_on_job(&w, job, &found);
        worker_free(&w);
    }
    free(shared.rows);
    extent_join(seen, &found, NR);
    return failed ? NO_MEMORY : OK;
}

static product_t item_of(const product_t *p, const batch_t *batch, long i) {
    product_t item = *p;
    item.a.base += i * batch->a_step;
    item.b.base += i * batch->b_step;
    item.out += i * batch->out_step;
    item.finish += i * batch->finish_step;
    return item;
}

int product_batch(const product_t *p, const batch_t *batch, int threads, extent_t *seen) {
    const worker_t shared = prepare(p, 1);
    if (!shared.jobs) return OK;
    if (batch->count < 2 * threads) {
        int status = OK;
        for (long i = 0; !status && i < batch->count; i++) {
            const product_t item = item_of(p, batch, i);
            status = product(&item, threads, seen);
        }
        return status;
    }
    extent_t found = {{0}, {0}};
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(join : found) if (threads > 1)
    {
        worker_t w = shared;
        w.rows = rows_allocate(&w);
        const int ready = worker_allocate(&w) && w.rows;
        if (!ready) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 1)
        for (long i = 0; i < batch->count; i++) {
            const product_t item = item_of(p, batch, i);
            if (!ready) continue;
            w.p = &item;
            for (long panel = 0; panel < w.panels; panel++) pack_blocks(&w, panel);
            for (long job = 0; job < w.jobs; job++) work_on_job(&w, job, &found);
        }
        worker_free(&w);
        free(w.rows);
    }
    extent_join(seen, &found, NR);
    return failed ? NO_MEMORY : OK;
}
