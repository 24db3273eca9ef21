/* A plane is laid out (depthwise_loops.h) so that tap t of the filter reads result point q = (row, column)
 * at laid[row * pitch + column + offset[t]], whatever the stride: results are sums of shifted runs of
 * memory, `tap_sums`, and a weight gradient is inner products of them, `tap_products`. What comes out
 * between the end of a row and the pitch is left out.
 *
 * An input gradient of stride s reads the incoming gradient with another part of the taps for each phase
 * of the result: rows and columns modulo s.
 *
 * Sums are int32 where taps * largest < 2**31, else int64, point by point. */
#include "depthwise.h"

#include "depthwise_loops.h"
#include "levels/level.h"
#include "memory.h"
#include "status.h"

enum { BAND = 2048 /* points at a time: their sums stay in the first cache */ };

/* The taps, phase by phase, each phase of an even number (the last one may have weight 0); `place` in
 * the filter, -1: none. Results of phase (row, column) lie at (row + i * step_y, column + j * step_x). */
typedef struct {
    laid_t laid;
    long step_y, step_x, height, width; /* of the result */
    long *first, *offset, *place;
    long rows, stride; /* of a phase that are summed at once, and between the sums of two phases */
} filter_t;

static int filter_allocate(filter_t *f, long taps) {
    const long phases = f->step_y * f->step_x, most_taps = taps + phases;
    f->rows = most(1, BAND / (f->laid.pitch * phases));
    f->stride = f->rows * f->laid.pitch + LAID_SLACK;
    f->first = calloc((size_t)(phases + 1 + 2 * most_taps), sizeof(long));
    if (!f->first) return NO_MEMORY;
    f->offset = f->first + phases + 1;
    f->place = f->offset + most_taps;
    return OK;
}

/* Adds a tap to a phase that began at `first`. */
static void add_tap(filter_t *f, long *count, long offset, long place) {
    f->offset[*count] = offset;
    f->place[(*count)++] = place;
}

static void end_phase(filter_t *f, long phase, long *count) {
    if ((*count - f->first[phase]) % 2) add_tap(f, count, f->offset[*count - 1], -1);
    f->first[phase + 1] = *count;
}

/* The input, as filters read it that make the output. */
static laid_t laid_input(const conv2d_args *a) {
    laid_t l = {.row = a->w, .top = a->pad_h, .left = a->pad_w};
    const long rows = (a->out_h - 1) * a->stride_h + (a->kernel_h - 1) * a->dilation_h + 1;
    const long columns = (a->out_w - 1) * a->stride_w + (a->kernel_w - 1) * a->dilation_w + 1;
    l.height = least(a->h, most(0, rows - l.top));
    l.width = least(a->w, most(0, columns - l.left));
    l.step_y = a->stride_h;
    l.step_x = a->stride_w;
    l.rows = div_up(most(rows, l.top + l.height), l.step_y);
    l.pitch = div_up(most(columns, l.left + l.width), l.step_x);
    return l;
}

/* The filter that makes the output of the input. */
static int filter_forward(filter_t *f, const conv2d_args *a) {
    long count = 0;
    *f = (filter_t){laid_input(a), 1, 1, a->out_h, a->out_w, .first = NULL};
    if (filter_allocate(f, a->kernel_h * a->kernel_w)) return NO_MEMORY;
    for (long ky = 0; ky < a->kernel_h; ky++)
        for (long kx = 0; kx < a->kernel_w; kx++)
            add_tap(f, &count, laid_at(&f->laid, ky * a->dilation_h, kx * a->dilation_w), count);
    end_phase(f, 0, &count);
    return OK;
}

/* Along one axis of an input gradient, result point row + i * stride reads i + tap_shift at tap k, if
 * there is one. */
static int tap_shift(long row, long k, long stride, long pad, long dilation, long *shift) {
    const long place = row + pad - k * dilation;
    *shift = place / stride;
    return place % stride == 0;
}

/* Zeros before a row of the incoming gradient, and its length with them and those behind. */
static void span(long size, long stride, long pad, long kernel, long dilation, long *before,
                 long *length) {
    long lowest = 0, last = 0, shift;
    for (long row = 0; row < least(stride, size); row++)
        for (long k = 0; k < kernel; k++)
            if (tap_shift(row, k, stride, pad, dilation, &shift)) {
                lowest = least(lowest, shift);
                last = most(last, div_up(size - row, stride) - 1 + shift);
            }
    *before = -lowest;
    *length = last - lowest + 1;
}

