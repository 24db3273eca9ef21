/* Stochastic gradient descent in integers: reference/sgd.py for one parameter.
 *
 * The update is a row of phases, each a sweep over the elements:
 *
 *     LARGEST     largest magnitudes of gradient and parameter, whether any momentum is not zero
 *     MAP         both to 16-bit mantissas, which the later phases read
 *     TOP, NARROW of the direction, of Nesterov's direction, of the updated parameter: the largest
 *                 sum of aligned terms, then all sums narrowed by it
 *
 * What phases tell each other, a few maxima, lies in `shared`; exponents and shifts follow from it
 * (arithmetic/sgd.h), and every thread computes them for itself. A small parameter is one block's, which runs all
 * phases with barriers between; else each phase is a launch of its own. A thread keeps the same
 * elements in all phases, those of its Philox blocks. */
#include "arithmetic/philox.h"
#include "arithmetic/sgd.h"
#include "reduce.cuh"

enum { THREADS = 256 };

enum {
    LARGEST,
    MAP,
    TOP_DIRECTION,
    NARROW_DIRECTION,
    TOP_NESTEROV,
    NARROW_NESTEROV,
    TOP_UPDATE,
    NARROW_UPDATE
};

struct sgd_arguments {
    uint32_t *param;
    const uint32_t *grad;
    const void *old;  /* momentum, NULL in the first step */
    const int32_t *old_exponent;
    void *buffer;     /* the new momentum, int8 where bits <= 8, else int16 */
    int32_t *exponent;
    int16_t *work;    /* gradient, parameter, Nesterov's direction */
    sgd_seen *shared; /* zeros at the start */
    int32_t *flag;
    int64_t call, n;
    sgd_settings settings;
    random_words random;
    const sgd_factor *rate; /* of a captured step, else NULL */
};

__device__ __forceinline__ bool is_wide(const sgd_arguments &a) { return a.settings.bits > 8; }

__device__ __forceinline__ uint64_t seen(const uint64_t *at) {
    return *(const volatile uint64_t *)at;
}

/* The terms of the update, as far as the phases before `phase` have made them. */
__device__ sgd_plan plan_before(const sgd_arguments &a, int phase) {
    sgd_seen found = {seen(&a.shared->grad_pattern),
                      seen(&a.shared->param_pattern),
                      0,
                      0,
                      seen(&a.shared->momentum),
                      0,
                      0,
                      0};
    if (phase > MAP) {
        found.grad = seen(&a.shared->grad);
        found.param = seen(&a.shared->param);
    }
    if (phase > TOP_DIRECTION) found.direction = seen(&a.shared->direction);
    if (phase > TOP_NESTEROV && a.settings.nesterov) found.nesterov = seen(&a.shared->nesterov);
    const sgd_mantissas of = {a.work,    a.work + a.n,     a.old,
                              a.buffer,  a.work + 2 * a.n, a.old ? *a.old_exponent : 0,
                              is_wide(a)};
    return sgd_plan_of(&a.settings, &of, found);
}

__device__ __forceinline__ int64_t element(const void *mantissa, bool wide, int64_t i) {
    return wide ? ((const int16_t *)mantissa)[i] : ((const int8_t *)mantissa)[i];
}

__device__ __forceinline__ int64_t sum_at(const sgd_sum &s, int64_t i, uint32_t drawn) {
    int64_t sum = 0;
    for (int t = 0; t < 3; t++) {
        const sgd_term &x = s.terms[t];
        if (!x.counts) continue;
        const int64_t product = element(x.mantissa, x.wide, i) * x.factor;
        if (s.shift[t] > 0)
            sum += shift_right_stochastic(product, s.shift[t], drawn);
        else
            sum += product * ((int64_t)1 << -s.shift[t]);
    }
    return sum;
}

/* Calls body(i, drawn) for this thread's elements, with the bits of role `role` if it draws any. */
template <typename F> __device__ void sweep(const sgd_arguments &a, bool draws, int role, F body) {
    const int64_t blocks = (a.n + GROUP - 1) / GROUP * BLOCKS_OF_GROUP;
    for (int64_t block = first_index(); block < blocks; block += stride()) {
        uint4 words = make_uint4(0, 0, 0, 0);
        if (draws) words = philox(with_role(a.random, role), (uint32_t)block);
#pragma unroll 2
        for (int e = 0; e < SERVED; e++) {
            const int64_t i = first_element(block) + distance_of(e);
            if (i < a.n) body(i, bits_of(words, e));
        }
    }
}

/* The block's largest `v` joins a maximum of the state. */
__device__ void note(uint64_t *at, uint64_t v) {
    const unsigned long long top = block_max((unsigned long long)v);
    if (threadIdx.x == 0 && top) atomicMax((unsigned long long *)at, top);
}

__device__ void find_largest(const sgd_arguments &a) {
    uint64_t grad = 0, param = 0, momentum = 0;
    sweep(a, false, 0, [&](int64_t i, uint32_t) {
        grad = max(grad, (uint64_t)(a.grad[i] & 0x7FFFFFFF));
        param = max(param, (uint64_t)(a.param[i] & 0x7FFFFFFF));
        if (a.old) momentum |= element(a.old, is_wide(a), i) != 0;
    });
    note(&a.shared->grad_pattern, grad);
    note(&a.shared->param_pattern, param);
    note(&a.shared->momentum, momentum);
}

