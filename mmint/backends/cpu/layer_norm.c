/* Layer norm bit for bit as reference/norm.py, row by row while a row is in the cache.
 *
 * For int8 mantissas |a * X + b| < 2**31, the normalised elements are int16, times the weight and
 * with the bias below 2**31. Backward, |p * t + q * X + r| < 2**46, which doubles carry exactly, so
 * that their conversion to float32 is the only rounding; terms are below 2**45. For 16 bits the
 * same is done in int64. */
#include "arithmetic/layer_norm.h"
#include "mapping.h"
#include "norm.h"
#include "planes.h"
#include "x86.h"

enum { CHUNK = 1 << 15 };

/* ---- one row ---- */

/* integer / 2**shift, 0 <= shift < the width of U, to nearest even, as a magnitude */
#define SHIFTED_EVEN(U, magnitude, shift, up, odd) \
    (((magnitude) + (up) + ((magnitude) >> (shift) & (odd))) >> (shift))

#define NORMALISE(name, X, S, U)                                                 \
    INLINE void name(const X *restrict x, int16_t *restrict out, long n,         \
                     const coefficients_t *c, long shift) {                      \
        const U p = (U)c->p, r = (U)c->r, most = (1 << NORMALISED_BITS) - 1;     \
        const U odd = shift > 0, up = shift > 0 ? ((U)1 << (shift - 1)) - 1 : 0; \
        for (long i = 0; i < n; i++) {                                           \
            const S total = (S)(p * (U)x[i] + r);                                \
            const U magnitude = total < 0 ? 0 - (U)total : (U)total;             \
            const U rounded = SHIFTED_EVEN(U, magnitude, shift, up, odd);        \
            const U kept = rounded < most ? rounded : most;                      \
            out[i] = (int16_t)(total < 0 ? 0 - kept : kept);                     \
        }                                                                        \
    }
NORMALISE(normalise8, int8_t, int32_t, uint32_t)
NORMALISE(normalise16, int16_t, int64_t, uint64_t)

INLINE void normalise_body(const void *x, int16_t *out, long n, const coefficients_t *c,
                           int exponent, int wide) {
    const long shift = most(0, exponent - c->exponent);
    if (shift > (wide ? 63 : 31))
        memset(out, 0, sizeof *out * (size_t)n);
    else if (wide)
        normalise16(x, out, n, c, shift);
    else
        normalise8(x, out, n, c, shift);
}

typedef struct {
    const int16_t *weight;
    const int32_t *bias;
    long shift; /* by which the product goes right */
    int exponent; /* of the sum */
} affine_t;

INLINE int32_t affine_one(int32_t product, int32_t bias, long shift, uint32_t up, uint32_t odd) {
    const uint32_t magnitude = product < 0 ? 0 - (uint32_t)product : (uint32_t)product;
    const int32_t rounded = (int32_t)SHIFTED_EVEN(uint32_t, magnitude, shift, up, odd);
    return (product < 0 ? -rounded : rounded) + bias;
}

INLINE uint32_t affine_body(const int16_t *restrict x, float *restrict out, long n,
                            const affine_t *a) {
    const int16_t *weight = a->weight;
    const int32_t *bias = a->bias;
    const long shift = least(31, a->shift);
    const uint32_t odd = shift > 0, up = shift > 0 ? (1u << (shift - 1)) - 1 : 0;
    uint32_t top = 0;
    if (scale_is_exact(a->exponent, SCALED_INT32)) {
        const float scale = scale_of(a->exponent);
        for (long i = 0; i < n; i++) {
            out[i] = (float)affine_one(x[i] * weight[i], bias[i], shift, up, odd) * scale;
            top = take(out[i], top);
        }
    } else {
        for (long i = 0; i < n; i++) {
            const int32_t total = affine_one(x[i] * weight[i], bias[i], shift, up, odd);
            out[i] = dequantize_one(total, a->exponent);
            top = take(out[i], top);
        }
    }
    return top;
}

