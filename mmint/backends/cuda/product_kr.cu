/* Products of A along K and B along its columns.
 *
 * `large` tiles have the most arithmetic for each byte, `small` ones are for results that few large
 * ones would cover, `narrow` ones for operands that are no multiple of 16 bytes wide. Each layout of
 * operands has a file, so that they compile side by side. */
#include "product.cuh"

extern "C" __global__ void __launch_bounds__(256) kr_large(product p) {
    multiply<true, false, 128, 256, 64, 64, 4, 16>(p);
}
extern "C" __global__ void __launch_bounds__(128, 3) kr_small(product p) {
    multiply<true, false, 64, 128, 32, 64, 3, 16>(p);
}
extern "C" __global__ void __launch_bounds__(128, 4) kr_narrow(product p) {
    multiply<true, false, 64, 64, 32, 32, 3, 4>(p);
}