/* The filter that makes the input gradient of the incoming one. */
static int filter_backward(filter_t *f, const conv2d_args *a) {
    laid_t l = {.row = a->out_w, .step_y = 1, .step_x = 1};
    span(a->h, a->stride_h, a->pad_h, a->kernel_h, a->dilation_h, &l.top, &l.rows);
    span(a->w, a->stride_w, a->pad_w, a->kernel_w, a->dilation_w, &l.left, &l.pitch);
    l.height = least(a->out_h, l.rows - l.top);
    l.width = least(a->out_w, l.pitch - l.left);
    *f = (filter_t){l, a->stride_h, a->stride_w, a->h, a->w, .first = NULL};
    const long phases = f->step_y * f->step_x;
    long count = 0, y, x;
    if (filter_allocate(f, a->kernel_h * a->kernel_w)) return NO_MEMORY;
    for (long phase = 0; phase < phases; phase++) {
        const long row = phase / f->step_x, column = phase % f->step_x;
        const long kernel_h = row < a->h && column < a->w ? a->kernel_h : 0;
        for (long ky = 0; ky < kernel_h; ky++)
            for (long kx = 0; kx < a->kernel_w; kx++)
                if (tap_shift(row, ky, a->stride_h, a->pad_h, a->dilation_h, &y) &&
                    tap_shift(column, kx, a->stride_w, a->pad_w, a->dilation_w, &x))
                    add_tap(f, &count, (l.top + y) * l.pitch + l.left + x, ky * a->kernel_w + kx);
        end_phase(f, phase, &count);
    }
    return OK;
}

/* What a thread has of its own. */
typedef struct {
    int16_t *plane, *weight;
    int32_t *sums, *points;
} scratch_t;

static long phases_of(const filter_t *f) { return f->step_y * f->step_x; }

static int scratch_allocate(scratch_t *s, const filter_t *f) {
    const long taps = f->first[phases_of(f)];
    s->plane = allocate((size_t)laid_size(&f->laid) * 2);
    s->weight = allocate((size_t)(taps + 1) * 2);
    s->sums = allocate((size_t)(phases_of(f) * f->stride) * 4);
    s->points = allocate((size_t)(f->step_y * f->rows * f->width + LAID_SLACK) * 4);
    if (!s->plane || !s->weight || !s->sums || !s->points) return NO_MEMORY;
    memset(s->plane, 0, (size_t)laid_size(&f->laid) * 2);
    return OK;
}

static void scratch_free(const scratch_t *s) {
    free(s->plane);
    free(s->weight);
    free(s->sums);
    free(s->points);
}

/* A row of the result, of the sums of its phases. */
static void join_phases(const filter_t *f, const int32_t *sums, int32_t *to) {
    const long stride = f->stride, step = f->step_x, width = f->width;
    if (step == 1) { /* eight at a time: what is beyond the row the next one overwrites */
        for (long x = 0; x < width; x += 8) memcpy(to + x, sums + x, 8 * sizeof *to);
    } else if (step == 2) {
        const int32_t *odd = sums + stride;
        for (long x = 0; x < div_up(width, 2); x++) {
            to[2 * x] = sums[x];
            to[2 * x + 1] = odd[x];
        }
    } else {
        for (long x = 0; x < width; x++) to[x] = sums[x % step * stride + x / step];
    }
}

/* Rows first ... last - 1 of the result, `first` of the first phase. */
static void sum_band(const filter_t *f, const scratch_t *s, long first, long last) {
    const long pitch = f->laid.pitch, stride = f->stride;
    const long columns = div_up(f->width, f->step_x);
    const int16_t *from = s->plane + first / f->step_y * pitch;
    for (long phase = 0; phase < phases_of(f); phase++) {
        const long rows = div_up(last - first - phase / f->step_x, f->step_y), t = f->first[phase];
        if (rows > 0)
            level->tap_sums(s->sums + phase * stride, from, f->offset + t, s->weight + t,
                            f->first[phase + 1] - t, (rows - 1) * pitch + columns);
    }
    long y = first;
    for (const int32_t *sums = s->sums; y < last; sums += pitch)
        for (long row = 0; row < f->step_y && y < last; row++, y++)
            join_phases(f, sums + row * f->step_x * stride, s->points + (y - first) * f->width);
}

/* Point by point, for sums of any length and finishes of any kind. */
static void sum_points(const filter_t *f, const scratch_t *s, const finish_t *finish, float *out,
                       extent_t *seen) {
    for (long y = 0; y < f->height; y++)
        for (long x = 0; x < f->width; x++, out++) {
            const long phase = y % f->step_y * f->step_x + x % f->step_x;
            const int16_t *from = s->plane + y / f->step_y * f->laid.pitch + x / f->step_x;
            int64_t sum = 0;
            for (long t = f->first[phase]; t < f->first[phase + 1]; t++)
                sum += (int32_t)s->weight[t] * from[f->offset[t]];
            *out = finish_one(finish, sum, 0);
            extent_take(seen, 0, sum != 0, *out);
        }
}