/* Adds the sums of t = weight * g and of t * x; from element `first` on. */
INLINE void product_sums_body(const void *grad, const void *x, const int16_t *weight, long first,
                              long n, int64_t *sum, int wide) {
    for (long i = first; i < n; i++) {
        const int32_t g = wide ? ((const int16_t *)grad)[i] : ((const int8_t *)grad)[i];
        const int64_t v = wide ? ((const int16_t *)x)[i] : ((const int8_t *)x)[i];
        sum[0] += weight[i] * g;
        sum[1] += weight[i] * g * v;
    }
}

#if MMINT_X86
TARGET_AVX2 INLINE __m256i add_widened_avx2(__m256i sum, __m256i v) {
    const __m256i low = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(v));
    const __m256i high = _mm256_cvtepi32_epi64(_mm256_extracti128_si256(v, 1));
    return _mm256_add_epi64(sum, _mm256_add_epi64(low, high));
}

/* g * x is int16, and two of its products with weights are below 2**31. */
TARGET_AVX2 static void product_sums8_avx2(const int8_t *grad, const int8_t *x,
                                           const int16_t *weight, long n, int64_t *sum) {
    __m256i plain = _mm256_setzero_si256(), product = plain;
    long i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m256i g = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(grad + i)));
        const __m256i v = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(x + i)));
        const __m256i w = LOAD(weight + i), gv = _mm256_mullo_epi16(g, v);
        plain = add_widened_avx2(plain, _mm256_madd_epi16(w, g));
        product = add_widened_avx2(product, _mm256_madd_epi16(w, gv));
    }
    int64_t lanes[2][4];
    STORE(lanes[0], plain);
    STORE(lanes[1], product);
    for (int k = 0; k < 2; k++)
        for (int l = 0; l < 4; l++) sum[k] += lanes[k][l];
    product_sums_body(grad, x, weight, i, n, sum, 0);
}
#endif

INLINE uint32_t input_grad_body(const void *grad, const void *x, const int16_t *restrict weight,
                                float *restrict out, long n, const coefficients_t *c, int wide) {
    const int8_t *restrict g8 = grad, *restrict x8 = x;
    const int16_t *restrict g16 = grad, *restrict x16 = x;
    const scale_t scale = scale_at((int)c->exponent);
    uint32_t top = 0;
    if (scale.factor != 0.0f && !wide) {
        const double p = (double)c->p, q = (double)c->q, r = (double)c->r;
        for (long i = 0; i < n; i++) {
            out[i] = (float)(p * (weight[i] * g8[i]) + q * x8[i] + r) * scale.factor;
            top = take(out[i], top);
        }
        return top;
    }
    for (long i = 0; i < n; i++) {
        const int64_t t = weight[i] * (wide ? g16[i] : g8[i]), v = wide ? x16[i] : x8[i];
        out[i] = scaled_int64(c->p * t + c->q * v + c->r, scale);
        top = take(out[i], top);
    }
    return top;
}

/* The parameters' gradients of one thread: sums of grad times the normalised rows, and of grad,
 * each of `size`. Those of int8 gradients are taken in int32 over 2**8 rows (2**7 * 2**15 * 2**8 is
 * below 2**31). */
typedef struct {
    int64_t *total;
    int32_t *recent;
    long size, rows;
} gradients_t;

enum { RECENT_ROWS = 1 << 8 };

static void settle(gradients_t *sums) {
    for (long i = 0; i < 2 * sums->size; i++) sums->total[i] += sums->recent[i];
    memset(sums->recent, 0, sizeof *sums->recent * (size_t)(2 * sums->size));
    sums->rows = 0;
}

