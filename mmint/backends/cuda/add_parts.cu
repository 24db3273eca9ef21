/* Adds the parts of products that were split along K, in 64 bits, and finishes the sums. */
#include "schedule.cuh"

enum { THREADS = 256 };

extern "C" __global__ void __launch_bounds__(THREADS) add_parts(product p, int64_t b_along_k) {
    finisher finish(p.end);
    const int64_t phases = p.vertical.phases * p.horizontal.phases, sums = p.rows * p.columns;
    for (int64_t u = 0; u < p.problems * phases; u++) {
        const int64_t problem = u / phases, phase = u % phases;
        const windows v(p.vertical, p.backward, (int)(phase / p.horizontal.phases));
        const windows h(p.horizontal, p.backward, (int)(phase % p.horizontal.phases));
        const places place = {p, v, h, b_along_k != 0};
        const int64_t columns = b_along_k ? p.images * v.positions * h.positions : p.columns;
        const int64_t across = (columns + LANES - 1) / LANES; /* of a row's columns, a warp each */
        for (int64_t t = first_index() / LANES; t < p.rows * across; t += stride() / LANES) {
            const int64_t row = t / across, column = t % across * LANES + threadIdx.x % LANES;
            const int64_t to = column < columns ? place((int)column) : -1;
            const int64_t channel = problem * p.bias_problem + row * p.bias_row;
            if (to >= 0) {
                const int32_t *part = p.parts + u * sums + row * p.columns + column;
                int64_t sum = 0;
                for (int64_t s = 0; s < p.splits; s++) sum += part[s * p.problems * phases * sums];
                p.out[problem * p.out_problem + row * p.out_row + to] =
                    finish(sum, channel + column * p.bias_column);
            }
            finish.note_channel(channel);
        }
    }
    finish.note();
}