static int16_t mantissa_at(const void *x, long i, int wide) {
    return wide ? ((const int16_t *)x)[i] : ((const int8_t *)x)[i];
}

/* A result of all planes of `from`, (images, channels, pixels). */
static int filter_planes(const filter_t *f, const conv2d_args *a, const void *from, long pixels,
                         const finish_t *finish, extent_t *seen) {
    const long planes = a->n * a->c, taps = a->kernel_h * a->kernel_w, band = f->step_y * f->rows;
    const int narrow = (double)a->largest * taps < 2147483648.0, wide = (int)a->wide;
    extent_t found = {{0}, {0}};
    int failed = 0;
#pragma omp parallel num_threads((int)a->threads) reduction(join : found) if (planes > 1)
    {
        scratch_t s;
        const int ready = !scratch_allocate(&s, f);
        if (!ready) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (long i = 0; i < planes; i++) {
            if (!ready) continue;
            const long channel = i % a->c;
            const finish_t *to = &finish[channel];
            float *out = a->out + i * f->height * f->width;
            level->lay_plane(&f->laid, (const char *)from + i * pixels * (wide ? 2 : 1), wide,
                             s.plane);
            for (long t = 0; t < f->first[phases_of(f)]; t++)
                s.weight[t] = f->place[t] < 0
                                  ? 0
                                  : mantissa_at(a->weight, channel * taps + f->place[t], wide);
            if (!narrow || !to->fast) {
                sum_points(f, &s, to, out, &found);
                continue;
            }
            for (long y = 0; y < f->height; y += band) {
                const long end = least(f->height, y + band);
                sum_band(f, &s, y, end);
                level->finish_sums(out + y * f->width, s.points, to->bias32[0], to->scale,
                                   (end - y) * f->width, &found);
            }
        }
        scratch_free(&s);
    }
    extent_join(seen, &found, 1);
    return failed ? NO_MEMORY : OK;
}

int depthwise(const conv2d_args *a, const finish_t *finish, extent_t *seen) {
    filter_t f;
    int status = filter_forward(&f, a);
    if (!status) status = filter_planes(&f, a, a->x, a->h * a->w, finish, seen);
    free(f.first);
    return status;
}

int depthwise_input_grad(const conv2d_args *a, const finish_t *finish, extent_t *seen) {
    filter_t f;
    int status = filter_backward(&f, a);
    if (!status) status = filter_planes(&f, a, a->grad, a->out_h * a->out_w, finish, seen);
    free(f.first);
    return status;
}

int depthwise_weight_grad(const conv2d_args *a) {
    const long taps = a->kernel_h * a->kernel_w, size = a->wide ? 2 : 1;
    const exponents_t exponents = EXPONENTS_OF(a, exponent);
    filter_t f;
    if (filter_forward(&f, a)) return NO_MEMORY;
    const laid_t *x = &f.laid;
    const laid_t grad = {.height = a->out_h,
                         .width = a->out_w,
                         .row = a->out_w,
                         .step_y = 1,
                         .step_x = 1,
                         .rows = a->out_h,
                         .pitch = x->pitch};
    const long length = (a->out_h - 1) * x->pitch + a->out_w;
    const long part = TAP_LANES * (long)(2147483647.0 / (2 * (double)a->largest));
    int failed = 0;
#pragma omp parallel num_threads((int)a->threads) if (a->c > 1)
    {
        int16_t *planes = allocate((size_t)(laid_size(x) + laid_size(&grad)) * 2);
        int64_t *sums = allocate((size_t)taps * 8);
        const int ready = planes && sums;
        if (ready) {
            memset(planes, 0, (size_t)(laid_size(x) + laid_size(&grad)) * 2);
        } else {
#pragma omp atomic write
            failed = 1;
        }
        int16_t *to = planes + laid_size(&grad);
#pragma omp for schedule(static)
        for (long c = 0; c < a->c; c++) {
            if (!ready) continue;
            memset(sums, 0, (size_t)taps * 8);
            for (long plane = c; plane < a->n * a->c; plane += a->c) {
                level->lay_plane(x, (const char *)a->x + plane * a->h * a->w * size, (int)a->wide,
                                 to);
                level->lay_plane(&grad, (const char *)a->grad + plane * a->out_h * a->out_w * size,
                                 (int)a->wide, planes);
                for (long q = 0; q < length; q += part)
                    level->tap_products(sums, planes + q, to + q, f.offset, taps,
                                        least(part, length - q));
            }
            for (long t = 0; t < taps; t++)
                a->out[c * taps + t] =
                    dequantize_one(sums[t], clamped_exponent(exponent_at(exponents, c)));
        }
        free(planes);
        free(sums);
    }
    free(f.first);
    return failed ? NO_MEMORY : OK;
}