INLINE void accumulate_body(const void *grad, const int16_t *restrict normalised,
                            gradients_t *sums, int wide) {
    const long n = sums->size;
    if (wide) {
        int64_t *restrict dweight = sums->total, *restrict dbias = dweight + n;
        for (long i = 0; i < n; i++) {
            dweight[i] += ((const int16_t *)grad)[i] * normalised[i];
            dbias[i] += ((const int16_t *)grad)[i];
        }
        return;
    }
    int32_t *restrict dweight = sums->recent, *restrict dbias = dweight + n;
    for (long i = 0; i < n; i++) {
        dweight[i] += ((const int8_t *)grad)[i] * normalised[i];
        dbias[i] += ((const int8_t *)grad)[i];
    }
    if (++sums->rows == RECENT_ROWS) settle(sums);
}

/* ---- a row of each kernel, in the forms there are ---- */

typedef struct {
    const layer_norm_args *a;
    affine_t affine;
    int normalised_exponent;
    wide_t eps;
} forward_t;

typedef struct {
    const layer_norm_grad_args *a;
    const int16_t *weight;
    int weight_exponent, normalised_exponent;
    wide_t eps;
} backward_t;

INLINE uint32_t forward_body(const forward_t *f, long row, int16_t *scratch, int wide) {
    const layer_norm_args *a = f->a;
    const char *x = (const char *)a->x + (wide ? 2 : 1) * row * a->size;
    int64_t *sums = (int64_t *)a->sums, sum[2] = {0, 0};
    sum_run(x, x, a->size, wide, sum);
    sums[row] = sum[0];
    sums[a->rows + row] = sum[1];
    const int exponent = (int)a->exponent;
    const spread_t spread = spread_of(sum[0], sum[1], a->size, exponent, f->eps);
    const coefficients_t c = normalising(spread, sum[0], a->size, exponent, (int)a->bits);
    normalise_body(x, scratch, a->size, &c, f->normalised_exponent, wide);
    return affine_body(scratch, (float *)a->out + row * a->size, a->size, &f->affine);
}

INLINE uint32_t backward_body(const backward_t *b, long row, int16_t *scratch, gradients_t *sums,
                              int wide, int avx2) {
    const layer_norm_grad_args *a = b->a;
    const long size = a->size, bytes = (wide ? 2 : 1) * row * size;
    const char *grad = (const char *)a->grad + bytes, *x = (const char *)a->x + bytes;
    const int64_t s1 = ((const int64_t *)a->sums)[row];
    const int64_t s2 = ((const int64_t *)a->sums)[a->rows + row];
    int64_t products[2] = {0, 0};
    const int exponent = (int)a->exponent, bits = (int)a->bits;
    const spread_t spread = spread_of(s1, s2, size, exponent, b->eps);
    coefficients_t c =
        scale_in_place(shifted(spread.rstd, (int)a->grad_exponent + b->weight_exponent));
#if MMINT_X86
    if (avx2 && !wide)
        product_sums8_avx2((const int8_t *)grad, (const int8_t *)x, b->weight, size, products);
    else
#endif
        product_sums_body(grad, x, b->weight, 0, size, products, wide);
    backward_coefficients(&c, 1, spread.rstd, s1, &products[0], &products[1], size,
                          layer_wider((int)a->grad_bits, bits), exponent);
    const uint32_t top =
        input_grad_body(grad, x, b->weight, (float *)a->out + row * size, size, &c, wide);
    c = normalising(spread, s1, size, exponent, bits);
    normalise_body(x, scratch, size, &c, b->normalised_exponent, wide);
    accumulate_body(grad, scratch, sums, wide);
    (void)avx2;
    return top;
}

#define FORMS(suffix, target, avx2)                                                              \
    target static uint32_t forward##suffix(const forward_t *f, long row, int16_t *scratch) {     \
        return f->a->wide ? forward_body(f, row, scratch, 1) : forward_body(f, row, scratch, 0); \
    }                                                                                            \
    target static uint32_t backward##suffix(const backward_t *b, long row, int16_t *scratch,     \
                                            gradients_t *sums) {                                 \
        return b->a->wide ? backward_body(b, row, scratch, sums, 1, avx2)                        \
                          : backward_body(b, row, scratch, sums, 0, avx2);                       \
    }
