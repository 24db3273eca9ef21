/* Stochastic gradient descent in integers: reference/sgd.py for one parameter.
 *
 * The update is a row of phases, each a sweep over the elements:
 *
 *     LARGEST     largest magnitudes of gradient and parameter, whether any momentum is not zero
 *     MAP         both to 16-bit mantissas, which the later phases read
 *     TOP, NARROW of the direction, of Nesterov's direction, of the updated parameter: the largest
 *                 sum of aligned terms, then all sums narrowed by it
 *
 * What phases tell each other, a few maxima, lies in `state`; exponents and shifts follow from it,
 * and every thread computes them for itself. A small parameter is one block's, which runs all
 * phases with barriers between; else each phase is a launch of its own. A thread keeps the same
 * elements in all phases, those of its Philox blocks.
 *
 * Products are below 2**30 and go left by at most 28 bits, so that int64 holds the sums. */
#include "number.cuh"
#include "philox.cuh"
#include "reduce.cuh"

enum { THREADS = 256, MAX_ALIGNMENT = 28 };

/* mmint/numerics/random_bits.py, Role */
enum { PARAMETER = 16, GRADIENT, DIRECTION_SUM, MOMENTUM, NESTEROV_SUM, NESTEROV, UPDATE_SUM, UPDATE };

enum { LARGEST, MAP, TOP_DIRECTION, NARROW_DIRECTION, TOP_NESTEROV, NARROW_NESTEROV, TOP_UPDATE,
       NARROW_UPDATE };

/* Zeros at the start. The first two are bit patterns, the others magnitudes of integers. */
struct state {
    uint64_t grad_pattern, param_pattern, grad, param, momentum, direction, nesterov, update;
};

struct factor {
    int64_t mantissa, exponent;
};

struct sgd_arguments {
    uint32_t *param;
    const uint32_t *grad;
    const void *old;  /* momentum, NULL in the first step */
    const int32_t *old_exponent;
    void *buffer;     /* the new momentum, int8 where bits <= 8, else int16 */
    int32_t *exponent;
    int16_t *work;    /* gradient, parameter, Nesterov's direction */
    state *shared;
    int32_t *flag;
    int64_t call, n, bits, nesterov;
    factor momentum, decay, rate;  /* the rate with a minus */
    random_words random;
};

/* Mantissas times a factor; `counts` unless they are all zero. */
struct term {
    const void *mantissa;
    int wide;
    int64_t factor, exponent;
    bool counts;
};

/* Terms at a common exponent, each shifted right (left where negative). */
struct aligned {
    term terms[3];
    int shift[3];
    int64_t exponent;
    bool draws;
    int role;
};

__device__ __forceinline__ uint64_t seen(const uint64_t *at) { return *(const volatile uint64_t *)at; }

__device__ __forceinline__ random_words named(const sgd_arguments &a, int role) {
    random_words name = a.random;
    name.c2 |= role;
    return name;
}

__device__ aligned align(term first, term second, term third, int role) {
    aligned s = {{first, second, third}, {0, 0, 0}, 0, false, role};
    if (!first.counts && !second.counts && !third.counts) s.terms[0].counts = true;
    int64_t low = 0, high = 0;
    bool any = false;
    for (int i = 0; i < 3; i++) {
        if (!s.terms[i].counts) continue;
        low = any ? min(low, s.terms[i].exponent) : s.terms[i].exponent;
        high = any ? max(high, s.terms[i].exponent) : s.terms[i].exponent;
        any = true;
    }
    s.exponent = max(low, high - MAX_ALIGNMENT);
    for (int i = 0; i < 3; i++) {
        if (!s.terms[i].counts) continue;
        s.shift[i] = (int)min(s.exponent - s.terms[i].exponent, (int64_t)1000);
        s.draws |= s.shift[i] > 0;
    }
    return s;
}

__device__ term scaled(term t, const factor &f) {
    t.counts = t.counts && f.mantissa;
    t.factor = f.mantissa;
    t.exponent += f.exponent;
    return t;
}

