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
 * `row_of` and `column_of` account for.
 *
 * Sums are exact: the host sees to it that no block adds up more than an int32 holds. Longer sums,
 * and those too few to fill the GPU, are split along K; `add_parts` adds the parts in 64 bits. */
#pragma once

#include "finish.cuh"
#include "mma.cuh"

enum { STAGE = 64, CHUNK = 16, BAND = 16, LANES = 32, SIXTEEN = 16 };

/* Windows along one dimension: window i sees image places i * stride - padding + tap * dilation;
 * in the input gradient the image (the gradient) takes the part of the windows, and the other way
 * round. */
struct axis {
    int64_t size;       /* of the image */
    int64_t positions;  /* windows, or places that an input gradient is for */
    int64_t stride, padding, dilation, taps;
    int64_t phases;     /* 1, or for an input gradient the stride */
    int64_t period;     /* 1, or for an input gradient stride / gcd(stride, dilation) */
};

struct product {
    const int8_t *a, *b;
    float *out;
    int32_t *parts;  /* (splits, problems, rows, columns), or NULL if there is one split */
    finish end;
    int64_t backward;  /* whether this is an input gradient */
    int64_t problems, splits, stages;  /* stages: of all splits together */
    int64_t rows, columns, k;  /* of one problem; columns: the most of any phase */
    /* Between problems, in elements. */
    int64_t a_problem, b_problem, out_problem, bias_problem;
    int64_t bias_row, bias_column;  /* 1 and 0, or 0 and 1 */
    int64_t a_pitch;          /* between rows of A, or steps of K */
    int64_t images, b_pitch;  /* between pixels */
    int64_t channels;         /* of a problem, filled up to a multiple of VECTOR */
    axis vertical, horizontal;
    /* Column (image, y, x) of row r belongs at r * out_row + image * out_image + y * out_y + x * out_x,
     * if x < out_width. */
    int64_t out_row, out_image, out_y, out_x, out_width;
};

/* Division of 0 <= n < 2**31 by a multiplication. */
struct divisor {
    uint32_t by, factor, shift;

    __device__ __forceinline__ explicit divisor(int64_t n) : by(max((uint32_t)n, 1u)), shift(0) {
        while ((uint32_t)1 << shift < by) shift++;
        factor = (uint32_t)((((uint64_t)1 << (31 + shift)) + by - 1) / by);
        shift += 31;
    }
    __device__ __forceinline__ int operator()(int n, int *rest) const {
        const uint32_t quotient = (uint32_t)((uint64_t)(uint32_t)n * factor >> shift);
        *rest = (int)((uint32_t)n - quotient * by);
        return (int)quotient;
    }
};

/* The windows of a phase along one dimension: position i sees image places i * stride + offset +
 * j * step for tap first + j * every, j < taps, and itself lies at place + i * spacing. */
struct windows {
    int size, positions, stride, offset, step, taps, first, every, place, spacing;

    __device__ windows(const axis &a, bool backward, int phase) {
        size = (int)a.size;
        first = 0;
        every = (int)a.period;
        if (!backward) {
            positions = (int)a.positions;
            stride = (int)a.stride;
            offset = -(int)a.padding;
            step = (int)a.dilation;
            taps = (int)a.taps;
            place = 0;
            spacing = 1;
            return;
        }
        spacing = (int)a.stride;
        place = phase;
        positions = (int)max((a.positions - phase + a.stride - 1) / a.stride, (int64_t)0);
        stride = 1;
        const int reach = phase + (int)a.padding, dilation = (int)a.dilation;
        while (first < every && (reach - first * dilation) % spacing) first++;
        taps = first < every && first < a.taps ? ((int)a.taps - first + every - 1) / every : 0;
        offset = taps ? (reach - first * dilation) / spacing : 0;
        step = -(every * dilation / spacing);
    }
};

/* What a block has to do: a tile of a phase of a problem, and which part of K. Bands of BAND tiles of
 * rows go through all columns, so that what they share stays in the cache. */
struct task {
    int split, phase, problem;
    windows v, h;
    int row0, column0, columns; /* columns: of the phase */