FORMS(, , 0)
#if MMINT_X86
FORMS(_avx2, TARGET_AVX2, 1)
#define FORM(name) (level->avx2 ? name##_avx2 : name)
#else
#define FORM(name) (name)
#endif

/* ---- all rows ---- */

static int map_weight(int64_t weight, long size, int16_t *out, int *exponent, int threads) {
    const float *x = (const float *)weight;
    const uint32_t top = top_magnitude(x, size, threads);
    if (!is_finite(top)) return NOT_FINITE;
    *exponent = exponent_of(top, LAYER_WEIGHT_BITS);
    round_all(x, out, size, *exponent, 1, NULL, threads);
    return OK;
}

/* The bias at the exponent of the sum. */
static int map_bias(const layer_norm_args *a, const int16_t *weight, int product_exponent,
                    int32_t *bias, affine_t *affine) {
    const uint32_t *x = (const uint32_t *)a->bias;
    const uint32_t top = top_magnitude((const float *)x, a->size, (int)a->threads);
    int any_weight = 0;
    if (!is_finite(top)) return NOT_FINITE;
    for (long i = 0; i < a->size && !any_weight; i++) any_weight = weight[i] != 0;
    const int exponent = affine_exponent(any_weight, product_exponent, top);
    for (long i = 0; i < a->size; i++) bias[i] = (int32_t)quantize_one(x[i], exponent, false, 0);
    *affine = (affine_t){weight, bias, most(0, exponent - product_exponent), exponent};
    return OK;
}

int64_t layer_norm(const layer_norm_args *a) {
    int16_t *weight = allocate(sizeof *weight * (size_t)a->size);
    int32_t *bias = allocate(sizeof *bias * (size_t)a->size);
    forward_t f = {.a = a,
                   .normalised_exponent = normalised_exponent(a->size),
                   .eps = wide_of(a->eps[0], (int)a->eps[1])};
    uint32_t top = 0;
    int exponent = 0, status = weight && bias ? OK : NO_MEMORY;
    if (!status) status = map_weight(a->weight, a->size, weight, &exponent, (int)a->threads);
    if (!status) status = map_bias(a, weight, exponent + f.normalised_exponent, bias, &f.affine);
    if (!status) {
        int failed = 0;
#pragma omp parallel num_threads((int)a->threads) reduction(max : top, failed) \
    if (a->rows * a->size > CHUNK)
        {
            int16_t *scratch = allocate(sizeof *scratch * (size_t)a->size);
            failed = !scratch;
#pragma omp for
            for (long row = 0; row < a->rows; row++) {
                const uint32_t t = scratch ? FORM(forward)(&f, row, scratch) : 0;
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
                    .eps = wide_of(a->eps[0], (int)a->eps[1])};
    uint32_t top = 0;
    int status = weight && total ? OK : NO_MEMORY;
    if (!status)
        status = map_weight(a->weight, a->size, weight, &b.weight_exponent, (int)a->threads);
    if (!status) {
        int failed = 0;
#pragma omp parallel num_threads((int)a->threads) reduction(max : top, failed) \
    if (a->rows * a->size > CHUNK)
        {
            int16_t *scratch = allocate(sizeof *scratch * size);
            gradients_t mine = {calloc(2 * size, sizeof(int64_t)),
                                calloc(2 * size, sizeof(int32_t)), a->size, 0};
            failed = !scratch || !mine.total || !mine.recent;
#pragma omp for
            for (long row = 0; row < a->rows; row++) {
                if (failed) continue;
                const uint32_t t = FORM(backward)(&b, row, scratch, &mine);
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
        dequantize_some(total, (float *)a->dweight, a->size, 8,
                        a->grad_exponent + b.normalised_exponent);
        dequantize_some(total + size, (float *)a->dbias, a->size, 8, a->grad_exponent);
    }
    free(weight);
    free(total);
    return status ? (int64_t)status : (int64_t)top;
}
