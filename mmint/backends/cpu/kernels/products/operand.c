#include "operand.h"

#include "levels/level.h"

enum { COLUMN_BATCH = 64 };

long pack_scratch(const operand_t *o) {
    return o->pixels.merged_taps ? NR * (o->channels + 64) * (o->wide ? 2 : 1) : 64;
}

typedef struct {
    const char *image[NR];
    long y[NR], x[NR];
    int count;
} grid_points;

static void locate(const operand_t *o, long lane, int width, grid_points *at) {
    const pixels_t *p = &o->pixels;
    const long per_image = p->grid_h * p->grid_w;
    at->count = (int)least(width, o->lanes - lane);
    if (at->count <= 0) return;
    long n = lane / per_image, i = lane % per_image / p->grid_w, j = lane % per_image % p->grid_w;
    for (int l = 0; l < at->count; l++) {
        at->image[l] = o->base + n * p->image_stride;
        at->y[l] = i * p->step_y;
        at->x[l] = j * p->step_x;
        if (++j == p->grid_w) {
            j = 0;
            if (++i == p->grid_h) i = 0, n++;
        }
    }
}

/* All taps of each pixel side by side, in `scratch`. */
static void gather(const operand_t *o, const grid_points *at, int width, const void **rows,
                   char *scratch) {
    const pixels_t *p = &o->pixels;
    const long size = (o->wide ? 2 : 1) * p->merged_channels, row = size * p->merged_taps;
    for (int l = 0; l < width; l++) {
        char *to = scratch + l * (row + 64);
        rows[l] = to;
        if (l >= at->count) {
            memset(to, 0, (size_t)row);
            continue;
        }
        for (long t = 0; t < p->merged_taps; t += p->run, to += size * p->run) {
            const long y = at->y[l] + p->dy[t], x = at->x[l] + p->dx[t];
            const char *from = at->image[l] + (y * p->width + x) * p->pixel_stride;
            if (y < 0 || y >= p->height || x >= p->width || x + p->run <= 0) {
                memset(to, 0, (size_t)(size * p->run));
            } else if (x >= 0 && x + p->run <= p->width) {
                memcpy(to, from, (size_t)(size * p->run));
            } else {
                const long before = most(0, -x), inside = least(p->run, p->width - x) - before;
                memset(to, 0, (size_t)(size * p->run));
                memcpy(to + before * size, from + before * size, (size_t)(inside * size));
            }
        }
    }
}

static void pack(const operand_t *o, const form_t *form, long lane, int width, long g0, long g1,
                 int32_t *dst, char *scratch) {
    const long per_tap = tap_groups(o, form), size = o->wide ? 2 : 1;
    const void *rows[NR];
    grid_points at = {.count = 0};
    if (o->kind == PIXELS) {
        locate(o, lane, width, &at);
        if (o->pixels.merged_taps) gather(o, &at, width, rows, scratch);
    }
    for (long g = g0; g < g1;) {
        const long tap = g / per_tap, c0 = (g - tap * per_tap) * form->depth;
        const long upto = least(g1, (tap + 1) * per_tap);
        const long length = least(o->channels - c0, (upto - g) * form->depth);
        int32_t *to = dst + (g - g0) * width;
        g = upto;
        if (o->kind == COLUMNS) {
            const char *from = o->base + o->tap_offset[tap] + lane * size;
            const int count = (int)least(NR, o->lanes - lane);
            for (long k = 0; k < length; k += COLUMN_BATCH) {
                const void *columns[COLUMN_BATCH];
                const long batch = least(COLUMN_BATCH, length - k);
                for (long i = 0; i < batch; i++)
                    columns[i] = from + (c0 + k + i) * o->channel_stride;
                form->pack_columns(to + k / form->depth * width, columns, batch, width, count,
                                   o->wide);
            }
            continue;
        }
        const void *here[NR];
        for (int l = 0; l < width; l++) {
            if (o->kind == ROWS) {
                /* lanes beyond the last repeat it: their sums are not read */
                here[l] = o->base + least(lane + l, o->lanes - 1) * o->lane_stride +
                          o->tap_offset[tap] + c0 * size;
            } else if (o->pixels.merged_taps) {
                here[l] = (const char *)rows[l] + c0 * size;
            } else {
                const pixels_t *p = &o->pixels;
                const long y = l < at.count ? at.y[l] + p->dy[tap] : -1;
                const long x = l < at.count ? at.x[l] + p->dx[tap] : -1;
                here[l] = y < 0 || y >= p->height || x < 0 || x >= p->width
                              ? o->zeros
                              : at.image[l] + (y * p->width + x) * p->pixel_stride + c0 * size;
            }
        }
        form->pack_rows(to, here, width, length, o->wide);
    }
}

void pack_rows(const operand_t *o, const form_t *form, long panel, long g0, long g1, int32_t *dst,
               char *scratch) {
    int32_t *groups = dst + form->heads * form->rows;
    pack(o, form, panel * form->rows, form->rows, g0, g1, groups, scratch);
    if (form->complete_rows) form->complete_rows(dst, groups, form->rows, g1 - g0);
}

void pack_lanes(const operand_t *o, const form_t *form, long panel, long g0, long g1, int32_t *dst,
                char *scratch) {
    pack(o, form, panel * NR, NR, g0, g1, dst, scratch);
    if (form->complete_lanes) form->complete_lanes(dst, g1 - g0);
}

void pixel_rows(const operand_t *o, long tap, long first, long count, const void **rows,
                char *scratch) {
    const pixels_t *p = &o->pixels;
    grid_points at;
    for (long i = 0; i < count; i += NR) {
        const int width = (int)least(NR, count - i);
        locate(o, first + i, width, &at);
        if (p->merged_taps) {
            gather(o, &at, width, rows + i, scratch + i * (o->channels + 64) * (o->wide ? 2 : 1));
            continue;
        }
        for (int l = 0; l < width; l++) {
            const long y = at.y[l] + p->dy[tap], x = at.x[l] + p->dx[tap];
            rows[i + l] = y < 0 || y >= p->height || x < 0 || x >= p->width
                              ? o->zeros
                              : at.image[l] + (y * p->width + x) * p->pixel_stride;
        }
    }
}
