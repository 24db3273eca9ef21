/* Stochastic gradient descent in integers: reference/sgd.py, for a batch of parameters.
 *
 * Two launches for up to UPDATES parameters: `sgd_largest` finds the largest magnitudes of each parameter, its gradient and its
 * momentum, from which every exponent follows (arithmetic/sgd.h); `sgd_step` plans each block's
 * update from them and makes it in one pass. A block takes elements of one parameter, a thread those
 * of one Philox block.
 *
 * A parameter with an infinity or NaN, or whose gradient has one, stays as it is, and the number of
 * its call goes to the device's flag. */
#include "arithmetic/philox.h"
#include "arithmetic/sgd.h"
#include "reduce.cuh"

enum { THREADS = 256, SETTINGS = 8, UPDATES = 52, ELEMENTS = THREADS * SERVED };

/* What `sgd_largest` finds. Zeros at the start. */
struct largest {
    uint32_t grad, param, momentum;
    int32_t momentum_exponent;
};

/* What few updates differ in. */
struct setting {
    int64_t is_first;
    sgd_settings of;
    const sgd_factor *rate; /* of a captured step, else NULL */
};

struct update {
    uint32_t *param;
    const uint32_t *grad;
    void *momentum; /* int8 where bits <= 8, else int16; NULL where none is kept */
    int32_t *exponent;
    int64_t n, first_block, call;
    uint32_t setting, layer; /* the latter of the name of its random bits */
};

struct updates {
    int64_t count;
    int32_t *flag;
    largest *found; /* of each */
    random_words random;
    setting settings[SETTINGS];
    update of[UPDATES];
};

/* The number of this block's update. */
__device__ int mine(const updates &all) {
    int i = (int)all.count - 1;
    while (all.of[i].first_block > blockIdx.x) i--;
    return i;
}

__device__ int32_t momentum_at(const update &u, const setting &s, int64_t i) {
    if (!u.momentum || s.is_first) return 0;
    return s.of.bits > 8 ? ((const int16_t *)u.momentum)[i] : ((const int8_t *)u.momentum)[i];
}

__device__ void keep_momentum(const update &u, const setting &s, int64_t i, int32_t mantissa) {
    if (!u.momentum) return;
    if (s.of.bits > 8)
        ((int16_t *)u.momentum)[i] = (int16_t)mantissa;
    else
        ((int8_t *)u.momentum)[i] = (int8_t)mantissa;
}

/* The block's largest `v` joins a maximum in memory. */
__device__ void note(uint32_t *at, uint32_t v) {
    const uint32_t top = block_max(v);
    if (threadIdx.x == 0 && top) atomicMax(at, top);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    sgd_largest(const __grid_constant__ updates all) {
    const int number = mine(all);
    const update &u = all.of[number];
    const setting &s = all.settings[u.setting];
    largest &found = all.found[number];
    const int64_t block = blockIdx.x - u.first_block, first = block * ELEMENTS;
    uint32_t grad = 0, param = 0, momentum = 0;
    for (int64_t i = first + threadIdx.x; i < min(u.n, first + ELEMENTS); i += THREADS) {
        grad = max(grad, u.grad[i] & 0x7FFFFFFF);
        param = max(param, u.param[i] & 0x7FFFFFFF);
        momentum = max(momentum, (uint32_t)magnitude_of(momentum_at(u, s, i)));
    }
    note(&found.grad, grad);
    note(&found.param, param);
    note(&found.momentum, momentum);
    if (block == 0 && threadIdx.x == 0 && u.momentum) found.momentum_exponent = *u.exponent;
}

/* Has any of the thread's elements a fraction to be rounded? */
__device__ bool is_off_grid(const update &u, int64_t first, int exponent) {
    uint32_t seen = 0;
    for (int e = 0; e < SERVED; e++) {
        const int64_t i = first + distance_of(e);
        if (i < u.n) seen |= (uint32_t)fine_of(u.param[i], exponent);
    }
    return seen << FRACTION_BITS;
}

__device__ void step(const update &u, const setting &s, const sgd_plan &p, const random_words &name,
                     int64_t block) {
    const int64_t first = first_element(block);
    if (first >= u.n) return;
    const auto drawn = [&](int role) { return philox(with_role(name, role), (uint32_t)block); };
    uint4 param = make_uint4(0, 0, 0, 0), ahead = param;
    if (is_off_grid(u, first, p.param_exponent)) param = drawn(SGD_PARAMETER);
    const uint4 momentum = drawn(SGD_MOMENTUM), stepped = drawn(SGD_UPDATE);
    if (p.nesterov) ahead = drawn(SGD_NESTEROV);
#pragma unroll 2
    for (int e = 0; e < SERVED; e++) {
        const int64_t i = first + distance_of(e);
        if (i >= u.n) break;
        const uint32_t grad = u.grad[i];
        const int32_t w = map_one(u.param[i], p.param_exponent, true, bits_of(param, e));
        int32_t v = sgd_summed(&p.direction, momentum_at(u, s, i), w, grad, bits_of(momentum, e));
        keep_momentum(u, s, i, v);
        if (p.nesterov) v = sgd_summed(&p.ahead, v, w, grad, bits_of(ahead, e));
        const int32_t made = sgd_summed(&p.update, v, w, 0, bits_of(stepped, e));
        u.param[i] = __float_as_uint(dequantize_one(made, p.update.exponent));
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    sgd_step(const __grid_constant__ updates all) {
    __shared__ sgd_plan plan;
    const int number = mine(all);
    const update &u = all.of[number];
    const setting &s = all.settings[u.setting];
    const largest &found = all.found[number];
    const int64_t block = blockIdx.x - u.first_block;
    const bool is_first = block == 0 && threadIdx.x == 0;
    if (!is_finite(found.grad) || !is_finite(found.param)) {
        if (is_first) atomicCAS(all.flag, 0, (int32_t)u.call);
        return;
    }
    if (threadIdx.x == 0) {
        sgd_settings settings = s.of;
        if (s.rate) settings.rate = *s.rate;
        const sgd_tops tops = {found.grad, found.param, found.momentum, found.momentum_exponent};
        plan = sgd_plan_of(&settings, tops);
    }
    __syncthreads();
    if (is_first && u.momentum) *u.exponent = plan.direction.exponent;
    random_words random = resolved(all.random);
    random.k1 = u.layer;
    step(u, s, plan, random, block * THREADS + threadIdx.x);
}
