/* From sums of products to float32, with or without a bias: reference/products.py, `_finish`.
 *
 * What all sums of a product share lies on the device, made by `prepare` (finish.cu) before the
 * product: their exponent, and the bias as integers. Where all sums are zero the result is the bias
 * to the bit, which only shows afterwards: products note whether a sum is not zero, and `bias_alone`
 * mends the result if none is. They also note the result's largest magnitude for its mapping.
 *
 * Groups of channels with exponents of their own have a state each; the first takes the notes. */
#pragma once

#include "arithmetic/finish.h"
#include "reduce.cuh"

struct finish_state {
    int32_t exponent;  /* of the sums, cut by 2**excess, and of the bias */
    int32_t excess;
    int32_t bias_top;  /* the bias's largest magnitude, as a bit pattern */
    int32_t top;       /* the result's */
    int32_t not_zero;  /* whether a sum is not zero; noted where there is a bias */
    int32_t fast; /* in the first: whether (float32)(sum + bias) * 2**exponent is right for all
                          of them: 32 bits hold it */
};

struct finish {
    finish_state *state;
    const int64_t *bias; /* or NULL */
    int64_t members; /* channels of a group with a state of its own; 0: all share the first */
};

struct finisher {
    int exponent, excess;
    bool fast;
    float scale;
    const int64_t *bias;
    const finish_state *states;
    int64_t members;
    uint32_t top;
    bool not_zero;

    __device__ __forceinline__ explicit finisher(const finish &f)
        : exponent(f.state->exponent),
          excess(f.state->excess),
          fast(f.state->fast),
          scale(0.0f),
          bias(f.bias),
          states(f.state),
          members(f.members),
          top(0),
          not_zero(false) {
        if (fast) scale = scale_of(exponent);
    }

    /* The result of a sum of channel i, to which `bias[i]` is added. */
    template <typename T> __device__ __forceinline__ float operator()(T sum, int64_t i) {
        const int64_t added = bias ? bias[i] : 0;
        if (fast) return scaled((int)sum, (int)added, scale_for(i));
        if (!members) return noted(sum != 0, finish_sum(sum, excess, added, exponent));
        const finish_state &own = states[group_of(i)];
        return noted(sum != 0, finish_sum(sum, own.excess, added, own.exponent));
    }

    /* What channel i's sums are multiplied with where it is `fast`. */
    __device__ __forceinline__ float scale_for(int64_t i) const {
        return members ? scale_of(states[group_of(i)].exponent) : scale;
    }

    /* The result where it is `fast`. */
    __device__ __forceinline__ float scaled(int sum, int bias, float by) {
        return noted(sum != 0, (float)(sum + bias) * by);
    }

    /* Notes what the block saw; all of its threads call it. */
    __device__ __forceinline__ void note(const finish &f) {
        const uint32_t block_top = block_max(top);
        const uint32_t block_not_zero = bias ? block_max((uint32_t)not_zero) : 0;
        if (threadIdx.x == 0) {
            if (block_top) atomicMax(&f.state->top, (int32_t)block_top);
            if (block_not_zero) atomicMax(&f.state->not_zero, 1);
        }
    }

   private:
    __device__ __forceinline__ int64_t group_of(int64_t i) const {
        return (i | members) >> 32 ? i / members : (int64_t)((uint32_t)i / (uint32_t)members);
    }

    __device__ __forceinline__ float noted(bool is_not_zero, float result) {
        not_zero |= is_not_zero;
        top = max(top, magnitude_bits(result));
        return result;
    }
};
