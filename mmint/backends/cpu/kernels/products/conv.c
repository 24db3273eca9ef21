#include "arguments.h"
#include "depthwise.h"
#include "elements/mapping.h"
#include "memory.h"
#include "product.h"
#include "status.h"
#include "weight_grad.h"
#include "winograd.h"

enum { FEW_CHANNELS = 8 /* below: all taps of a pixel are packed as one */ };

static const long one_tap[1] = {0};

/* Does each channel of the result have an exponent, though it is not a group? */
static int each_channel(const conv2d_args *a) { return a->groups == 1 && a->exponent_step; }

/* How many finishes a result of so many channels has. */
static long finishes(const conv2d_args *a, long channels) {
    return each_channel(a) ? channels : a->groups;
}

/* The taps of the kernel: offsets (dy, dx) into the input, and into a filter (in bytes). */
typedef struct {
    long *dy, *dx, *filter, count;
    char *zeros;
} taps_t;

static int taps_allocate(taps_t *t, long count, long channels) {
    t->dy = malloc((size_t)(count + 1) * 3 * sizeof(long));
    t->zeros = calloc((size_t)channels + 64, 2);
    if (!t->dy || !t->zeros) return NO_MEMORY;
    t->dx = t->dy + count + 1;
    t->filter = t->dx + count + 1;
    t->count = 0;
    return OK;
}

static void taps_free(taps_t *t) {
    free(t->dy);
    free(t->zeros);
}

static void taps_forward(taps_t *t, const conv2d_args *a, long channels) {
    for (long ky = 0; ky < a->kernel_h; ky++)
        for (long kx = 0; kx < a->kernel_w; kx++, t->count++) {
            t->dy[t->count] = ky * a->dilation_h - a->pad_h;
            t->dx[t->count] = kx * a->dilation_w - a->pad_w;
            t->filter[t->count] = t->count * channels * (a->wide ? 2 : 1);
        }
}

/* Those taps that reach input row `row` and column `column` (each modulo the stride). */
static void taps_of_phase(taps_t *t, const conv2d_args *a, long row, long column, long channels) {
    t->count = 0;
    for (long ky = 0; ky < a->kernel_h; ky++)
        for (long kx = 0; kx < a->kernel_w; kx++) {
            const long y = row + a->pad_h - ky * a->dilation_h;
            const long x = column + a->pad_w - kx * a->dilation_w;
            if (y % a->stride_h || x % a->stride_w) continue;
            t->dy[t->count] = y / a->stride_h;
            t->dx[t->count] = x / a->stride_w;
            t->filter[t->count++] = (ky * a->kernel_w + kx) * channels * (a->wide ? 2 : 1);
        }
}

/* The input as pixels under the output's grid, for the `channels` channels of group `g`. */
static operand_t input_pixels(const conv2d_args *a, const taps_t *t, long g, long channels) {
    const long size = a->wide ? 2 : 1;
    operand_t x = {.kind = PIXELS, .wide = (int)a->wide, .zeros = t->zeros};
    x.base = (const char *)a->x + g * channels * size;
    x.lanes = a->n * a->out_h * a->out_w;
    x.taps = t->count;
    x.channels = channels;
    x.pixels = (pixels_t){.height = a->h, .width = a->w, .pixel_stride = a->c * size};
    x.pixels.image_stride = a->h * a->w * a->c * size;
    x.pixels.grid_h = a->out_h;
    x.pixels.grid_w = a->out_w;
    x.pixels.step_y = a->stride_h;
    x.pixels.step_x = a->stride_w;
    x.pixels.dy = t->dy;
    x.pixels.dx = t->dx;
    if (channels < FEW_CHANNELS && t->count > 1) {
        x.pixels.merged_taps = t->count;
        x.pixels.merged_channels = channels;
        x.pixels.run = a->dilation_w == 1 && a->groups == 1 ? a->kernel_w : 1;
        x.taps = 1;
        x.channels = t->count * channels;
    }
    return x;
}

/* Could it be a 3 x 3 convolution of stride 1, for winograd.h? */
static int is_3x3(const conv2d_args *a) {
    return a->kernel_h == 3 && a->kernel_w == 3 && a->stride_h == 1 && a->stride_w == 1 &&
           a->groups == 1 && !a->wide;
}

