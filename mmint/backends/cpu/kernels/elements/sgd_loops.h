/* The update, a group of elements at a time. */
#ifndef MMINT_SGD_LOOPS_H
#define MMINT_SGD_LOOPS_H

#include "sgd.h"

INLINE int32_t momentum_at(const update_t *u, long i) {
    if (!u->momentum || u->is_first) return 0;
    return u->settings.bits > 8 ? ((const int16_t *)u->momentum)[i]
                                : ((const int8_t *)u->momentum)[i];
}

INLINE void keep_momentum(const update_t *u, long i, int32_t mantissa) {
    if (!u->momentum) return;
    if (u->settings.bits > 8)
        ((int16_t *)u->momentum)[i] = (int16_t)mantissa;
    else
        ((int8_t *)u->momentum)[i] = (int8_t)mantissa;
}

/* Elements first, a multiple of GROUP, to first + n - 1. */
static inline void sgd_loop(const sgd_task_t *t, long first, long n) {
    const update_t *u = t->of;
    const sgd_plan *p = &t->plan;
    for (long base = first; base < first + n; base += GROUP) {
        const int count = (int)least(GROUP, first + n - base);
        const uint64_t group = (uint64_t)base / GROUP;
        uint16_t param[GROUP] = {0}, momentum[GROUP], ahead[GROUP], update[GROUP];
        uint32_t off_grid = 0;
        for (int i = 0; i < count; i++)
            off_grid |= (uint32_t)fine_of(pattern_of(u->param[base + i]), p->param_exponent);
        if (off_grid << FRACTION_BITS) draw_group(&t->for_param, group, param);
        draw_group(&t->for_momentum, group, momentum);
        draw_group(&t->for_update, group, update);
        if (p->nesterov) draw_group(&t->for_nesterov, group, ahead);
        for (int i = 0; i < count; i++) {
            const long at = base + i;
            const uint32_t grad = pattern_of(u->grad[at]);
            const int32_t w = map_one(pattern_of(u->param[at]), p->param_exponent, 1, param[i]);
            int32_t v = sgd_summed(&p->direction, momentum_at(u, at), w, grad, momentum[i]);
            keep_momentum(u, at, v);
            if (p->nesterov) v = sgd_summed(&p->ahead, v, w, grad, ahead[i]);
            u->param[at] =
                dequantize_one(sgd_summed(&p->update, v, w, 0, update[i]), p->update.exponent);
        }
    }
}

#endif
