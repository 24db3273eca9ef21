/* An addition of two tensors, prepared. */
#ifndef MMINT_ADDITION_H
#define MMINT_ADDITION_H

#include "arithmetic/addition.h"
#include "random.h"
#include "source.h"

typedef struct addition {
    source_t x[2];
    addition_t plan;
    int usual, far; /* do powers of two do? Doubles, and not int32? See addition.c. */
    int stochastic;
    philox_key key;
} sum_t;

#endif