int64_t conv2d(const conv2d_args *a) {
    const long size = a->wide ? 2 : 1, channels = a->c / a->groups, rows = a->o / a->groups;
    const long depth = channels * a->kernel_h * a->kernel_w;
    int status;
    extent_t seen = {{0}, {0}};
    finish_t *finish = NULL;
    taps_t t;
    status = taps_allocate(&t, a->kernel_h * a->kernel_w, a->c);
    if (!status)
        status = finish_prepare(&finish, finishes(a, a->o), BIAS_OF(a), EXPONENTS_OF(a, exponent),
                                (double)a->largest * depth, a->o, 0);
    if (!status) taps_forward(&t, a, channels);
    const winograd_t fast = {.image = a->x,
                             .n = a->n,
                             .height = a->h,
                             .width = a->w,
                             .channels = a->c,
                             .weight = a->weight,
                             .rows = a->o,
                             .row_stride = 9 * a->c,
                             .tap_stride = a->c,
                             .pad_h = a->pad_h,
                             .pad_w = a->pad_w,
                             .dilation_h = a->dilation_h,
                             .dilation_w = a->dilation_w,
                             .finish = finish,
                             .out = a->out,
                             .out_h = a->out_h,
                             .out_w = a->out_w};
    if (!status && is_3x3(a) && winograd_pays(&fast) && winograd_fits(&fast)) {
        status = winograd(&fast, (int)a->threads, &seen);
    } else if (!status && a->depthwise) {
        status = depthwise(a, finish, &seen);
    } else {
        for (long g = 0; !status && g < a->groups; g++) {
            product_t p = {.b = input_pixels(a, &t, g, channels), .finish = &finish[g]};
            p.finish_step = each_channel(a);
            p.a = (operand_t){.kind = ROWS, .wide = (int)a->wide, .lanes = rows};
            p.a.base = (const char *)a->weight + g * rows * depth * size;
            p.a.lane_stride = depth * size;
            p.a.taps = p.b.taps;
            p.a.channels = p.b.channels;
            p.a.tap_offset = t.filter;
            p.largest = (double)a->largest;
            p.out = a->out + g * rows * a->out_h * a->out_w;
            p.images = a->n;
            p.grid_h = a->out_h;
            p.grid_w = a->out_w;
            p.image_stride = a->o * a->out_h * a->out_w;
            p.row_stride = a->out_h * a->out_w;
            p.step_y = a->out_w;
            p.step_x = 1;
            status = product(&p, (int)a->threads, &seen);
        }
    }
    taps_free(&t);
    free(finish);
    return status ? status : extent_result(&seen);
}

/* The input gradient of a 3 x 3 convolution is one too, of the transposed and turned filters. */
static int winograd_input_grad(const conv2d_args *a, const finish_t *finish, extent_t *seen,
                               int *done) {
    winograd_t fast = {.image = a->grad,
                       .n = a->n,
                       .height = a->out_h,
                       .width = a->out_w,
                       .channels = a->o,
                       .rows = a->c,
                       .row_stride = a->o,
                       .tap_stride = -a->c * a->o,
                       .pad_h = 2 * a->dilation_h - a->pad_h,
                       .pad_w = 2 * a->dilation_w - a->pad_w,
                       .dilation_h = a->dilation_h,
                       .dilation_w = a->dilation_w,
                       .finish = finish,
                       .out = a->out,
                       .out_h = a->h,
                       .out_w = a->w};
    int status = OK;
    if (!winograd_pays(&fast)) return OK;
    int8_t *turned = allocate((size_t)(9 * a->o * a->c));
    if (!turned) return NO_MEMORY;
    channels_last(a->weight, turned, 1, a->o, 9 * a->c, (int)a->threads);
    fast.weight = turned + 8 * a->c * a->o;
    *done = winograd_fits(&fast);
    if (*done) status = winograd(&fast, (int)a->threads, seen);
    free(turned);
    return status;
}

int64_t conv2d_input_grad(const conv2d_args *a) {
    const long size = a->wide ? 2 : 1, rows = a->c / a->groups, channels = a->o / a->groups;
    const long taps = a->kernel_h * a->kernel_w, filter = rows * taps * size;
    int status;
    extent_t seen = {{0}, {0}};
    finish_t *finish = NULL;
    taps_t t;
    status = taps_allocate(&t, taps, a->o);
    if (!status)
        status = finish_prepare(&finish, finishes(a, a->c), BIAS_OF(a), EXPONENTS_OF(a, exponent),
                                (double)a->largest * channels * taps, a->c, 0);
    int done = a->depthwise;
    if (!status && a->depthwise)
        status = depthwise_input_grad(a, finish, &seen);
    else if (!status && is_3x3(a))
        status = winograd_input_grad(a, finish, &seen, &done);
    const long phases = done ? 0 : a->stride_h * a->stride_w;
    for (long phase = 0; !status && phase < phases; phase++) {
        const long row = phase / a->stride_w, column = phase % a->stride_w;
        if (row >= a->h || column >= a->w) continue;
        taps_of_phase(&t, a, row, column, rows);
        operand_t grad = {.kind = PIXELS, .wide = (int)a->wide, .zeros = t.zeros};
        grad.taps = t.count;
        grad.pixels = (pixels_t){.height = a->out_h, .width = a->out_w, .step_y = 1, .step_x = 1};
        grad.pixels.pixel_stride = a->o * size;
        grad.pixels.image_stride = a->out_h * a->out_w * a->o * size;
        grad.pixels.grid_h = div_up(a->h - row, a->stride_h);
        grad.pixels.grid_w = div_up(a->w - column, a->stride_w);
        grad.pixels.dy = t.dy;
        grad.pixels.dx = t.dx;
        grad.lanes = a->n * grad.pixels.grid_h * grad.pixels.grid_w;
        float *out = a->out + row * a->w + column;
        for (long g = 0; !status && g < a->groups; g++) {
            product_t p = {.b = grad, .finish = &finish[g], .largest = (double)a->largest};
            p.finish_step = each_channel(a);
            p.b.base = (const char *)a->grad + g * channels * size;
            p.b.channels = channels;
            p.a = (operand_t){.kind = COLUMNS, .wide = (int)a->wide, .lanes = rows};
            p.a.base = (const char *)a->weight + g * channels * filter;
            p.a.channel_stride = filter;
            p.a.taps = t.count;
            p.a.channels = channels;
            p.a.tap_offset = t.filter;
            p.out = out + g * rows * a->h * a->w;
            p.images = a->n;
            p.grid_h = grad.pixels.grid_h;
            p.grid_w = grad.pixels.grid_w;
            p.image_stride = a->c * a->h * a->w;
            p.row_stride = a->h * a->w;
            p.step_y = a->stride_h * a->w;
            p.step_x = a->stride_w;
            status = product(&p, (int)a->threads, &seen);
        }
    }
    taps_free(&t);
    free(finish);
    return status ? status : extent_result(&seen);
}

