/* Stochastic gradient descent: paper section 3.4, bit for bit as reference/sgd.py, by the plan of
 * arithmetic/sgd.h.
 *
 * All parameters in two passes: the largest magnitudes, from which every exponent follows, then the
 * update. Threads share the chunks of all parameters. */
#include "sgd.h"

#include "arguments.h"
#include "levels/level.h"
#include "mapping_loops.h"
#include "memory.h"
#include "status.h"

enum { CHUNK = 1 << 13 };

typedef struct {
    long task, first, n;
} chunk_t;

static long count_chunks(const update_t *updates, long count, chunk_t *chunks) {
    long made = 0;
    for (long i = 0; i < count; i++)
        for (long first = 0; first < updates[i].n; first += CHUNK, made++)
            if (chunks) chunks[made] = (chunk_t){i, first, least(CHUNK, updates[i].n - first)};
    return made;
}

static uint32_t momentum_top(const update_t *u, long first, long n) {
    int32_t high = 0, low = 0;
    if (!u->momentum || u->is_first) return 0;
    if (u->settings.bits > 8) {
        const int16_t *x = (const int16_t *)u->momentum + first;
        int16_t most = 0, fewest = 0;
        for (long i = 0; i < n; i++) {
            most = x[i] > most ? x[i] : most;
            fewest = x[i] < fewest ? x[i] : fewest;
        }
        high = most, low = fewest;
    } else {
        const int8_t *x = (const int8_t *)u->momentum + first;
        for (long i = 0; i < n; i++) {
            high = x[i] > high ? x[i] : high;
            low = x[i] < low ? x[i] : low;
        }
    }
    return (uint32_t)(high > -low ? high : -low);
}

static void see(sgd_task_t *t, long first, long n) {
    const update_t *u = t->of;
    const uint32_t grad = level->top((const uint32_t *)u->grad + first, n);
    const uint32_t param = level->top((const uint32_t *)u->param + first, n);
    const uint32_t momentum = momentum_top(u, first, n);
#pragma omp critical
    {
        if (grad > t->tops.grad) t->tops.grad = grad;
        if (param > t->tops.param) t->tops.param = param;
        if (momentum > t->tops.momentum) t->tops.momentum = momentum;
    }
}

static philox_key key_for(const update_t *u, int role) {
    const random_words name = {1, u->k0, u->k1, u->c1, u->c2, u->c3, NULL};
    return key_of(with_role(name, role));
}

/* Is 2**(16 - exponent) a float32? */
static int sum_is_usual(const sgd_sum *s) { return s->exponent >= -111 && s->exponent <= 142; }

static void plan(sgd_task_t *t) {
    const update_t *u = t->of;
    sgd_plan *p = &t->plan;
    t->tops.momentum_exponent = t->tops.momentum ? *u->exponent : 0;
    *p = sgd_plan_of(&u->settings, t->tops);
    t->usual = scale_does(p->param_exponent) && sum_is_usual(&p->direction) &&
               sum_is_usual(&p->ahead) && scale_is_exact(p->update.exponent, SCALED_INT32);
    t->for_param = key_for(u, SGD_PARAMETER);
    t->for_momentum = key_for(u, SGD_MOMENTUM);
    t->for_nesterov = key_for(u, SGD_NESTEROV);
    t->for_update = key_for(u, SGD_UPDATE);
    if (u->momentum) *u->exponent = p->direction.exponent;
}

static int64_t step(const sgd_step_args *a, sgd_task_t *tasks, const chunk_t *chunks, long count) {
    const int threads = (int)a->threads;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (count > 2)
    for (long c = 0; c < count; c++) see(&tasks[chunks[c].task], chunks[c].first, chunks[c].n);
    for (long i = 0; i < a->count; i++)
        if (!is_finite(tasks[i].tops.grad) || !is_finite(tasks[i].tops.param)) return i + 1;
    for (long i = 0; i < a->count; i++) plan(&tasks[i]);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (count > 2)
    for (long c = 0; c < count; c++)
        level->sgd(&tasks[chunks[c].task], chunks[c].first, chunks[c].n);
    return OK;
}

int64_t sgd_step(const sgd_step_args *a) {
    const update_t *updates = (const update_t *)a->updates;
    const long count = count_chunks(updates, a->count, NULL);
    sgd_task_t *tasks = allocate((size_t)a->count * sizeof *tasks);
    chunk_t *chunks = allocate((size_t)count * sizeof *chunks);
    int64_t result = NO_MEMORY;
    if (tasks && chunks) {
        for (long i = 0; i < a->count; i++) tasks[i] = (sgd_task_t){.of = &updates[i]};
        count_chunks(updates, a->count, chunks);
        result = step(a, tasks, chunks, count);
    }
    free(tasks);
    free(chunks);
    return result;
}
