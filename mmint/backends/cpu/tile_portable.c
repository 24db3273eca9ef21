/* Tiles and packing in plain C. */
#include "extent.h"

static void tile(const int32_t *a, const int32_t *b, long groups, const int32_t *c_in,
                 int32_t *c_out, const results_t *to) {
    /* modulo 2**32: the true sums fit, partial ones of the cast need not */
    uint32_t c[TILE] = {0};
    const int16_t *pa = (const int16_t *)a, *pb = (const int16_t *)b;
    if (c_in) memcpy(c, c_in, sizeof c);
    for (long g = 0; g < groups; g++, pa += 2 * MR, pb += 2 * NR)
        for (int r = 0; r < MR; r++)
            for (int l = 0; l < NR; l++)
                c[NR * r + l] += (uint32_t)(pa[2 * r] * pb[2 * l]) +
                                 (uint32_t)(pa[2 * r + 1] * pb[2 * l + 1]);
    if (!to) {
        memcpy(c_out, c, sizeof c);
        return;
    }
    for (int r = 0; r < to->rows; r++)
        for (int l = 0; l < NR; l++) {
            const uint32_t sum = c[NR * r + l];
            const int32_t bias = to->row_bias ? to->row_bias[r] + to->lane_bias[l] : 0;
            const float made = (float)(int32_t)(sum + (uint32_t)bias) * to->scale;
            to->out[r * to->stride + l] = made;
            extent_take(to->seen, l, sum != 0, made);
        }
}

static void pack_rows(int16_t *dst, const void *const *rows, int lanes, long length, int wide) {
    for (long k = 0; k < (length + 1) / 2 * 2; k++)
        for (int l = 0; l < lanes; l++)
            dst[(k / 2 * lanes + l) * 2 + k % 2] =
                k >= length ? 0
                : wide      ? ((const int16_t *)rows[l])[k]
                            : ((const int8_t *)rows[l])[k];
}

static void pack_columns(int16_t *dst, const void *const *columns, long length, int lanes,
                         int count, int wide) {
    for (long k = 0; k < (length + 1) / 2 * 2; k++)
        for (int l = 0; l < lanes; l++)
            dst[(k / 2 * lanes + l) * 2 + k % 2] =
                k >= length || l >= count ? 0
                : wide                    ? ((const int16_t *)columns[k])[l]
                                          : ((const int8_t *)columns[k])[l];
}

const level_t portable_level = {"portable", tile, pack_rows, pack_columns, 0, 0};

#if MMINT_NEON
#include <arm_neon.h>

/* a: six pairs; b: sixteen pairs, split by the load into first and second members. */
static void tile_neon(const int32_t *a, const int32_t *b, long groups, const int32_t *c_in,
                      int32_t *c_out, const results_t *to) {
    int32x4_t c[MR][4];
    const int16_t *pa = (const int16_t *)a, *pb = (const int16_t *)b;
    for (int r = 0; r < MR; r++)
        for (int q = 0; q < 4; q++) c[r][q] = c_in ? vld1q_s32(c_in + NR * r + 4 * q) : vdupq_n_s32(0);
    for (long g = 0; g < groups; g++, pa += 2 * MR, pb += 2 * NR) {
        const int16x8x2_t low = vld2q_s16(pb), high = vld2q_s16(pb + 16);
#pragma GCC unroll 6
        for (int r = 0; r < MR; r++) {
            for (int i = 0; i < 2; i++) {
                const int16x4_t t = vdup_n_s16(pa[2 * r + i]);
                c[r][0] = vmlal_s16(c[r][0], vget_low_s16(low.val[i]), t);
                c[r][1] = vmlal_s16(c[r][1], vget_high_s16(low.val[i]), t);
                c[r][2] = vmlal_s16(c[r][2], vget_low_s16(high.val[i]), t);
                c[r][3] = vmlal_s16(c[r][3], vget_high_s16(high.val[i]), t);
            }
        }
    }
    if (!to) {
        for (int r = 0; r < MR; r++)
            for (int q = 0; q < 4; q++) vst1q_s32(c_out + NR * r + 4 * q, c[r][q]);
        return;
    }
    for (int q = 0; q < 4; q++) {
        uint32x4_t any = vld1q_u32(to->seen->any + 4 * q), top = vld1q_u32(to->seen->top + 4 * q);
        for (int r = 0; r < to->rows; r++) {
            any = vorrq_u32(any, vreinterpretq_u32_s32(c[r][q]));
            int32x4_t sum = c[r][q];
            if (to->row_bias) {
                sum = vaddq_s32(sum, vdupq_n_s32(to->row_bias[r]));
                sum = vaddq_s32(sum, vld1q_s32(to->lane_bias + 4 * q));
            }
            const float32x4_t made = vmulq_n_f32(vcvtq_f32_s32(sum), to->scale);
            vst1q_f32(to->out + r * to->stride + 4 * q, made);
            top = vmaxq_u32(top, vreinterpretq_u32_f32(vabsq_f32(made)));
        }
        vst1q_u32(to->seen->any + 4 * q, any);
        vst1q_u32(to->seen->top + 4 * q, top);
    }
}

const level_t neon_level = {"neon", tile_neon, pack_rows, pack_columns, 0, 0};
#endif