int64_t conv2d_weight_grad(const conv2d_args *a) {
    const long size = a->wide ? 2 : 1, channels = a->c / a->groups, rows = a->o / a->groups;
    const long taps = a->kernel_h * a->kernel_w;
    const exponents_t exponents = EXPONENTS_OF(a, exponent);
    taps_t t;
    int status = taps_allocate(&t, taps, a->c);
    const winograd_grad_t fast = {.image = a->x,
                                  .grad = a->grad,
                                  .n = a->n,
                                  .height = a->h,
                                  .width = a->w,
                                  .channels = a->c,
                                  .rows = a->o,
                                  .pad_h = a->pad_h,
                                  .pad_w = a->pad_w,
                                  .dilation_h = a->dilation_h,
                                  .dilation_w = a->dilation_w,
                                  .exponent = clamped_exponent(exponent_at(exponents, 0)),
                                  .out = a->out,
                                  .out_h = a->out_h,
                                  .out_w = a->out_w};
    if (!status) taps_forward(&t, a, channels);
    if (!status && a->depthwise) {
        status = depthwise_weight_grad(a);
    } else if (!status && is_3x3(a) && winograd_grad_pays(&fast)) {
        status = winograd_grad(&fast, (int)a->threads);
    } else {
        for (long g = 0; !status && g < a->groups; g++) {
            weight_grad_t p = {.x = input_pixels(a, &t, g, channels)};
            p.grad = (operand_t){.kind = COLUMNS, .wide = (int)a->wide, .lanes = rows, .taps = 1};
            p.grad.base = (const char *)a->grad + g * rows * size;
            p.grad.channels = p.x.lanes;
            p.grad.channel_stride = a->o * size;
            p.grad.tap_offset = one_tap;
            p.largest = (double)a->largest;
            p.exponent = clamped_exponent(exponent_at(exponents, g));
            p.out = a->out + g * rows * channels * taps;
            status = weight_grad(&p, (int)a->threads);
        }
    }
    taps_free(&t);
    return status;
}

static operand_t matrix(const void *base, int wide, long lanes, long depth, long lane_stride,
                        long depth_stride) {
    const long size = wide ? 2 : 1;
    operand_t o = {.base = base, .wide = wide, .lanes = lanes, .channels = depth};
    o.kind = depth_stride == 1 || depth <= 1 ? ROWS : COLUMNS;
    o.lane_stride = lane_stride * size;
    o.channel_stride = depth_stride * size;
    o.taps = 1;
    o.tap_offset = one_tap;
    return o;
}

int64_t matmul(const matmul_args *a) {
    extent_t seen = {{0}, {0}};
    finish_t *finish = NULL;
    const long groups = a->exponent_step ? (a->each_column ? a->n : a->batch) : 1;
    int status = finish_prepare(&finish, groups, BIAS_OF(a), EXPONENTS_OF(a, exponent),
                                (double)a->largest * a->k, groups > 1 ? groups : a->n, 1);
    if (!status) {
        product_t p = {.finish = finish,
                       .finish_step = a->each_column,
                       .largest = (double)a->largest,
                       .images = 1,
                       .grid_h = 1};
        p.a = matrix(a->a, (int)a->wide, a->m, a->k, a->a_row, a->a_column);
        p.b = matrix(a->b, (int)a->wide, a->n, a->k, a->b_column, a->b_row);
        p.out = a->out;
        p.grid_w = a->n;
        p.row_stride = a->n;
        p.step_x = 1;
        const long size = a->wide ? 2 : 1;
        const batch_t batch = {a->batch, a->a_batch * size, a->b_batch * size, a->m * a->n,
                               a->each_column ? 0 : a->exponent_step};
        status = product_batch(&p, &batch, (int)a->threads, &seen);
    }
    free(finish);
    return status ? status : extent_result(&seen);
}
