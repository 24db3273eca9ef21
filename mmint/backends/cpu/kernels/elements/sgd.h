/* A step of stochastic gradient descent, as Python asks for it and as threads share it. */
#ifndef MMINT_SGD_H
#define MMINT_SGD_H

#include "arithmetic/sgd.h"
#include "random.h"

/* One parameter: a row of words from mmint/backends/cpu/sgd.py. */
typedef struct {
    float *param;
    const float *grad;
    void *momentum;    /* int8 where bits <= 8, else int16; NULL where none is kept */
    int32_t *exponent; /* of the momentum */
    int64_t is_first, n;
    sgd_settings settings;
    int64_t k0, k1, c1, c2, c3;
} update_t;

/* The same, planned. */
typedef struct sgd_task {
    const update_t *of;
    sgd_tops tops;
    sgd_plan plan;
    int usual; /* do powers of two and int32 do? See levels/avx2_sgd.h. */
    philox_key for_param, for_momentum, for_nesterov, for_update;
} sgd_task_t;

#endif
