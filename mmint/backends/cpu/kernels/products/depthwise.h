/* Depthwise convolution: one channel a group, so that each plane is filtered on its own. Images and
 * results are (n, c, h, w), weights (channel, tap). */
#ifndef MMINT_DEPTHWISE_H
#define MMINT_DEPTHWISE_H

#include "arguments.h"
#include "finish.h"

/* Each channel has a finish. */
int depthwise(const conv2d_args *a, const finish_t *finish, extent_t *seen);

int depthwise_input_grad(const conv2d_args *a, const finish_t *finish, extent_t *seen);

int depthwise_weight_grad(const conv2d_args *a);

#endif
