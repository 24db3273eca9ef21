/* 64-bit Arm: the tile. */
#include "level.h"
#include "machine.h"

#if MMINT_NEON
#include <arm_neon.h>

#include "products/tile.h"

/* a: six pairs; b: sixteen pairs, split by the load into first and second members. */
static void tile_neon(const int32_t *a, const int32_t *b, long groups, const int32_t *c_in,
                      int32_t *c_out, const results_t *to) {
    int32x4_t c[MR][4];
    const int16_t *pa = (const int16_t *)a, *pb = (const int16_t *)b;
    for (int r = 0; r < MR; r++)
        for (int q = 0; q < 4; q++)
            c[r][q] = c_in ? vld1q_s32(c_in + NR * r + 4 * q) : vdupq_n_s32(0);
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
            const float32x4_t scale =
                vmulq_n_f32(vld1q_f32(to->lane_scale + 4 * q), to->row_scale[r]);
            const float32x4_t made = vmulq_f32(vcvtq_f32_s32(sum), scale);
            vst1q_f32(to->out + r * to->stride + 4 * q, made);
            top = vmaxq_u32(top, vreinterpretq_u32_f32(vabsq_f32(made)));
        }
        vst1q_u32(to->seen->any + 4 * q, any);
        vst1q_u32(to->seen->top + 4 * q, top);
    }
}

void fill_neon(level_t *t) {
    t->name = "neon";
    t->pairs.tile = t->bytes.tile = tile_neon;
}
#endif
