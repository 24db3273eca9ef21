/* The parameter update: paper section 3.4, bit for bit as reference/sgd.py. */
#ifndef MMINT_SGD_H
#define MMINT_SGD_H

#include "common.h"

/* param and grad are float32; momentum (0: none yet) and out, which takes the new momentum, are
 * mantissas of `bits`. Each factor is (mantissa, exponent). `random` names the bits of role 0. */
typedef struct {
    int64_t param, grad, momentum, out, n, bits, momentum_exponent;
    int64_t momentum_factor[2], weight_decay[2], negative_lr[2];
    int64_t nesterov, random[5], threads;
} sgd_args;

/* The exponent of the new momentum, or a status. */
int64_t sgd_step(const sgd_args *a);

#endif