    __device__ __forceinline__ task(const product &p, int tile_rows, int tile_columns, bool b_along_k)
        : split(group_of(p, tile_rows, tile_columns) % (int)p.splits),
          phase(group_of(p, tile_rows, tile_columns) / (int)(p.splits * p.problems)),
          problem(group_of(p, tile_rows, tile_columns) / (int)p.splits % (int)p.problems),
          v(p.vertical, p.backward, phase / (int)p.horizontal.phases),
          h(p.horizontal, p.backward, phase % (int)p.horizontal.phases) {
        const int down = tiles(p.rows, tile_rows), across = tiles(p.columns, tile_columns);
        const int tile = (int)(blockIdx.x % (unsigned)(down * across));
        const int band = tile / (BAND * across) * BAND, height = min((int)BAND, down - band);
        row0 = (band + tile % (BAND * across) % height) * tile_rows;
        column0 = tile % (BAND * across) / height * tile_columns;
        columns = b_along_k ? (int)p.images * v.positions * h.positions : (int)p.columns;
    }
    static __device__ __forceinline__ int tiles(int64_t size, int of) {
        return (int)((size + of - 1) / of);
    }
    /* Which problem, phase and split, counted through. */
    static __device__ __forceinline__ int group_of(const product &p, int tile_rows,
                                                       int tile_columns) {
        const unsigned each = (unsigned)(tiles(p.rows, tile_rows) * tiles(p.columns, tile_columns));
        return (int)(blockIdx.x / each);
    }
};

/* Where a column of the result belongs in `out`, or -1 if nowhere. */
struct places {
    const product &p;
    const windows &v, &h;
    bool along_k;  /* columns are places in the image (B along K), not taps and channels */

    __device__ __forceinline__ int64_t operator()(int column) const {
        if (along_k) {
            const int x = column % h.positions, row = column / h.positions;
            const int y = row % v.positions, image = row / v.positions;
            return image * p.out_image + (y * v.spacing + v.place) * p.out_y +
                   (x * h.spacing + h.place) * p.out_x;
        }
        const int x = column % (int)p.channels, y = column / (int)p.channels;
        return x < p.out_width ? y * p.out_y + x * p.out_x : -1;
    }
};

template <int VECTOR> __device__ __forceinline__ void copy(char *to, const int8_t *from, bool inside) {
    if (VECTOR == 16)
        cp_async_16(to, from, inside ? 16 : 0);
    else
        cp_async_4(to, from, inside ? 4 : 0);
}

/* The byte of (row, byte) in a tile of PITCH bytes a row. Eight rows that one `ldmatrix` reads,
 * which are i .. i + 7 of an operand along K, and those of `k_of` of one along rows, begin in
 * different banks. */
template <bool ALONG_K, int PITCH> __device__ __forceinline__ int byte_of(int row, int byte) {
    const int turn = ALONG_K          ? row >> 1 & 3
                     : PITCH == 4 * CHUNK ? row >> 2 & 3
                                      : (row & 1) | (row >> 2 & 3) << 1;
    return row * PITCH + (byte ^ turn * CHUNK);
}

/* The step of K in row i of matrix m that a transposing `ldmatrix` reads. */
__device__ __forceinline__ int k_of(int m, int i) {
    return m / 2 * 16 + i / 2 * 4 + m % 2 * 2 + i % 2;
}

/* What a thread's lanes of 16 rows (or columns) by 32 bytes of K get from a tile: registers 2 * i
 * and 2 * i + 1 hold both halves of K of row set i: rows 0 to 7 and 8 to 15 of an operand along K,
 * even and odd rows of one along rows. */
template <bool ALONG_K, int PITCH>
__device__ __forceinline__ void load_fragment(unsigned (&r)[4], const char *tile, int row0, int k0) {
    const int lane = threadIdx.x % LANES, m = lane / 8, i = lane % 8;
    if (ALONG_K) {
        ldmatrix_x4(r, tile + byte_of<true, PITCH>(row0 + m / 2 * 8 + i, k0 + m % 2 * CHUNK));
    } else {
        unsigned pairs[4];
        ldmatrix_x4_trans(pairs, tile + byte_of<false, PITCH>(k0 + k_of(m, i), row0));
        r[0] = __byte_perm(pairs[0], pairs[1], 0x6420);
        r[1] = __byte_perm(pairs[2], pairs[3], 0x6420);
        r[2] = __byte_perm(pairs[0], pairs[1], 0x7531);
        r[3] = __byte_perm(pairs[2], pairs[3], 0x7531);
    }
}

/* Which of 16 rows (columns) element `i` of row set `set` is. */
template <bool ALONG_K> __device__ __forceinline__ int place_of(int set, int i) {
    return ALONG_K ? set * 8 + i : 2 * i + set;
}

