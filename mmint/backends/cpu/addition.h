/* Addition of two float32 tensors in integers. */
#ifndef MMINT_ADDITION_H
#define MMINT_ADDITION_H

#include "common.h"

/* float32 x, y, out (may be either); a top that is not known is -1. */
typedef struct {
    int64_t x, y, out, n, bits, top_x, top_y, stochastic, random[5], threads;
} add_args;

int64_t add(const add_args *a); /* the top of the sum */

#endif
