/* One matrix product serves matrices and the three products of a convolution.
 *
 *     sums (rows x columns) = A (rows x K) * B (K x columns),   int8 x int8 -> int32
 *
 * A is a matrix. B is an image (images, height, width, channels) seen through windows, of which a
 * matrix is the case of one image of one row, and windows of one tap:
 *
 *     product                A                 B                          K             columns
 *     forward                weight            input, by windows          tap, channel  place
 *     input gradient         weight            gradient, by windows       tap, filter   place
 *     weight gradient        gradient          input, by windows          place         tap, channel
 *     matmul                 a                 b                          column of a   column of b
 *
 * In memory each operand's bytes follow one another either along K, or along rows (columns of B).
 * Groups of a convolution and matrices of a batch are separate problems of one launch. A problem may
 * have phases: the input gradient of a convolution of stride s takes pixels of equal remainder
 * modulo s together, since the same taps reach all of them; seen from a phase, it is a convolution
 * of stride 1 with fewer taps.
 *
 * A block makes a tile of the sums. Stages of 64 bytes of K travel to shared memory by asynchronous
 * copies of VECTOR bytes, several ahead of their use. In shared memory, 16-byte chunks of a row are
 * permuted so that `ldmatrix` meets no bank conflict. Tensor cores want four bytes along K in
 * a register; for operands that lie along rows, a transposing `ldmatrix` brings pairs of rows, and
 * byte permutations take the pairs apart: a register then holds one of two neighbouring rows, which
 * `place_of` accounts for. Fragments for the next 32 steps of K are loaded while the tensor cores
 * work on these.
 *
 * Sums are exact: the host sees to it that no block adds up more than an int32 holds. Longer sums,
 * and those too few to fill the GPU, are split along K; `add_parts` adds the parts in 64 bits. */
#pragma once

#include "copies.cuh"

/* Sums in a row of `staged`, and what keeps its rows in different banks. */
template <int WN> constexpr int STAGED = WN + 4;

/* A warp's sums become float32 in `out`, or stay as they are in `parts`: 16 rows at a time, by way of
 * shared memory, so that lanes write neighbours. Nearly always the finish is `fast`, and then several
 * rows are under way at once. */
template <bool A_ALONG_K, bool B_ALONG_K, int WM, int WN>
__device__ __forceinline__ void write(const product &p, const task &t,
                                      int (&sums)[WM / 16][WN / 8][4], int warp_row,
                                      int warp_column, int *staged) {
    constexpr int COLUMNS = WN / LANES;
    const int lane = threadIdx.x % LANES, first_column = t.column0 + warp_column + lane;
    const places place = {p, t.v, t.h, B_ALONG_K};
    finisher finish(p.end);
    int64_t to[COLUMNS];
    int column_bias[COLUMNS];
    float column_scale[COLUMNS];
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) {
        const int column = first_column + j * LANES;
        to[j] = column < t.columns ? place(column) : -1;
        column_bias[j] = finish.bias && p.bias_column && to[j] >= 0 ? (int)finish.bias[column] : 0;
        column_scale[j] = 1.0f;
        if (p.bias_column && finish.fast && to[j] >= 0)
            column_scale[j] = finish.scale_for(t.problem * p.bias_problem + column);
    }
    const int64_t *row_bias =
        finish.bias && p.bias_row ? finish.bias + t.problem * p.bias_problem : NULL;
    int32_t *parts =
        p.parts +
        ((t.split * p.problems + t.problem) * p.horizontal.phases * p.vertical.phases + t.phase) *
            p.rows * p.columns +
        first_column;
#pragma unroll
    for (int i = 0; i < WM / 16; i++) {
#pragma unroll
        for (int j = 0; j < WN / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                staged[place_of<A_ALONG_K>(e / 2, lane / 4) * STAGED<WN> + j / 2 * 16 +
                       place_of<B_ALONG_K>(j % 2, lane % 4 * 2 + e % 2)] = sums[i][j][e];
        __syncwarp();
        const int first = t.row0 + warp_row + 16 * i, rows = min((int)SIXTEEN, (int)p.rows - first);
        float *out = p.out + t.problem * p.out_problem + first * p.out_row;
        const int *sum = staged + lane;
        if (p.parts) {
#pragma unroll 4
            for (int r = 0; r < rows; r++)
#pragma unroll
                for (int j = 0; j < COLUMNS; j++)
                    if (to[j] >= 0)
                        parts[(first + r) * p.columns + j * LANES] =
                            sum[r * STAGED<WN> + j * LANES];
        } else if (finish.fast) {
#pragma unroll 4
            for (int r = 0; r < rows; r++) {
                const int bias = row_bias ? (int)row_bias[first + r] : 0;
                float by = 1.0f;
                if (p.bias_row) by = finish.scale_for(t.problem * p.bias_problem + first + r);
#pragma unroll
                for (int j = 0; j < COLUMNS; j++)
                    if (to[j] >= 0)
                        out[r * p.out_row + to[j]] =
                            finish.scaled(sum[r * STAGED<WN> + j * LANES], bias + column_bias[j],
                                          by * column_scale[j]);
                finish.note_channel(t.problem * p.bias_problem + first + r);
            }
        } else {
#pragma unroll 1
            for (int r = 0; r < rows; r++) {
#pragma unroll
                for (int j = 0; j < COLUMNS; j++)
                    if (to[j] >= 0)
                        out[r * p.out_row + to[j]] =
                            finish(sum[r * STAGED<WN> + j * LANES],
                                   t.problem * p.bias_problem + (first + r) * p.bias_row +
                                       (first_column + j * LANES) * p.bias_column);
                finish.note_channel(t.problem * p.bias_problem + first + r);
            }
        }
        __syncwarp();
    }
    if (!p.parts) finish.note();
}