/* By how much sums go right so that the largest, `top`, fits `bits`. */
__device__ int narrowing(uint64_t top, int bits) {
    const int p = bits - 1, shift = bit_length(top) - p;
    return shift > 0 && top > (uint64_t)most_of(p) << shift ? shift + 1 : shift;
}

__device__ term narrowed(const aligned &s, uint64_t top, int bits, const void *mantissa, int wide) {
    return {mantissa, wide, 1, top ? s.exponent + narrowing(top, bits) : 0, top != 0};
}

/* The terms of the update, as far as the phases before `phase` have made them. */
struct plan {
    term grad, param, buffer;
    aligned direction, nesterov, update;
};

__device__ plan plan_of(const sgd_arguments &a, int phase) {
    const int bits = (int)a.bits, wide = bits > 8;
    const uint64_t direction = phase > TOP_DIRECTION ? seen(&a.shared->direction) : 0;
    const uint64_t nesterov = phase > TOP_NESTEROV && a.nesterov ? seen(&a.shared->nesterov) : 0;
    const term nothing = {0, 1, 1, 0, false};
    plan p;
    p.grad = {a.work, 1, 1, exponent_of((uint32_t)seen(&a.shared->grad_pattern), bits),
              phase > MAP && seen(&a.shared->grad)};
    p.param = {a.work + a.n, 1, 1, exponent_of((uint32_t)seen(&a.shared->param_pattern), bits),
               phase > MAP && seen(&a.shared->param)};
    term old = nothing;
    if (a.old) old = {a.old, wide, 1, *a.old_exponent, seen(&a.shared->momentum) != 0};
    const term decayed = scaled(p.param, a.decay);
    p.direction = align(p.grad, decayed, scaled(old, a.momentum), DIRECTION_SUM);
    p.buffer = narrowed(p.direction, direction, bits, a.buffer, wide);
    p.nesterov = align(p.grad, decayed, scaled(p.buffer, a.momentum), NESTEROV_SUM);
    term step = p.buffer;
    if (a.nesterov)
        step = narrowed(p.nesterov, nesterov, bits, a.work + 2 * a.n, 1);
    p.update = align(p.param, scaled(step, a.rate), nothing, UPDATE_SUM);
    return p;
}

__device__ __forceinline__ int64_t element(const void *mantissa, int wide, int64_t i) {
    return wide ? ((const int16_t *)mantissa)[i] : ((const int8_t *)mantissa)[i];
}

__device__ __forceinline__ int64_t sum_at(const aligned &s, int64_t i, uint32_t drawn) {
    int64_t sum = 0;
    for (int t = 0; t < 3; t++) {
        const term &x = s.terms[t];
        if (!x.counts) continue;
        const int64_t product = element(x.mantissa, x.wide, i) * x.factor;
        if (s.shift[t] > 0)
            sum += with_sign(shift_right_stochastic(magnitude_of(product), s.shift[t], drawn),
                             product < 0);
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
        if (draws) words = philox(named(a, role), (uint32_t)block);
#pragma unroll 2
        for (int e = 0; e < 8; e++) {
            const int64_t i = first_element(block) + 16 * (e / 2) + e % 2;
            if (i < a.n) body(i, word_of(words, e / 2) >> 16 * (e % 2) & 0xFFFF);
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
        if (a.old) momentum |= element(a.old, a.bits > 8, i) != 0;
    });
    note(&a.shared->grad_pattern, grad);
    note(&a.shared->param_pattern, param);
    note(&a.shared->momentum, momentum);
}

__device__ void map(const sgd_arguments &a, const uint32_t *x, int64_t exponent, int role,
                    int16_t *out, uint64_t *top) {
    uint64_t largest = 0;
    sweep(a, true, role, [&](int64_t i, uint32_t drawn) {
        const int32_t made = map_one(x[i], (int)exponent, true, drawn);
        out[i] = (int16_t)made;
        largest = max(largest, magnitude_of(made));
    });
    note(top, largest);
}

__device__ void find_top(const sgd_arguments &a, const aligned &s, uint64_t *top) {
    uint64_t largest = 0;
    sweep(a, s.draws, s.role, [&](int64_t i, uint32_t drawn) {
        largest = max(largest, magnitude_of(sum_at(s, i, drawn)));
    });
    note(top, largest);
}

