/* ReLU and ReLU6 as reference/activation.py has them: comparisons and moves, so exact. Each thread takes whole
 * bytes of the bits. */
#include "arguments.h"
#include "arithmetic/source.h"
#include "integers.h"
#include "levels/level.h"

enum { CHUNK = 1 << 15 };

int64_t relu(const relu_args *a) {
    const int64_t chunks = div_up(a->n, CHUNK);
    const float ceiling = float_of((uint32_t)a->ceiling);
    uint32_t top = 0;
#pragma omp parallel for num_threads(a->threads) reduction(max : top) if (chunks > 1)
    for (int64_t c = 0; c < chunks; c++) {
        const int64_t i = c * CHUNK;
        const uint32_t here =
            level->relu(a->x + i, a->out + i, a->passed + i / 8, least(CHUNK, a->n - i), ceiling);
        top = (uint32_t)most(top, here);
    }
    return top;
}

int64_t relu_grad(const relu_args *a) {
    const int64_t chunks = div_up(a->n, CHUNK);
    uint32_t top = 0;
#pragma omp parallel for num_threads(a->threads) reduction(max : top) if (chunks > 1)
    for (int64_t c = 0; c < chunks; c++) {
        const int64_t i = c * CHUNK;
        const uint32_t here =
            level->relu_grad(a->x + i, a->out + i, a->passed + i / 8, least(CHUNK, a->n - i));
        top = (uint32_t)most(top, here);
    }
    return top;
}