/* Tile: BM x BN sums, WM x WN of a warp; STAGES buffers. */
template <bool A_ALONG_K, bool B_ALONG_K, int BM, int BN, int WM, int WN, int STAGES, int VECTOR>
__device__ __forceinline__ void multiply(const product &p) {
    constexpr int WARPS_N = BN / WN, THREADS = BM / WM * WARPS_N * LANES;
    using a_share = matrix_share<A_ALONG_K, BM, THREADS, VECTOR>;
    using b_share = image_share<B_ALONG_K, BN, THREADS, VECTOR>;
    using a_fragments = fragments<A_ALONG_K, a_share::PITCH, WM / 16>;
    using b_fragments = fragments<B_ALONG_K, b_share::PITCH, WN / 16>;
    constexpr int A_BYTES = BM * STAGE, BYTES = (BM + BN) * STAGE;
    static_assert(THREADS / LANES * SIXTEEN * STAGED<WN> * 4 <= STAGES * BYTES, "sums fit");
    DYNAMIC_SHARED(char, shared);

    const task t(p, BM, BN, B_ALONG_K);
    if (t.column0 >= t.columns) return;
    const int first = t.stage(p, t.split);
    const int last = min(t.stage(p, t.split + 1), (t.k + STAGE - 1) / STAGE);
    const a_share a(p, t);
    const b_share b(p, t);
    const int warp = threadIdx.x / LANES;
    const int warp_row = warp / WARPS_N * WM, warp_column = warp % WARPS_N * WN;
    const typename a_fragments::place a_place(warp_row);
    const typename b_fragments::place b_place(warp_column);

    int sums[WM / 16][WN / 8][4] = {};
    a_fragments a_now[2];
    b_fragments b_now[2];
    auto load = [&](const char *tile, int half) {
        a_now[half].load(tile, a_place, half);
        b_now[half].load(tile + A_BYTES, b_place, half);
    };
    auto multiply_half = [&](int half) {
#pragma unroll
        for (int i = 0; i < WM / 16; i++) {
            const unsigned (&r)[4] = a_now[half].r[i];
            const unsigned of_a[4] = {r[0], r[2], r[1], r[3]};
#pragma unroll
            for (int j = 0; j < WN / 8; j++) {
                const unsigned (&both)[4] = b_now[half].r[j / 2];
                const unsigned of_b[2] = {both[j % 2 * 2], both[j % 2 * 2 + 1]};
                mma_m16n8k32_s8(sums[i][j], of_a, of_b);
            }
        }
    };
    /* Copies run STAGES - 1 stages ahead, fragments half a stage. */
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) {
        char *tile = shared + s * BYTES;
        if (first + s < last) b.load(a, tile, tile + A_BYTES, first + s);
        cp_async_commit();
    }
    cp_async_wait<STAGES - 2>();
    __syncthreads();
    if (first < last) load(shared, 0);
    int now = 0, free = (STAGES - 1) * BYTES;
    for (int stage = first; stage < last; stage++) {
        load(shared + now, 1);
        const int ahead = stage + STAGES - 1;
        char *tile = shared + free;
        if (ahead < last) b.load(a, tile, tile + A_BYTES, ahead);
        cp_async_commit();
        multiply_half(0);
        free = now;
        now = now == (STAGES - 1) * BYTES ? 0 : now + BYTES;
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        if (stage + 1 < last) load(shared + now, 0);
        multiply_half(1);
    }
    cp_async_wait<0>();
    __syncthreads();
    write<A_ALONG_K, B_ALONG_K, WM, WN>(p, t, sums, warp_row, warp_column,
                                        (int *)shared + warp * SIXTEEN * STAGED<WN>);
}
