/* Asynchronous copies of a stage of both operands to shared memory, VECTOR bytes at a time.
 *
 * What a thread copies lies at the same place of every stage, so that all that does not depend on
 * the stage is computed once. Rows and columns beyond the result's edge are copied from anywhere in
 * the operand, since their sums go nowhere; beyond K, and where windows leave the image, are
 * zeros. */
#pragma once

#include "fragments.cuh"

template <int VECTOR>
__device__ __forceinline__ void copy(char *to, const int8_t *from, bool inside) {
    if (VECTOR == 16)
        cp_async_16(to, from, inside ? 16 : 0);
    else
        cp_async_4(to, from, inside ? 4 : 0);
}

/* This thread's share of a tile, EXTENT rows (or columns) by STAGE steps of K: byte `byte` of line
 * `line`, and of every STEP-th line after it. */
template <bool ALONG_K, int EXTENT, int THREADS, int VECTOR> struct share {
    static constexpr int PITCH = ALONG_K ? STAGE : EXTENT, LINES = ALONG_K ? EXTENT : STAGE;
    static constexpr int VECTORS = PITCH / VECTOR, STEP = THREADS / VECTORS, TURNS = LINES / STEP;
    static_assert(THREADS % VECTORS == 0 && LINES % STEP == 0, "threads fill whole rows and tiles");
    int byte, line, place;

    __device__ __forceinline__ share()
        : byte(threadIdx.x % VECTORS * VECTOR),
          line(threadIdx.x / VECTORS),
          place(byte_of<ALONG_K, PITCH>(line, byte)) {}

    __device__ __forceinline__ void put(char *tile, int turn, const int8_t *from,
                                        bool inside) const {
        const int to = STEP % PERIOD<ALONG_K> == 0
                           ? place + turn * STEP * PITCH
                           : byte_of<ALONG_K, PITCH>(line + turn * STEP, byte);
        copy<VECTOR>(tile + to, from, inside);
    }
};

/* Of A. */
template <bool ALONG_K, int EXTENT, int THREADS, int VECTOR> struct matrix_share;

template <int EXTENT, int THREADS, int VECTOR>
struct matrix_share<true, EXTENT, THREADS, VECTOR> : share<true, EXTENT, THREADS, VECTOR> {
    using shape = share<true, EXTENT, THREADS, VECTOR>;
    const int8_t *a;
    int pitch, k_end, row[shape::TURNS];

    __device__ __forceinline__ matrix_share(const product &p, const task &t)
        : a(p.a + t.problem * p.a_problem), pitch((int)p.a_pitch), k_end(t.k) {
#pragma unroll
        for (int i = 0; i < shape::TURNS; i++)
            row[i] = min(t.row0 + this->line + i * shape::STEP, (int)p.rows - 1);
    }
    /* From step `k` of K on, which is this thread's. */
    __device__ __forceinline__ void load(char *tile, int k, bool inside) const {
        const int8_t *from = a + k;
#pragma unroll
        for (int i = 0; i < shape::TURNS; i++)
            this->put(tile, i, from + (int64_t)row[i] * pitch, inside);
    }
    __device__ __forceinline__ void load(char *tile, int stage) const {
        const int k = stage * STAGE + this->byte;
        load(tile, k, k < k_end);
    }
};

template <int EXTENT, int THREADS, int VECTOR>
struct matrix_share<false, EXTENT, THREADS, VECTOR> : share<false, EXTENT, THREADS, VECTOR> {
    using shape = share<false, EXTENT, THREADS, VECTOR>;
    const int8_t *a;
    int pitch, k_end;

    __device__ __forceinline__ matrix_share(const product &p, const task &t)
        : a(p.a + t.problem * p.a_problem), pitch((int)p.a_pitch), k_end(t.k) {
        const int row = t.row0 + this->byte;
        if (row < p.rows) a += row;
    }
    __device__ __forceinline__ void load(char *tile, int stage) const {
#pragma unroll
        for (int i = 0; i < shape::TURNS; i++) {
            const int k = stage * STAGE + this->line + i * shape::STEP;
            this->put(tile, i, a + (int64_t)k * pitch, k < k_end);
        }
    }
};

/* Of B, seen through windows. */
template <bool ALONG_K, int EXTENT, int THREADS, int VECTOR> struct image_share;

/* Lines are windows; along K lie a window's taps, and the channels of each. */
template <int EXTENT, int THREADS, int VECTOR>
struct image_share<true, EXTENT, THREADS, VECTOR> : share<true, EXTENT, THREADS, VECTOR> {
    using shape = share<true, EXTENT, THREADS, VECTOR>;
    const product &p;
    const windows &v, &h;
    const int8_t *b;
    const int pitch, k_end;
    const bool single;
    divisor by_channels, by_taps;
    /* The place of each window's tap 0. */
    int y[shape::TURNS], x[shape::TURNS], pixel[shape::TURNS];

