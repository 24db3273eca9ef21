/* A sum of the update, with its random bits. */
#ifndef MMINT_SGD_H
#define MMINT_SGD_H

#include "arithmetic/sgd.h"
#include "random.h"

/* A sum, and the random bits that align it. */
typedef struct update_sum {
    sgd_sum plan;
    philox_key key;
} update_sum_t;

#endif
