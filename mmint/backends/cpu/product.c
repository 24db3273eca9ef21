#include "product.h"

enum {
    BLOCK = 256,   /* groups of depth at a time: panels of 16 KB and 6 KB, for the first cache */
    BLOCK_LANES = 4, /* panels of lanes that share rows, where there are many of those */
    ROW_BYTES = 192 << 10 /* of packed rows, for the second cache */
};

typedef struct {
    const product_t *p;
    long panels, groups, block, blocks; /* panels of rows */
    int widened;                        /* each block's sums go to int64 */
    const int32_t *rows;
    int32_t *lanes, *sums, *lane_bias;
    int64_t *wide_sums;
    char *scratch;
} worker_t;

static long block_start(const worker_t *w, long block) {
    return least(block * w->block, w->groups);
}

/* Packed rows: blocks of panels of groups. */
static long rows_at(const worker_t *w, long block, long panel) {
    const long first = block_start(w, block), size = block_start(w, block + 1) - first;
    return MR * (first * w->panels + size * panel);
}

/* Finishes a tile that has no fast way: with int64 sums, or beyond what `finish` calls fast. */
static int finish_tile(const worker_t *w, const int32_t *sums, const int64_t *wide, long panel,
                       long lane, int count, const long *place) {
    const finish_t *f = w->p->finish;
    const long first = panel * MR, rows = least(MR, w->p->a.lanes - first);
    int any = 0;
    for (long r = 0; r < rows; r++) {
        float *out = w->p->out + (first + r) * w->p->row_stride;
        for (int l = 0; l < count; l++) {
            const long index = f->by_lane ? lane + l : first + r;
            const int64_t sum = wide ? wide[NR * r + l] : sums[NR * r + l];
            any |= sum != 0;
            out[place[l]] = finish_one(f, sum, index);
        }
    }
    return any;
}

/* Panels of lanes first ... last - 1. */
static int work(const worker_t *w, long first, long last) {
    static const int32_t none[NR];
    const product_t *p = w->p;
    const finish_t *f = p->finish;
    const long per_image = p->grid_h * p->grid_w;
    long place[BLOCK_LANES][NR];
    int direct[BLOCK_LANES], count[BLOCK_LANES], any = 0;
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
        direct[j - first] = straight && count[j - first] == NR && f->fast && !w->widened;
    }
    for (long block = 0; block < most(w->blocks, 1); block++) {
        const long g0 = block_start(w, block), g1 = block_start(w, block + 1);
        const int is_last = block + 1 >= w->blocks;
        for (long j = first; j < last; j++)
            pack(&p->b, j * NR, NR, g0, g1, w->lanes + (j - first) * w->block * NR, w->scratch);
        const long chunk = most(1, ROW_BYTES / (4 * MR * most(1, g1 - g0)));
        for (long i0 = 0; i0 < w->panels; i0 += chunk) {
            for (long j = first; j < last; j++) {
                for (long i = i0; i < least(w->panels, i0 + chunk); i++) {
                    const int32_t *a = w->rows + rows_at(w, block, i);
                    const int32_t *b = w->lanes + (j - first) * w->block * NR;
                    const long index = (j - first) * w->panels + i;
                    int32_t *sums = w->sums + (w->blocks > 1 ? index * TILE : 0);
                    const int32_t *before = block && !w->widened ? sums : NULL;
                    if (is_last && direct[j - first]) {
                        any |= level->tile(a, b, g1 - g0, before, NULL, f,
                                           f->by_lane ? none : f->bias32 + i * MR,
                                           f->by_lane ? f->bias32 + j * NR : none,
                                           p->out + place[j - first][0] + i * MR * p->row_stride,
                                           p->row_stride, (int)least(MR, p->a.lanes - i * MR));
                        continue;
                    }
                    if (is_last && f->fast && !w->widened) {
                        float made[TILE];
                        const long rows = least(MR, p->a.lanes - i * MR);
                        any |= level->tile(a, b, g1 - g0, before, NULL, f,
                                           f->by_lane ? none : f->bias32 + i * MR,
                                           f->by_lane ? f->bias32 + j * NR : none, made, NR,
                                           (int)rows);
                        for (long r = 0; r < rows; r++) {
                            float *out = p->out + (i * MR + r) * p->row_stride;
                            for (int l = 0; l < count[j - first]; l++)
                                out[place[j - first][l]] = made[NR * r + l];
                        }
                        continue;
                    }
                    level->tile(a, b, g1 - g0, before, sums, f, NULL, NULL, NULL, 0, 0);
                    int64_t *wide = NULL;
                    if (w->widened) {
                        wide = w->wide_sums + index * TILE;
                        for (int e = 0; e < TILE; e++) wide[e] = (block ? wide[e] : 0) + sums[e];
                    }
                    if (is_last)
                        any |= finish_tile(w, sums, wide, i, j * NR, count[j - first],
                                           place[j - first]);
                }
            }
        }
    }
    return any;
}

int product(const product_t *p, int threads, int *any) {
    const long limit = int32_groups(p->largest);
    worker_t shared = {.p = p, .panels = div_up(p->a.lanes, MR)};
    shared.groups = p->b.taps * tap_groups(&p->b);
    shared.blocks = div_up(shared.groups, BLOCK);
    shared.block = shared.blocks ? div_up(shared.groups, shared.blocks) : 1;
    shared.widened = shared.groups > limit;
    if (shared.widened) {
        shared.block = least(shared.block, limit);
        shared.blocks = div_up(shared.groups, shared.block);
    }
    const long lane_panels = div_up(p->b.lanes, NR);
    const int many = shared.blocks > 1 || 4 * MR * shared.panels * shared.groups > ROW_BYTES;
    const long at_once = many ? most(1, least(BLOCK_LANES, lane_panels / (2 * threads))) : 1;
    const long jobs = div_up(lane_panels, at_once);
    if (!jobs || !shared.panels) return OK;
    int32_t *rows = allocate((size_t)(shared.panels * shared.groups * MR) * 4);
    if (!rows) return NO_MEMORY;
    shared.rows = rows;
    int failed = 0, found = 0;
#pragma omp parallel num_threads(threads) reduction(| : found) if (jobs > 1)
    {
        worker_t w = shared;
        const size_t tiles = (size_t)(shared.blocks > 1 ? at_once * shared.panels : 1);
        w.lanes = allocate((size_t)(at_once * w.block * NR) * 4);
        w.sums = allocate(tiles * TILE * 4);
        w.wide_sums = w.widened ? allocate(tiles * TILE * 8) : NULL;
        w.scratch = allocate((size_t)most(pack_scratch(&p->a), pack_scratch(&p->b)));
        const int ready = w.lanes && w.sums && w.scratch && (w.wide_sums || !w.widened);
        if (!ready) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (long i = 0; i < shared.panels; i++)
            for (long block = 0; ready && block < w.blocks; block++)
                pack(&p->a, i * MR, MR, block_start(&w, block), block_start(&w, block + 1),
                     rows + rows_at(&w, block, i), w.scratch);
#pragma omp for schedule(dynamic, 1)
        for (long job = 0; job < jobs; job++)
            if (ready) found |= work(&w, job * at_once, least(lane_panels, (job + 1) * at_once));
        free(w.lanes);
        free(w.sums);
        free(w.wide_sums);
        free(w.scratch);
    }
    free(rows);
    *any |= found;
    return failed ? NO_MEMORY : OK;
}