/* Tile: BM x BN sums, WM x WN of a warp; STAGES buffers. */
template <bool A_ALONG_K, bool B_ALONG_K, int BM, int BN, int WM, int WN, int STAGES, int VECTOR>
__device__ __forceinline__ void multiply(const product &p) {
    constexpr int WARPS_N = BN / WN, THREADS = BM / WM * WARPS_N * LANES;
    constexpr int A_PITCH = A_ALONG_K ? STAGE : BM, A_ROWS = A_ALONG_K ? BM : STAGE;
    constexpr int B_PITCH = B_ALONG_K ? STAGE : BN, B_ROWS = B_ALONG_K ? BN : STAGE;
    constexpr int A_VECTORS = A_PITCH / VECTOR, A_STEP = THREADS / A_VECTORS;
    constexpr int B_VECTORS = B_PITCH / VECTOR, B_STEP = THREADS / B_VECTORS;
    constexpr int A_TURNS = A_ROWS / A_STEP, B_TURNS = B_ROWS / B_STEP;
    constexpr int A_BYTES = BM * STAGE, B_BYTES = BN * STAGE;
    static_assert(THREADS % A_VECTORS == 0 && THREADS % B_VECTORS == 0, "threads fill whole rows");
    static_assert(A_ROWS % A_STEP == 0 && B_ROWS % B_STEP == 0, "threads fill whole tiles");
    constexpr int STAGED = WN + 4;
    static_assert(THREADS / LANES * SIXTEEN * STAGED * 4 <= STAGES * (A_BYTES + B_BYTES), "sums fit");
    DYNAMIC_SHARED(char, shared);

    const task t(p, BM, BN, B_ALONG_K);
    const windows &v = t.v, &h = t.h;
    const int row0 = t.row0, column0 = t.column0, columns = t.columns, split = t.split;
    const int rows = (int)p.rows, channels = (int)p.channels;
    const int64_t problem = t.problem;
    if (column0 >= columns) return;
    const int k_end = B_ALONG_K ? v.taps * h.taps * channels : (int)p.k;
    const int stages = (k_end + STAGE - 1) / STAGE;
    const int first_stage = (int)(p.stages * split / p.splits);
    const int last_stage = min((int)(p.stages * (split + 1) / p.splits), stages);

    /* This thread's part of the copies. */
    const int8_t *a = p.a + problem * p.a_problem, *b = p.b + problem * p.b_problem;
    const int thread = threadIdx.x;
    const int a_vector = thread % A_VECTORS * VECTOR, a_first = thread / A_VECTORS;
    const int b_vector = thread % B_VECTORS * VECTOR, b_first = thread / B_VECTORS;
    const divisor by_channels(channels), by_taps(h.taps), by_positions(h.positions),
        by_lines(v.positions);
    /* B along K: the image place of each window's tap 0. */
    int b_y[B_ALONG_K ? B_TURNS : 1], b_x[B_ALONG_K ? B_TURNS : 1], b_pixel[B_ALONG_K ? B_TURNS : 1];
    /* B along rows: the tap and channel of this thread's columns. */
    int tap_y = 0, tap_x = 0, channel = 0;
    if (B_ALONG_K) {
#pragma unroll
        for (int i = 0; i < B_TURNS; i++) {
            const int column = column0 + b_first + i * B_STEP;
            int x, y;
            const int image = by_lines(by_positions(column, &x), &y);
            b_y[i] = y * v.stride + v.offset;
            b_x[i] = x * h.stride + h.offset;
            b_pixel[i] = (image * v.size + b_y[i]) * h.size + b_x[i];
            if (column >= columns) b_y[i] = -(1 << 30); /* outside whatever the tap */
        }
    } else {
        const int tap = by_channels(column0 + b_vector, &channel);
        tap_y = by_taps(tap, &tap_x) * v.step + v.offset;
        tap_x = tap_x * h.step + h.offset;
    }

    auto load = [&](int stage, int buffer) {
        char *a_tile = shared + buffer * (A_BYTES + B_BYTES), *b_tile = a_tile + A_BYTES;
        const int k0 = stage * STAGE;
        int64_t a_offset = k0 + a_vector;
        bool inside = a_offset < k_end;
        int b_y_offset = 0, b_x_offset = 0, b_offset = 0, b_channel = 0;
        if (B_ALONG_K) {
            const int tap = by_channels(k0 + b_vector, &b_channel);
            const int i = by_taps(tap, &b_x_offset);
            a_offset = (int64_t)((v.first + i * v.every) * (int)p.horizontal.taps + h.first +
                                 b_x_offset * h.every) * channels + b_channel;
            b_y_offset = i * v.step;
            b_x_offset *= h.step;
            b_offset = b_y_offset * h.size + b_x_offset;
        }
#pragma unroll
        for (int i = 0; i < A_TURNS; i++) {
            const int line = a_first + i * A_STEP;
            const int8_t *from = a;
            bool in;
            if (A_ALONG_K) {
                in = inside && row0 + line < rows;
                if (in) from += (row0 + line) * p.a_pitch + a_offset;
            } else {
                in = k0 + line < k_end && row0 + a_vector < rows;
                if (in) from += (k0 + line) * p.a_pitch + row0 + a_vector;
            }
            copy<VECTOR>(a_tile + byte_of<A_ALONG_K, A_PITCH>(line, a_vector), from, in);
        }
#pragma unroll
        for (int i = 0; i < B_TURNS; i++) {
            const int line = b_first + i * B_STEP;
            const int8_t *from = b;
            bool in;
            if (B_ALONG_K) {
                in = inside && (unsigned)(b_y[i] + b_y_offset) < (unsigned)v.size &&
                     (unsigned)(b_x[i] + b_x_offset) < (unsigned)h.size;
                if (in) from += (b_pixel[i] + b_offset) * p.b_pitch + b_channel;
            } else {
                int x, y;
                const int image = by_lines(by_positions(k0 + line, &x), &y);
                y = y * v.stride + tap_y;
                x = x * h.stride + tap_x;
                in = k0 + line < k_end && column0 + b_vector < columns &&
                     (unsigned)y < (unsigned)v.size && (unsigned)x < (unsigned)h.size;
                if (in) from += ((image * v.size + y) * h.size + x) * p.b_pitch + channel;
            }
            copy<VECTOR>(b_tile + byte_of<B_ALONG_K, B_PITCH>(line, b_vector), from, in);
        }
    };

    const int warp = thread / LANES, lane = thread % LANES;
    const int warp_row = warp / WARPS_N * WM, warp_column = warp % WARPS_N * WN;
    int sums[WM / 16][WN / 8][4] = {};
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) {
        if (first_stage + s < last_stage) load(first_stage + s, s);
        cp_async_commit();
    }
    for (int stage = first_stage, buffer = 0; stage < last_stage; stage++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        const int ahead = stage + STAGES - 1;
        if (ahead < last_stage) load(ahead, buffer ? buffer - 1 : STAGES - 1);
        cp_async_commit();
        const char *a_tile = shared + buffer * (A_BYTES + B_BYTES), *b_tile = a_tile + A_BYTES;
        if (++buffer == STAGES) buffer = 0;
#pragma unroll
        for (int k = 0; k < STAGE; k += 32) {
            unsigned b_fragment[WN / 16][4];
#pragma unroll
            for (int j = 0; j < WN / 16; j++)
                load_fragment<B_ALONG_K, B_PITCH>(b_fragment[j], b_tile, warp_column + 16 * j, k);
#pragma unroll
            for (int i = 0; i < WM / 16; i++) {
                unsigned r[4];
                load_fragment<A_ALONG_K, A_PITCH>(r, a_tile, warp_row + 16 * i, k);
                const unsigned a_fragment[4] = {r[0], r[2], r[1], r[3]};
#pragma unroll
                for (int j = 0; j < WN / 8; j++) {
                    const unsigned(&both)[4] = b_fragment[j / 2];
                    const unsigned one[2] = {both[j % 2 * 2], both[j % 2 * 2 + 1]};
                    mma_m16n8k32_s8(sums[i][j], a_fragment, one);
                }
            }
        }
    }
    cp_async_wait<0>();
    __syncthreads();

    /* The end: 16 rows at a time, by way of shared memory, so that lanes write neighbours. */
    int *staged = (int *)shared + warp * SIXTEEN * STAGED;
    const places place = {p, v, h, B_ALONG_K};
    int64_t to[WN / LANES];
