/* The products of product.cuh, named by how A and B lie in memory, in tiles of three kinds: `large`
 * ones have the most arithmetic for each byte, `small` ones are for results that few large ones would
 * cover, `narrow` ones for operands that are no multiple of 16 bytes wide. */
#include "product.cuh"

enum { THREADS = 256 };

extern "C" __global__ void __launch_bounds__(256) kk_large(product p) {
    multiply<true, true, 128, 256, 64, 64, 4, 16>(p);
}
extern "C" __global__ void __launch_bounds__(128, 3) kk_small(product p) {
    multiply<true, true, 64, 128, 32, 64, 3, 16>(p);
}
extern "C" __global__ void __launch_bounds__(128) kk_narrow(product p) {
    multiply<true, true, 64, 128, 32, 64, 3, 4>(p);
}

extern "C" __global__ void __launch_bounds__(256) kr_large(product p) {
    multiply<true, false, 128, 256, 64, 64, 4, 16>(p);
}
extern "C" __global__ void __launch_bounds__(128, 3) kr_small(product p) {
    multiply<true, false, 64, 128, 32, 64, 3, 16>(p);
}
extern "C" __global__ void __launch_bounds__(128) kr_narrow(product p) {
    multiply<true, false, 64, 128, 32, 64, 3, 4>(p);
}

extern "C" __global__ void __launch_bounds__(256) rr_large(product p) {
    multiply<false, false, 128, 256, 64, 64, 4, 16>(p);
}
extern "C" __global__ void __launch_bounds__(128, 3) rr_small(product p) {
    multiply<false, false, 64, 128, 32, 64, 3, 16>(p);
}
extern "C" __global__ void __launch_bounds__(128) rr_narrow(product p) {
    multiply<false, false, 64, 128, 32, 64, 3, 4>(p);
}

/* Adds the parts of a product that was split along K. */
extern "C" __global__ void __launch_bounds__(THREADS) add_parts(product p, int64_t b_along_k) {
    finisher finish(p.end);
    const int64_t phases = p.vertical.phases * p.horizontal.phases, sums = p.rows * p.columns;
    for (int64_t u = 0; u < p.problems * phases; u++) {
        const int64_t problem = u / phases, phase = u % phases;
        const windows v(p.vertical, p.backward, (int)(phase / p.horizontal.phases));
        const windows h(p.horizontal, p.backward, (int)(phase % p.horizontal.phases));
        const places place = {p, v, h, b_along_k != 0};
        const int64_t columns = b_along_k ? p.images * v.positions * h.positions : p.columns;
        for (int64_t i = first_index(); i < p.rows * columns; i += stride()) {
            const int64_t row = i / columns, column = i % columns, to = place((int)column);
            if (to < 0) continue;
            const int32_t *part = p.parts + u * sums + row * p.columns + column;
            int64_t sum = 0;
            for (int64_t s = 0; s < p.splits; s++) sum += part[s * p.problems * phases * sums];
            p.out[problem * p.out_problem + row * p.out_row + to] =
                finish(sum, problem * p.bias_problem + row * p.bias_row + column * p.bias_column);
        }
    }
    finish.note(p.end);
}