__device__ void map(const sgd_arguments &a, const uint32_t *x, int exponent, int role, int16_t *out,
                    uint64_t *top) {
    uint64_t largest = 0;
    sweep(a, true, role, [&](int64_t i, uint32_t drawn) {
        const int32_t made = map_one(x[i], exponent, true, drawn);
        out[i] = (int16_t)made;
        largest = max(largest, magnitude_of(made));
    });
    note(top, largest);
}

__device__ void find_top(const sgd_arguments &a, const sgd_sum &s, uint64_t *top) {
    uint64_t largest = 0;
    sweep(a, s.draws, s.role, [&](int64_t i, uint32_t drawn) {
        largest = max(largest, magnitude_of(sum_at(s, i, drawn)));
    });
    note(top, largest);
}

/* Calls store(i, mantissa) with the narrowed sums. */
template <typename F>
__device__ void narrow(const sgd_arguments &a, const sgd_sum &s, uint64_t top, int role, F store) {
    const int shift = sgd_narrowing(top, (int)a.settings.bits);
    const int64_t blocks = (a.n + GROUP - 1) / GROUP * BLOCKS_OF_GROUP;
    for (int64_t block = first_index(); block < blocks; block += stride()) {
        uint4 of_sum = make_uint4(0, 0, 0, 0), words = of_sum;
        if (s.draws) of_sum = philox(with_role(a.random, s.role), (uint32_t)block);
        if (shift > 0) words = philox(with_role(a.random, role), (uint32_t)block);
#pragma unroll 2
        for (int e = 0; e < SERVED; e++) {
            const int64_t i = first_element(block) + distance_of(e);
            if (i >= a.n) continue;
            const int64_t sum = sum_at(s, i, bits_of(of_sum, e));
            store(i, shift_right_stochastic(sum, shift, bits_of(words, e)));
        }
    }
}

__device__ void store(void *to, bool wide, int64_t i, int64_t mantissa) {
    if (wide)
        ((int16_t *)to)[i] = (int16_t)mantissa;
    else
        ((int8_t *)to)[i] = (int8_t)mantissa;
}

__device__ void run(const sgd_arguments &a, int phase) {
    if (phase == LARGEST) return find_largest(a);
    const bool first = blockIdx.x == 0 && threadIdx.x == 0;
    const bool wide = is_wide(a);
    if (!is_finite((uint32_t)seen(&a.shared->grad_pattern)) ||
        !is_finite((uint32_t)seen(&a.shared->param_pattern))) {
        if (phase == MAP && first) atomicCAS(a.flag, 0, (int32_t)a.call);
        if (phase == NARROW_DIRECTION) {
            if (first) *a.exponent = 0;
            sweep(a, false, 0, [&](int64_t i, uint32_t) { store(a.buffer, wide, i, 0); });
        }
        return;
    }
    const sgd_plan p = plan_before(a, phase);
    if (phase == MAP) {
        map(a, a.grad, p.grad_exponent, SGD_GRADIENT, a.work, &a.shared->grad);
        map(a, a.param, p.param_exponent, SGD_PARAMETER, a.work + a.n, &a.shared->param);
    } else if (phase == TOP_DIRECTION) {
        find_top(a, p.direction, &a.shared->direction);
    } else if (phase == NARROW_DIRECTION) {
        if (first) *a.exponent = p.buffer_exponent;
        narrow(a, p.direction, seen(&a.shared->direction), SGD_MOMENTUM,
               [&](int64_t i, int64_t v) { store(a.buffer, wide, i, v); });
    } else if (phase == TOP_NESTEROV) {
        find_top(a, p.nesterov, &a.shared->nesterov);
    } else if (phase == NARROW_NESTEROV) {
        narrow(a, p.nesterov, seen(&a.shared->nesterov), SGD_NESTEROV,
               [&](int64_t i, int64_t v) { a.work[2 * a.n + i] = (int16_t)v; });
    } else if (phase == TOP_UPDATE) {
        find_top(a, p.update, &a.shared->update);
    } else {
        const uint64_t top = seen(&a.shared->update);
        const int exponent = sgd_narrowed_exponent(&p.update, top, (int)a.settings.bits);
        narrow(a, p.update, top, SGD_UPDATE, [&](int64_t i, int64_t v) {
            a.param[i] = __float_as_uint(dequantize_one(v, exponent));
        });
    }
}

/* Runs the phases from `phase` to `last`; more than one only in a grid of one block. */
extern "C" __global__ void __launch_bounds__(THREADS, 4)
    sgd_step(sgd_arguments a, int64_t phase, int64_t last) {
    a.random = resolved(a.random);
    if (a.rate) a.settings.rate = *a.rate;
    for (; phase <= last; phase++) {
        if ((phase == TOP_NESTEROV || phase == NARROW_NESTEROV) && !a.settings.nesterov) continue;
        run(a, (int)phase);
        __syncthreads();
    }
}
