/* Plain C for any machine. */
#include "level.h"
#include "portable_packing.h"
#include "elements/addition_loops.h"
#include "elements/activation_loops.h"
#include "elements/interpolation_loops.h"
#include "elements/layer_norm_loops.h"
#include "elements/mapping_loops.h"
#include "elements/planes_loops.h"
#include "elements/pooling_loops.h"
#include "elements/source_loops.h"
#include "elements/sgd_loops.h"
#include "products/depthwise_loops.h"
#include "products/tile.h"
#include "products/winograd_grad_loops.h"
#include "products/winograd_loops.h"

/* ---- the pieces that each level writes itself ---- */

static void sums8(const int8_t *a, const int8_t *b, long n, int64_t *sum) {
    sums8_loop(a, b, n, sum);
}

static void product_sums8(const int8_t *grad, const int8_t *x, const int16_t *weight, long n,
                          int64_t *sum) {
    product_sums_rest(grad, x, weight, 0, n, sum, 0);
}

static inline void pack_points(int32_t *to, long point_stride, int width, int first, long groups,
                               winograd_points_t *made) {
    for (int point = 0; point < POINTS; point++, to += point_stride) {
        int32_t from[64];
        memcpy(from, made->point[point], sizeof from);
        for (long g = 0; g < groups; g++)
            for (int l = 0; l < least(8, width - first); l++)
                to[g * width + first + l] = from[8 * l + g];
    }
}

static inline void stage(float (*made)[16], const f8 *f) {
    for (int i = 0; i < 16; i++)
        for (int l = 0; l < 8; l++) made[l][i] = f[i][l];
}

/* ---- tiles ---- */

static void tile_portable(const int32_t *a, const int32_t *b, long groups, const int32_t *c_in,
                          int32_t *c_out, const results_t *to) {
    /* modulo 2**32: the true sums fit, partial ones of the cast need not */
    uint32_t c[TILE] = {0};
    const int16_t *pa = (const int16_t *)a, *pb = (const int16_t *)b;
    if (c_in) memcpy(c, c_in, sizeof c);
    for (long g = 0; g < groups; g++, pa += 2 * MR, pb += 2 * NR)
        for (int r = 0; r < MR; r++)
            for (int l = 0; l < NR; l++)
                c[NR * r + l] +=
                    (uint32_t)(pa[2 * r] * pb[2 * l]) + (uint32_t)(pa[2 * r + 1] * pb[2 * l + 1]);
    if (!to) {
        memcpy(c_out, c, sizeof c);
        return;
    }
    for (int r = 0; r < to->rows; r++)
        for (int l = 0; l < NR; l++) {
            const uint32_t sum = c[NR * r + l];
            const int32_t bias = to->row_bias ? to->row_bias[r] + to->lane_bias[l] : 0;
            const float made =
                (float)(int32_t)(sum + (uint32_t)bias) * (to->row_scale[r] * to->lane_scale[l]);
            to->out[r * to->stride + l] = made;
            extent_take(to->seen, l, sum != 0, made);
        }
}

void fill_portable(level_t *t) {
    const form_t pairs = {.rows = MR,
                          .depth = 2,
                          .tile = tile_portable,
                          .pack_rows = pack_rows_loop,
                          .pack_columns = pack_columns_loop};
    *t = (level_t){
        .name = "portable",
        .pairs = pairs,
        .bytes = pairs,
        .lay_plane = lay_plane_loop,
        .tap_sums = tap_sums_loop,
        .tap_products = tap_products_loop,
        .finish_sums = finish_sums_loop,
        .winograd_filters = winograd_filters_loop,
        .winograd_inputs = winograd_inputs_loop,
        .winograd_outputs = winograd_outputs_loop,
        .winograd_grad_transform = winograd_grad_transform_loop,
        .winograd_grad_output = winograd_grad_output_loop,
        .top = top_loop,
        .raise = raise_loop,
        .round = round_loop,
        .transpose = transpose_loop,
        .add = add_loop,
        .relu = relu_loop,
        .relu_grad = relu_grad_loop,
        .sums8 = sums8_loop,
        .combine8 = combine8_loop,
        .extremes8 = extremes8_loop,
        .cut = cut_loop,
        .layer_norm = layer_norm_loop,
        .layer_norm_grad = layer_norm_grad_loop,
        .average = average_loop,
        .average_grad = average_grad_loop,
        .interpolate = interpolate_loop,
        .interpolate_grad = interpolate_grad_loop,
        .sgd = sgd_loop,
    };
}
