/* The exponents of mantissas that go through an operation in groups, such as the channels of a batch
 * norm. */
#pragma once

#include "arithmetic/language.h"

/* One for all groups (step 0), or one for each (step 1). */
typedef struct {
    const int32_t *of;
    int64_t step;
} exponents_t;

MMINT_FUNCTION int exponent_at(exponents_t exponents, int64_t group) {
    return exponents.of[exponents.step * group];
}
