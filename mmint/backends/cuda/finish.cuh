/* From sums of products to float32, with or without a bias: reference/products.py, `_finish`.
 *
 * Exponents of the operands add. Where there is a bias, `prepare` (finish.cu) comes before the product
 * and makes it integers, and the sums' exponents such that they fit beside it. Where all sums are zero
 * the result is then the bias to the bit, which only shows afterwards: products note whether a sum is
 * not zero, and `bias_alone` mends the result if none is. Products also note the result's largest
 * magnitude, or that of each channel, for its mapping.
 *
 * Groups of channels with exponents of their own have a state each; the first takes the note. */
#pragma once

#include "arithmetic/exponents.h"
#include "arithmetic/finish.h"
#include "reduce.cuh"

struct finish_state {
    int32_t exponent;  /* of the sums, cut by 2**excess, and of the bias */
    int32_t excess;
    int32_t bias_top;  /* the bias's largest magnitude, as a bit pattern */
    int32_t not_zero;  /* whether a sum is not zero */
    int32_t fast; /* in the first: as in `finisher` */
};

struct finish {
    finish_state *states; /* where there is a bias, else NULL */
    const int64_t *bias;
    exponents_t a_exponents, b_exponents;
    int64_t groups, members; /* with exponents of their own, and the channels of each */
    int64_t fits;            /* whether 32 bits hold all sums */
    int64_t by_channel;
    int32_t *tops; /* the result's largest magnitude, as a bit pattern, or that of each channel */
};

/* The exponent of a group's sums. Those of zeros alone are right at any. */
__device__ __forceinline__ int exponent_of_sums(const exponents_t &a, const exponents_t &b,
                                                int64_t group) {
    const int of_a = exponent_at(a, group), of_b = exponent_at(b, group);
    return of_a == ZEROS_EXPONENT || of_b == ZEROS_EXPONENT ? 0 : of_a + of_b;
}

struct finisher {
    const finish &of;
    const int64_t *bias;
    bool fast; /* whether (float32)(sum + bias) * 2**exponent is right for all: 32 bits hold it */
    float scale; /* of the first group */
    uint32_t top;
    bool not_zero;

    /* All threads of the block make one. */
    __device__ __forceinline__ explicit finisher(const finish &f)
        : of(f), bias(f.bias), fast(f.fits), scale(0.0f), top(0), not_zero(false) {
        uint32_t slow = 0;
        for (int64_t g = threadIdx.x; !f.states && g < f.groups; g += blockDim.x)
            slow |= !scale_is_exact(exponent_of(g), SCALED_INT32);
        if (f.states ? !f.states->fast : block_max(slow)) fast = false;
        if (fast) scale = scale_of(exponent_of(0));
    }

    /* The result of a sum of channel i, to which `bias[i]` is added. */
    template <typename T> __device__ __forceinline__ float operator()(T sum, int64_t i) {
        const int64_t added = bias ? bias[i] : 0;
        if (fast) return scaled((int)sum, (int)added, scale_for(i));
        const int64_t group = of.groups == 1 ? 0 : group_of(i);
        const int excess = of.states ? of.states[group].excess : 0;
        return noted(sum != 0, finish_sum(sum, excess, added, exponent_of(group)));
    }

    /* What channel i's sums are multiplied with where it is `fast`. */
    __device__ __forceinline__ float scale_for(int64_t i) const {
        return of.groups == 1 ? scale : scale_of(exponent_of(group_of(i)));
    }

    /* The result where it is `fast`. */
    __device__ __forceinline__ float scaled(int sum, int bias, float by) {
        return noted(sum != 0, (float)(sum + bias) * by);
    }

    /* Notes what a warp saw of channel i; all of its lanes call it. */
    __device__ __forceinline__ void note_channel(int64_t i) {
        if (!of.by_channel) return;
        top = warp_max(top);
        if (threadIdx.x % 32 == 0 && top) atomicMax(of.tops + i, (int32_t)top);
        top = 0;
    }

    /* The same of a thread. */
    __device__ __forceinline__ void note_alone(int64_t i) {
        if (!of.by_channel) return;
        if (top) atomicMax(of.tops + i, (int32_t)top);
        top = 0;
    }

    /* Notes the rest of what the block saw; all of its threads call it. */
    __device__ __forceinline__ void note() {
        note_top(top, of.tops);
        const uint32_t block_not_zero = bias ? block_max((uint32_t)not_zero) : 0;
        if (threadIdx.x == 0 && block_not_zero) atomicMax(&of.states->not_zero, 1);
    }

   private:
    __device__ __forceinline__ int exponent_of(int64_t group) const {
        return of.states ? of.states[group].exponent
                         : exponent_of_sums(of.a_exponents, of.b_exponents, group);
    }

    __device__ __forceinline__ int64_t group_of(int64_t i) const {
        return (i | of.members) >> 32 ? i / of.members
                                      : (int64_t)((uint32_t)i / (uint32_t)of.members);
    }

    __device__ __forceinline__ float noted(bool is_not_zero, float result) {
        not_zero |= is_not_zero;
        top = max(top, magnitude_bits(result));
        return result;
    }
};
