/* Batch and group norm in integers: reference/norms.
 *
 * Mantissas are channels-last, (images, pixels, channels), results contiguous, (images, channels,
 * pixels). Three steps: exact sums of each plane; once a group, one thread makes coefficients of
 * them; `combine` applies these, through tiles in shared memory, since its reads run along channels
 * and its writes along pixels. A combination of 8-bit mantissas stays below 2**31, though not the
 * terms it is made of: int32 modulo 2**32 gives it; 16-bit mantissas do the same in int64.
 *
 * Element `at` of sums' groups with `members` planes each is plane at of all images, in the order
 * (image, channel); batch norm has one image there and groups of one member.
 *
 * A parameter that is not finite makes coefficients of zero, and its call's number goes to the
 * device's flag. */
#include "arithmetic/source.h"
#include "reduce.cuh"
#include "statistics.cuh"

enum { THREADS = 256, TILE_CHANNELS = 32, TILE_PIXELS = 128, PART_PIXELS = 256 };

/* ---- sums ---- */

/* Adds the sums of `a` and of a * b, (2, images, channels), to `out`; `joined`: (2, channels). */
template <typename T>
__device__ void plane_sums(const T *a, const T *b, int64_t *out, int64_t images, int64_t pixels,
                           int64_t channels, int64_t joined) {
    enum { ROWS = THREADS / TILE_CHANNELS };
    __shared__ int64_t sums[2][ROWS][TILE_CHANNELS];
    const int64_t across = (channels + TILE_CHANNELS - 1) / TILE_CHANNELS;
    const int64_t parts = (pixels + PART_PIXELS - 1) / PART_PIXELS;
    const int lane = threadIdx.x % TILE_CHANNELS, row = threadIdx.x / TILE_CHANNELS;
    for (int64_t t = blockIdx.x; t < images * across * parts; t += gridDim.x) {
        const int64_t channel = t % across * TILE_CHANNELS + lane;
        const int64_t first = t / across % parts * PART_PIXELS, image = t / (across * parts);
        const int64_t last = min(first + PART_PIXELS, pixels);
        int64_t plain = 0, product = 0;
        if (channel < channels)
            for (int64_t p = first + row; p < last; p += ROWS) {
                const int64_t i = (image * pixels + p) * channels + channel;
                const int64_t v = a[i];
                plain += v;
                product += v * b[i];
            }
        sums[0][row][lane] = plain;
        sums[1][row][lane] = product;
        __syncthreads();
        if (row < 2 && channel < channels) {
            int64_t sum = 0;
            for (int r = 0; r < ROWS; r++) sum += sums[row][r][lane];
            const int64_t plane = joined ? row : row * images + image;
            atomicAdd((unsigned long long *)out + plane * channels + channel,
                      (unsigned long long)sum);
        }
        __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    plane_sums_8(const int8_t *a, const int8_t *b, int64_t *out, int64_t images, int64_t pixels,
                 int64_t channels, int64_t joined) {
    plane_sums(a, b, out, images, pixels, channels, joined);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    plane_sums_16(const int16_t *a, const int16_t *b, int64_t *out, int64_t images, int64_t pixels,
                  int64_t channels, int64_t joined) {
    plane_sums(a, b, out, images, pixels, channels, joined);
}

/* ---- coefficients ---- */

/* values[i], or `fallback` where there are none; 0 with a report where it is not finite. */
__device__ __forceinline__ wide_t parameter(const float *values, int64_t i, int fallback,
                                            const failure &f) {
    if (!values) return from_integer(fallback);
    if (is_finite(magnitude_bits(values[i]))) return from_float(values[i]);
    report(f);
    return {0, 0};
}

/* Statistics that move towards the batch's, `mean` NULL if none do; `batches` NULL or a counter. */
struct running {
    float *mean, *var;
    int64_t *batches;
    int64_t momentum, momentum_exponent;
};

/* old + factor * (batch - old); as it is, with a report, where it is not finite. */
__device__ __forceinline__ void move(float *statistic, wide_t batch, wide_t factor,
                                     const failure &f) {
    if (!is_finite(magnitude_bits(*statistic))) return report(f);
    const wide_t old = from_float(*statistic);
    *statistic = to_float(plus(old, multiply(factor, plus(batch, negated(old)))));
}

__device__ void move(const running &r, const statistics &s, const failure &f) {
    const wide_t factor = shifted(from_integer(r.momentum), (int)r.momentum_exponent);
    const wide_t count = from_integer(s.count);
    const wide_t pairs = from_integer((int128_t)s.count * (s.count - 1));
    if (r.batches && first_index() == 0) ++*r.batches;
    for (int64_t c = first_index(); c < s.groups; c += stride()) {
        const int64_t s1 = s.sums[c], s2 = s.sums[s.groups + c];
        const int exponent = exponent_at(s.exponents, c);
        move(r.mean + c, shifted(divide(narrow(s1, 0), count), exponent), factor, f);
        move(r.var + c, shifted(divide(scatter_of(s1, s2, s.count), pairs), 2 * exponent), factor,
             f);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    update_running(statistics s, running r, failure f) {
    move(r, s, f);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    norm_coefficients(statistics s, const float *weight, const float *bias, coefficients_t *made,
                      int64_t channels, int64_t members, int64_t bits, running r, failure f) {
    for (int64_t at = first_index(); at < s.groups * members; at += stride()) {
        const int64_t group = at / members;
        const wide_t scale = forward_scale(parameter(weight, at % channels, 1, f),
                                           spread_in(s, group), exponent_at(s.exponents, group));
        made[at] = forward_coefficients(scale, parameter(bias, at % channels, 0, f), s.sums[group],
                                        s.count, (int)bits);
    }
    if (r.mean) move(r, s, f);
}

/* products (2, groups * members) */
__device__ void backward(const statistics &s, const exponents_t &grad_exponents,
                         const int64_t *products, const float *weight, coefficients_t *made,
                         int64_t channels, int64_t members, int wider, const failure &f) {
    for (int64_t group = first_index(); group < s.groups; group += stride()) {
        const int64_t first = group * members;
        const wide_t rstd = spread_in(s, group).rstd;
        for (int64_t at = first; at < first + members; at++) {
            const wide_t scale = multiply(parameter(weight, at % channels, 1, f), rstd);
            made[at] = scale_in_place(shifted(scale, exponent_at(grad_exponents, group)));
        }
        backward_coefficients(made + first, members, rstd, s.sums[group], products + first,
                              products + s.groups * members + first, s.count, wider,
                              exponent_at(s.exponents, group));
    }
}

/* products (2, images, channels); images add one after another. */
__device__ void weight_grad(const statistics &s, const exponents_t &grad_exponents,
                            const int64_t *products, float *dweight, float *dbias, int64_t images,
                            int64_t channels, int64_t members) {
    const int64_t *h1 = products, *h2 = products + images * channels;
    const wide_t count = from_integer(s.count);
    for (int64_t c = first_index(); c < channels; c += stride()) {
        wide_t slope = {0, 0}, total = {0, 0};
        for (int64_t at = c; at < images * channels; at += channels) {
            const int64_t group = at / members;
            const int grad_exponent = exponent_at(grad_exponents, group);
            const wide_t covariance =
                from_integer((int128_t)s.count * h2[at] - (int128_t)s.sums[group] * h1[at]);
            const wide_t here = multiply(divide(covariance, count), spread_in(s, group).rstd);
            slope = plus(slope, shifted(here, grad_exponent + exponent_at(s.exponents, group)));
            total = plus(total, narrow(h1[at], grad_exponent));
        }
        dweight[c] = to_float(slope);
        dbias[c] = to_float(total);
    }
}

/* `own`: the products of this process alone. */
extern "C" __global__ void __launch_bounds__(THREADS)
    norm_grads(statistics s, exponents_t grad_exponents, const int64_t *products,
               const int64_t *own, const float *weight, coefficients_t *made, float *dweight,
               float *dbias, int64_t images, int64_t channels, int64_t members, int64_t wider,
               failure f) {
    backward(s, grad_exponents, products, weight, made, channels, members, (int)wider, f);
    weight_grad(s, grad_exponents, own, dweight, dbias, images, channels, members);
}

/* 1 / sqrt(var + eps); 0 with a report where that is none. */
__device__ __forceinline__ wide_t frozen_rstd(const float *var, int64_t c, wide_t eps,
                                              const failure &f) {
    wide_t total = parameter(var, c, 0, f);
    if (is_finite(magnitude_bits(var[c]))) total = plus(total, eps);
    if (total.mantissa > 0) return inverse_root(total);
    report(f);
    return {0, 0};
}

/* `mean` and `bias` NULL: the input's gradient, where the exponents are the incoming one's. */
extern "C" __global__ void __launch_bounds__(THREADS)
    frozen_coefficients(exponents_t exponents, const float *mean, const float *var,
                        const float *weight, const float *bias, coefficients_t *made,
                        int64_t channels, int64_t bits, int64_t eps, int64_t eps_exponent,
                        failure f) {
    for (int64_t c = first_index(); c < channels; c += stride()) {
        const wide_t rstd = frozen_rstd(var, c, {eps, (int)eps_exponent}, f);
        const wide_t scale = multiply(parameter(weight, c, 1, f), rstd);
        const wide_t offset =
            plus(parameter(bias, c, 0, f), negated(multiply(parameter(mean, c, 0, f), scale)));
        made[c] = forward_coefficients(shifted(scale, exponent_at(exponents, c)), offset, 0, 1,
                                       (int)bits);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    frozen_weight_grad(exponents_t grad_exponents, exponents_t exponents, const int64_t *products,
                       const float *mean, const float *var, float *dweight, int64_t channels,
                       int64_t eps, int64_t eps_exponent, failure f) {
    for (int64_t c = first_index(); c < channels; c += stride()) {
        const wide_t rstd = frozen_rstd(var, c, {eps, (int)eps_exponent}, f);
        const wide_t total = narrow(products[channels + c], exponent_at(exponents, c));
        const wide_t centred =
            plus(total, negated(multiply(parameter(mean, c, 0, f), narrow(products[c], 0))));
        dweight[c] = to_float(shifted(multiply(centred, rstd), exponent_at(grad_exponents, c)));
    }
}

/* ---- elements ---- */

/* `second` may be NULL; coefficients are (images or 1, channels); `ceiling` is a pattern, or -1. */
struct combination {
    const void *first, *second;
    float *out;
    const coefficients_t *of;
    int64_t images, pixels, channels, per_image, ceiling;
    int32_t *top;
};

/* What holds a combination of such mantissas, and what wraps on the way. */
template <typename T> struct total_of;
template <> struct total_of<int8_t> {
    typedef int32_t type;
    typedef uint32_t part;
};
template <> struct total_of<int16_t> {
    typedef int64_t type;
    typedef uint64_t part;
};

template <typename T> __device__ void combine(const combination &m) {
    typedef typename total_of<T>::type total;
    typedef typename total_of<T>::part part;
    enum { PAD = 4 / sizeof(T) };
    __shared__ T first[TILE_PIXELS][TILE_CHANNELS + PAD], second[TILE_PIXELS][TILE_CHANNELS + PAD];
    const int64_t across = (m.channels + TILE_CHANNELS - 1) / TILE_CHANNELS;
    const int64_t down = (m.pixels + TILE_PIXELS - 1) / TILE_PIXELS;
    const cut_t cut = cut_at(m.ceiling);
    uint32_t top = 0;
    for (int64_t t = blockIdx.x; t < m.images * across * down; t += gridDim.x) {
        const int64_t image = t / (across * down);
        const int64_t pixel0 = t / across % down * TILE_PIXELS,
                      channel0 = t % across * TILE_CHANNELS;
        const int pixels = (int)min((int64_t)TILE_PIXELS, m.pixels - pixel0);
        const int channels = (int)min((int64_t)TILE_CHANNELS, m.channels - channel0);
        const int64_t from = (image * m.pixels + pixel0) * m.channels + channel0;
        for (int k = threadIdx.x; k < pixels * TILE_CHANNELS; k += THREADS) {
            const int pixel = k / TILE_CHANNELS, channel = k % TILE_CHANNELS;
            if (channel >= channels) continue;
            const int64_t i = from + pixel * m.channels + channel;
            first[pixel][channel] = ((const T *)m.first)[i];
            if (m.second) second[pixel][channel] = ((const T *)m.second)[i];
        }
        __syncthreads();
        float *to = m.out + (image * m.channels + channel0) * m.pixels + pixel0;
        const coefficients_t *of = m.of + (m.per_image ? image * m.channels : 0) + channel0;
        for (int k = threadIdx.x; k < pixels * channels; k += THREADS) {
            const int channel = k / pixels, pixel = k % pixels;
            const coefficients_t &c = of[channel];
            part sum = (part)c.p * (part)first[pixel][channel] + (part)c.r;
            if (m.second) sum += (part)c.q * (part)second[pixel][channel];
            const scale_t back = scale_at((int)c.exponent);
            const float made = cut_by(cut, sizeof(T) == 1 ? scaled_int32((int32_t)sum, back)
                                                          : scaled_int64((int64_t)sum, back));
            to[channel * m.pixels + pixel] = made;
            top = max(top, magnitude_bits(made));
        }
        __syncthreads();
    }
    note_top(top, m.top);
}

extern "C" __global__ void __launch_bounds__(THREADS) combine_8(combination m) {
    combine<int8_t>(m);
}
extern "C" __global__ void __launch_bounds__(THREADS) combine_16(combination m) {
    combine<int16_t>(m);
}
