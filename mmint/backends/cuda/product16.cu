/* The products of product.cuh for int16 mantissas (9 to 16 bits): plain, exact, and slower.
 *
 * A block of 16 x 16 threads makes 16 x 16 sums, 16 steps of K at a time through shared memory.
 * Products are below 2**30 and are added in 64 bits. */
#include "product.cuh"

enum { SIDE = 16 };

template <bool A_ALONG_K, bool B_ALONG_K> __device__ void multiply_16(const product &p) {
    __shared__ int16_t a_tile[SIDE][SIDE + 2], b_tile[SIDE][SIDE + 2]; /* by row, column */
    const task t(p, SIDE, SIDE, B_ALONG_K);
    if (t.column0 >= t.columns) return;
    const int16_t *a = (const int16_t *)p.a + t.problem * p.a_problem;
    const int16_t *b = (const int16_t *)p.b + t.problem * p.b_problem;
    const int channels = (int)p.channels, x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
    const int k_end = B_ALONG_K ? t.v.taps * t.h.taps * channels : (int)p.k;
    int64_t sum = 0;
    for (int k0 = 0; k0 < k_end; k0 += SIDE) {
        /* Neighbouring threads take neighbouring elements. */
        const int a_row = A_ALONG_K ? y : x, a_k = k0 + (A_ALONG_K ? x : y);
        const int b_column = B_ALONG_K ? y : x, b_k = k0 + (B_ALONG_K ? x : y);
        const int row = t.row0 + a_row, column = t.column0 + b_column;
        const int tap = (B_ALONG_K ? b_k : column) / channels;
        const int channel = (B_ALONG_K ? b_k : column) % channels;
        const int window = B_ALONG_K ? column : b_k;
        const int tap_x = tap % max(t.h.taps, 1), tap_y = tap / max(t.h.taps, 1);
        int16_t left = 0, right = 0;
        if (row < p.rows && a_k < k_end) {
            int64_t k = a_k;
            if (B_ALONG_K)
                k = (int64_t)((t.v.first + tap_y * t.v.every) * (int)p.horizontal.taps + t.h.first +
                              tap_x * t.h.every) *
                        channels +
                    channel;
            left = A_ALONG_K ? a[row * p.a_pitch + k] : a[k * p.a_pitch + row];
        }
        if (column < t.columns && b_k < k_end) {
            const int image = window / t.h.positions / t.v.positions;
            const int i =
                window / t.h.positions % t.v.positions * t.v.stride + t.v.offset + tap_y * t.v.step;
            const int j = window % t.h.positions * t.h.stride + t.h.offset + tap_x * t.h.step;
            if ((unsigned)i < (unsigned)t.v.size && (unsigned)j < (unsigned)t.h.size)
                right = b[((image * t.v.size + i) * t.h.size + j) * p.b_pitch + channel];
        }
        __syncthreads();
        a_tile[a_row][a_k - k0] = left;
        b_tile[b_column][b_k - k0] = right;
        __syncthreads();
#pragma unroll
        for (int k = 0; k < SIDE; k++) sum += (int)a_tile[y][k] * b_tile[x][k];
    }
    finisher finish(p.end);
    const places place = {p, t.v, t.h, B_ALONG_K};
    const int row = t.row0 + y, column = t.column0 + x;
    const int64_t to = row < p.rows && column < t.columns ? place(column) : -1;
    if (to >= 0)
        p.out[t.problem * p.out_problem + row * p.out_row + to] =
            finish(sum, t.problem * p.bias_problem + row * p.bias_row + column * p.bias_column);
    if (row < p.rows) finish.note_alone(t.problem * p.bias_problem + row);
    finish.note();
}

extern "C" __global__ void __launch_bounds__(256) kk_16(product p) { multiply_16<true, true>(p); }
extern "C" __global__ void __launch_bounds__(256) kr_16(product p) { multiply_16<true, false>(p); }
extern "C" __global__ void __launch_bounds__(256) rr_16(product p) { multiply_16<false, false>(p); }
