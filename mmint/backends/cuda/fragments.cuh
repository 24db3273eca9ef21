/* Tiles of an operand in shared memory, and what tensor cores take from them. */
#pragma once

#include "mma.cuh"
#include "schedule.cuh"

/* The byte of (row, byte) in a tile of PITCH bytes a row. Eight rows that one `ldmatrix` reads,
 * which are i .. i + 7 of an operand along K, and those of `k_of` of one along rows, begin in
 * different banks. */
template <bool ALONG_K, int PITCH> __device__ __forceinline__ int byte_of(int row, int byte) {
    const int turn = ALONG_K              ? row >> 1 & 3
                     : PITCH == 4 * CHUNK ? row >> 2 & 3
                                          : (row & 1) | (row >> 2 & 3) << 1;
    return row * PITCH + (byte ^ turn * CHUNK);
}

/* Rows that are so many apart are permuted alike. */
template <bool ALONG_K> constexpr int PERIOD = ALONG_K ? 8 : 16;

/* The step of K in row i of matrix m that a transposing `ldmatrix` reads. */
__device__ __forceinline__ int k_of(int m, int i) {
    return m / 2 * 16 + i / 2 * 4 + m % 2 * 2 + i % 2;
}

/* What a warp takes of an operand for 32 steps of K: SETS times 16 rows (or columns). Registers 2 * i
 * and 2 * i + 1 of a set hold both halves of K of rows 0 to 7 and 8 to 15 of an operand along K, of
 * even and odd rows of one along rows. */
template <bool ALONG_K, int PITCH, int SETS> struct fragments {
    unsigned r[SETS][4];

    /* The byte that this thread's lane points `ldmatrix` to, for K step 0 and 32 of a stage. */
    struct place {
        int of_k[2];

        __device__ __forceinline__ explicit place(int row0) {
            const int lane = threadIdx.x % LANES, m = lane / 8, i = lane % 8;
#pragma unroll
            for (int half = 0; half < 2; half++)
                of_k[half] =
                    ALONG_K ? byte_of<true, PITCH>(row0 + m / 2 * 8 + i, 32 * half + m % 2 * CHUNK)
                            : byte_of<false, PITCH>(32 * half + k_of(m, i), row0);
        }
    };

    __device__ __forceinline__ void load(const char *tile, const place &from, int half) {
#pragma unroll
        for (int s = 0; s < SETS; s++) {
            if (ALONG_K) {
                ldmatrix_x4(r[s], tile + from.of_k[half] + s * 16 * PITCH);
            } else {
                /* Chunks of a row are permuted by an exclusive or with fewer than 8 chunks. */
                unsigned pairs[4];
                ldmatrix_x4_trans(pairs, tile + (from.of_k[half] ^ s * CHUNK));
                r[s][0] = __byte_perm(pairs[0], pairs[1], 0x6420);
                r[s][1] = __byte_perm(pairs[2], pairs[3], 0x6420);
                r[s][2] = __byte_perm(pairs[0], pairs[1], 0x7531);
                r[s][3] = __byte_perm(pairs[2], pairs[3], 0x7531);
            }
        }
    }
};

/* Which of 16 rows (columns) element `i` of row set `set` is. */
template <bool ALONG_K> __device__ __forceinline__ int place_of(int set, int i) {
    return ALONG_K ? set * 8 + i : 2 * i + set;
}