#pragma unroll
    for (int j = 0; j < WN / LANES; j++) {
        const int column = column0 + warp_column + j * LANES + lane;
        to[j] = column < columns ? place(column) : -1;
    }
    finisher finish(p.end);
#pragma unroll
    for (int i = 0; i < WM / 16; i++) {
#pragma unroll
        for (int j = 0; j < WN / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                staged[place_of<A_ALONG_K>(e / 2, lane / 4) * STAGED + j / 2 * 16 +
                       place_of<B_ALONG_K>(j % 2, lane % 4 * 2 + e % 2)] = sums[i][j][e];
        __syncwarp();
        const int first = row0 + warp_row + 16 * i;
        for (int r = 0; r < min((int)SIXTEEN, rows - first); r++) {
            const int row = first + r;
#pragma unroll
            for (int j = 0; j < WN / LANES; j++) {
                if (to[j] < 0) continue;
                const int sum = staged[r * STAGED + j * LANES + lane];
                if (p.parts)
                    p.parts[(((split * p.problems + problem) * p.horizontal.phases *
                              p.vertical.phases + t.phase) * rows + row) * p.columns + column0 +
                            warp_column + j * LANES + lane] = sum;
                else
                    p.out[problem * p.out_problem + row * p.out_row + to[j]] =
                        finish(sum, problem * p.bias_problem + row * p.bias_row +
                                        (column0 + warp_column + j * LANES + lane) * p.bias_column);
            }
        }
        __syncwarp();
    }
    if (!p.parts) finish.note(p.end);
}
