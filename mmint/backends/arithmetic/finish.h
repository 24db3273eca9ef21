/* From a sum of products to float32, with or without a bias: reference/products.py, `_finish`. */
#pragma once

#include "arithmetic/mapping.h"

/* By how much sums at `exponent` go right so that a bias of magnitude `top` fits beside them. */
MMINT_FUNCTION int bias_excess(uint32_t top, int exponent) {
    return int_max(0, int_max(field_of(top), 1) - 150 - exponent + 24 - 62);
}

/* `exponent` is that of the bias, and of the sum once it went right. */
MMINT_FUNCTION float finish_sum(int64_t sum, int excess, int64_t bias, int exponent) {
    if (excess) sum = with_sign(shift_right_even(magnitude_of(sum), excess), sum < 0);
    return dequantize_one(sum + bias, exponent);
}
