/* What a block of a product has to do: its tile, its phase of its problem, its part of K; where
 * windows lie in the image, and where sums belong in the result. */
#pragma once

#include "finish.cuh"

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

    /* Whether every position sees a place of the image through its only tap. */
    __device__ __forceinline__ bool single() const {
        return taps == 1 && offset >= 0 && (positions - 1) * stride + offset < size;
    }
    /* Whether, moreover, positions are places. */
    __device__ __forceinline__ bool identical() const {
        return single() && stride == 1 && positions == size;
    }

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
    int k;                      /* the length of its sums, of all splits */

    __device__ __forceinline__ task(const product &p, int tile_rows, int tile_columns,
                                    bool b_along_k)
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
        k = b_along_k ? v.taps * h.taps * (int)p.channels : (int)p.k;
    }
    /* The first stage of a split; that of split + 1 is the end. */
    __device__ __forceinline__ int stage(const product &p, int split) const {
        if (p.splits == 1) return split * (int)p.stages;
        return (int)(p.stages * split / p.splits);
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
