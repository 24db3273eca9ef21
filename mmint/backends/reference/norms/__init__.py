"""Batch, group and layer norm in integers: paper section 3.4.

**Statistics.** Sums of mantissas X and of their squares, S1 and S2, are exact integers. Of a group
of n elements at exponent e, ``V = n * S2 - S1**2`` is exact too, and

    mean = S1 / n * 2**e      var = V / n**2 * 2**(2 e)      rstd = 1 / sqrt(var + eps)

are wide numbers (`mmint.numerics.wide`); the relative error of rstd is below 2**-28. What the
mapping adds is the paper's equation (5): stochastic rounding leaves the mean unbiased and adds its
own variance,

    E[var of X * 2**e] = var x + (1 - 1 / n) * mean(v),    v_i <= (2**e)**2 / 4

where v_i is the variance of element i's rounding; so do gradients computed from it.

**Elements.** Output and input gradient are ``a * X + b`` and ``p * G + q * X + r``, with integer
coefficients at the lowest exponent at which scales are at most 2**`SCALE_BITS`; then one rounding
to float32. Offsets are computed from the rounded scales: ``b = beta - round(a * S1 / n)``, and r
such that the gradient sums to at most n / 2 units over a group. So a scale's rounding error,
2**-`SCALE_BITS` of it at most, acts on ``X - S1 / n`` and not on X: together they stay below 2**-20
of what the largest mantissa would give (of beta, if that is more). For mantissas of ``bits`` bits
|a * X + b| and |p * G + q * X + r| stay below 2**(bits + 23), which is int32 for 8 bits: a scale
meets a difference below 2**bits (so 2**(bits + 22)), and the other scale or beta adds as much.

Batch and group norm see (N, C, ...) as planes (n, c); a group is a channel's planes in all images,
or an image's planes of several channels. Layer norm sees rows.
"""

from .batch import batch_norm, batch_norm_grad, batch_norm_grad_source, batch_norm_source
from .frozen import (
    frozen_norm,
    frozen_norm_grad,
    frozen_norm_grad_source,
    frozen_norm_source,
    frozen_norm_weight_grad,
)
from .group import group_norm, group_norm_grad, group_norm_grad_source, group_norm_source
from .layer import layer_norm, layer_norm_grad
from .running import update_running
from .statistics import plane_products, plane_sums

__all__ = [
    'batch_norm',
    'batch_norm_grad',
    'batch_norm_grad_source',
    'batch_norm_source',
    'frozen_norm',
    'frozen_norm_grad',
    'frozen_norm_grad_source',
    'frozen_norm_source',
    'frozen_norm_weight_grad',
    'group_norm',
    'group_norm_grad',
    'group_norm_grad_source',
    'group_norm_source',
    'layer_norm',
    'layer_norm_grad',
    'plane_products',
    'plane_sums',
    'update_running',
]