/* Calls store(i, mantissa) with the narrowed sums. */
template <typename F>
__device__ void narrow(const sgd_arguments &a, const aligned &s, uint64_t top, int role, F store) {
    const int shift = narrowing(top, (int)a.bits);
    const int64_t blocks = (a.n + GROUP - 1) / GROUP * BLOCKS_OF_GROUP;
    for (int64_t block = first_index(); block < blocks; block += stride()) {
        uint4 of_sum = make_uint4(0, 0, 0, 0), words = of_sum;
        if (s.draws) of_sum = philox(named(a, s.role), (uint32_t)block);
        if (shift > 0) words = philox(named(a, role), (uint32_t)block);
#pragma unroll 2
        for (int e = 0; e < 8; e++) {
            const int64_t i = first_element(block) + 16 * (e / 2) + e % 2;
            if (i >= a.n) continue;
            const int64_t sum = sum_at(s, i, word_of(of_sum, e / 2) >> 16 * (e % 2) & 0xFFFF);
            const uint32_t drawn = word_of(words, e / 2) >> 16 * (e % 2) & 0xFFFF;
            store(i, with_sign(shift_right_stochastic(magnitude_of(sum), shift, drawn), sum < 0));
        }
    }
}

__device__ void store(void *to, int wide, int64_t i, int64_t mantissa) {
    if (wide)
        ((int16_t *)to)[i] = (int16_t)mantissa;
    else
        ((int8_t *)to)[i] = (int8_t)mantissa;
}

__device__ void run(const sgd_arguments &a, int phase) {
    if (phase == LARGEST) return find_largest(a);
    const bool first = blockIdx.x == 0 && threadIdx.x == 0;
    const int wide = a.bits > 8;
    if (!is_finite((uint32_t)seen(&a.shared->grad_pattern)) ||
        !is_finite((uint32_t)seen(&a.shared->param_pattern))) {
        if (phase == MAP && first) atomicCAS(a.flag, 0, (int32_t)a.call);
        if (phase == NARROW_DIRECTION) {
            if (first) *a.exponent = 0;
            sweep(a, false, 0, [&](int64_t i, uint32_t) { store(a.buffer, wide, i, 0); });
        }
        return;
    }
    const plan p = plan_of(a, phase);
    if (phase == MAP) {
        map(a, a.grad, p.grad.exponent, GRADIENT, a.work, &a.shared->grad);
        map(a, a.param, p.param.exponent, PARAMETER, a.work + a.n, &a.shared->param);
    } else if (phase == TOP_DIRECTION) {
        find_top(a, p.direction, &a.shared->direction);
    } else if (phase == NARROW_DIRECTION) {
        if (first) *a.exponent = (int32_t)p.buffer.exponent;
        narrow(a, p.direction, seen(&a.shared->direction), MOMENTUM,
               [&](int64_t i, int64_t v) { store(a.buffer, wide, i, v); });
    } else if (phase == TOP_NESTEROV) {
        find_top(a, p.nesterov, &a.shared->nesterov);
    } else if (phase == NARROW_NESTEROV) {
        narrow(a, p.nesterov, seen(&a.shared->nesterov), NESTEROV,
               [&](int64_t i, int64_t v) { a.work[2 * a.n + i] = (int16_t)v; });
    } else if (phase == TOP_UPDATE) {
        find_top(a, p.update, &a.shared->update);
    } else {
        const uint64_t top = seen(&a.shared->update);
        const int exponent = top ? (int)(p.update.exponent + narrowing(top, (int)a.bits)) : 0;
        narrow(a, p.update, top, UPDATE, [&](int64_t i, int64_t v) {
            a.param[i] = __float_as_uint(dequantize_one(v, exponent));
        });
    }
}

/* Runs the phases from `phase` to `last`; more than one only in a grid of one block. */
extern "C" __global__ void __launch_bounds__(THREADS)
    sgd_step(sgd_arguments a, int64_t phase, int64_t last) {
    for (; phase <= last; phase++) {
        if ((phase == TOP_NESTEROV || phase == NARROW_NESTEROV) && !a.nesterov) continue;
        run(a, (int)phase);
        __syncthreads();
    }
}
