/* Layer norm bit for bit as reference/norms, row by row while a row is in the cache.
 *
 * For int8 mantissas |a * X + b| < 2**30, the normalised elements are int16, times the weight below
 * 2**30 and with the bias below 2**31. Backward, |p * t + q * X + r| < 2**46, which doubles carry exactly, so
 * that their conversion to float32 is the only rounding; terms are below 2**45. For 16 bits the
 * same is done in int64. */
#include "layer_norm.h"

#include "levels/level.h"
#include "mapping.h"
#include "memory.h"
#include "status.h"

enum { CHUNK = 1 << 15 };

static int map_weight(const float *x, long size, int16_t *out, int *exponent, int threads) {
    const uint32_t top = top_magnitude(x, size, threads);
    if (!is_finite(top)) return NOT_FINITE;
    *exponent = exponent_of(top, LAYER_WEIGHT_BITS);
    round_all(x, out, size, *exponent, 1, NULL, threads);
    return OK;
}

/* The bias at the exponent of the sum. */
static int map_bias(const layer_norm_args *a, const int16_t *weight, int product_exponent,
                    int32_t *bias, affine_t *affine) {
    const uint32_t top = top_magnitude(a->bias, a->size, (int)a->threads);
    int any_weight = 0;
    if (!is_finite(top)) return NOT_FINITE;
    for (long i = 0; i < a->size && !any_weight; i++) any_weight = weight[i] != 0;
    const int exponent = affine_exponent(any_weight, product_exponent, top);
    for (long i = 0; i < a->size; i++)
        bias[i] = (int32_t)quantize_one(pattern_of(a->bias[i]), exponent, false, 0);
    *affine = (affine_t){weight, bias, most(0, exponent - product_exponent), exponent};
    return OK;
}

int64_t layer_norm(const layer_norm_args *a) {
    int16_t *weight = allocate(sizeof *weight * (size_t)a->size);
    int32_t *bias = allocate(sizeof *bias * (size_t)a->size);
    forward_t f = {.a = a, .normalised_exponent = normalised_exponent(a->size), .eps = EPS_OF(a)};
    uint32_t top = 0;
    int exponent = 0, status = weight && bias ? OK : NO_MEMORY;
    if (!status) status = map_weight(a->weight, a->size, weight, &exponent, (int)a->threads);
    if (!status) status = map_bias(a, weight, exponent + f.normalised_exponent, bias, &f.affine);
    if (!status) {
        int failed = 0;
#pragma omp parallel num_threads((int)a->threads) \
    reduction(max : top, failed) if (a->rows * a->size > CHUNK)
        {
            int16_t *scratch = allocate(sizeof *scratch * (size_t)a->size);
            failed = !scratch;
#pragma omp for
            for (long row = 0; row < a->rows; row++) {
                const uint32_t t = scratch ? level->layer_norm(&f, row, scratch) : 0;
                top = t > top ? t : top;
            }
            free(scratch);
        }
        if (failed) status = NO_MEMORY;
    }
    free(weight);
    free(bias);
    return status ? (int64_t)status : (int64_t)top;
}

int64_t layer_norm_grad(const layer_norm_grad_args *a) {
    const size_t size = (size_t)a->size;
    int16_t *weight = allocate(sizeof *weight * size);
    int64_t *total = calloc(2 * size + 1, sizeof *total);
    backward_t b = {.a = a,
                    .weight = weight,
                    .normalised_exponent = normalised_exponent(a->size),
                    .eps = EPS_OF(a)};
    uint32_t top = 0;
    int status = weight && total ? OK : NO_MEMORY;
    if (!status)
        status = map_weight(a->weight, a->size, weight, &b.weight_exponent, (int)a->threads);
    if (!status) {
        int failed = 0;
#pragma omp parallel num_threads((int)a->threads) \
    reduction(max : top, failed) if (a->rows * a->size > CHUNK)
        {
            int16_t *scratch = allocate(sizeof *scratch * size);
            gradients_t mine = {calloc(2 * size, sizeof(int64_t)),
                                calloc(2 * size, sizeof(int32_t)), a->size, 0};
            failed = !scratch || !mine.total || !mine.recent;
#pragma omp for
            for (long row = 0; row < a->rows; row++) {
                if (failed) continue;
                const uint32_t t = level->layer_norm_grad(&b, row, scratch, &mine);
                top = t > top ? t : top;
            }
            if (!failed) settle(&mine);
#pragma omp critical
            for (size_t i = 0; !failed && i < 2 * size; i++) total[i] += mine.total[i];
            free(scratch);
            free(mine.total);
            free(mine.recent);
        }
        if (failed) status = NO_MEMORY;
    }
    if (!status) {
        dequantize_some(total, a->dweight, a->size, 8, a->grad_exponent + b.normalised_exponent);
        dequantize_some(total + size, a->dbias, a->size, 8, a->grad_exponent);
    }
    free(weight);
    free(total);
    return status ? (int64_t)status : (int64_t)top;
}