    __device__ __forceinline__ image_share(const product &p, const task &t)
        : p(p),
          v(t.v),
          h(t.h),
          b(p.b + t.problem * p.b_problem),
          pitch((int)p.b_pitch),
          k_end(t.k),
          single(v.single() && h.single()),
          by_channels(single ? 1 : p.channels),
          by_taps(single ? 1 : h.taps) {
#pragma unroll
        for (int i = 0; i < shape::TURNS; i++) {
            const unsigned column = min(t.column0 + this->line + i * shape::STEP, t.columns - 1);
            const unsigned row = column / h.positions, image = row / v.positions;
            y[i] = (int)(row - image * v.positions) * v.stride + v.offset;
            x[i] = (int)(column - row * h.positions) * h.stride + h.offset;
            pixel[i] = ((int)image * v.size + y[i]) * h.size + x[i];
        }
    }
    template <typename MATRIX>
    __device__ __forceinline__ void load(const MATRIX &a, char *a_tile, char *tile,
                                         int stage) const {
        const int k = stage * STAGE + this->byte;
        const bool inside = k < k_end;
        if (single) {
            a.load(a_tile, (v.first * (int)p.horizontal.taps + h.first) * (int)p.channels + k,
                   inside);
#pragma unroll
            for (int i = 0; i < shape::TURNS; i++)
                this->put(tile, i, b + k + (int64_t)pixel[i] * pitch, inside);
            return;
        }
        int channel, tap_x;
        const int tap_y = by_taps(by_channels(k, &channel), &tap_x);
        a.load(a_tile,
               ((v.first + tap_y * v.every) * (int)p.horizontal.taps + h.first + tap_x * h.every) *
                       (int)p.channels +
                   channel,
               inside);
        const int up = inside ? tap_y * v.step : 1 << 30, along = tap_x * h.step;
        const int8_t *from = b + channel + ((int64_t)(tap_y * v.step) * h.size + along) * pitch;
#pragma unroll
        for (int i = 0; i < shape::TURNS; i++)
            this->put(tile, i, from + (int64_t)pixel[i] * pitch,
                      (unsigned)(y[i] + up) < (unsigned)v.size &&
                          (unsigned)(x[i] + along) < (unsigned)h.size);
    }
};

/* Lines are steps of K, each a window; along a line lie taps, and the channels of each. */
template <int EXTENT, int THREADS, int VECTOR>
struct image_share<false, EXTENT, THREADS, VECTOR> : share<false, EXTENT, THREADS, VECTOR> {
    using shape = share<false, EXTENT, THREADS, VECTOR>;
    const windows &v, &h;
    const int8_t *b;  /* the channel of this thread's columns */
    const int pitch, k_end;
    const bool identical;
    const divisor by_positions, by_lines;
    int y, x;  /* the place of their tap, from that of the window */

    __device__ __forceinline__ image_share(const product &p, const task &t)
        : v(t.v),
          h(t.h),
          b(p.b + t.problem * p.b_problem),
          pitch((int)p.b_pitch),
          k_end(t.k),
          identical(v.identical() && h.identical()),
          by_positions(identical ? 1 : h.positions),
          by_lines(identical ? 1 : v.positions) {
        const unsigned column = t.column0 + this->byte, tap = column / (unsigned)p.channels;
        const unsigned tap_y = tap / h.taps;
        y = (int)tap_y * v.step + v.offset;
        x = (int)(tap - tap_y * h.taps) * h.step + h.offset;
        b += column - tap * (unsigned)p.channels;
    }
    template <typename MATRIX>
    __device__ __forceinline__ void load(const MATRIX &a, char *a_tile, char *tile,
                                         int stage) const {
        a.load(a_tile, stage);
#pragma unroll
        for (int i = 0; i < shape::TURNS; i++) {
            const int k = stage * STAGE + this->line + i * shape::STEP;
            if (identical) {
                this->put(tile, i, b + (int64_t)k * pitch, k < k_end);
                continue;
            }
            int column, row;
            const int image = by_lines(by_positions(k, &column), &row);
            row = row * v.stride + y;
            column = column * h.stride + x;
            const bool inside = k < k_end && (unsigned)row < (unsigned)v.size &&
                                (unsigned)column < (unsigned)h.size;
            const int pixel = (image * v.size + row) * h.size + column;
            this->put(tile, i, b + (int64_t)pixel * pitch, inside);
        }
    }
};
