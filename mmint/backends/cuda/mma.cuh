/* Tensor cores and asynchronous copies: everything that is written in PTX.
 *
 * Fragments are those of m16n8k32 in the PTX manual: lane 4 * g + t holds, of a (16 x 32), bytes
 * 4 * t .. 4 * t + 3 of rows g and g + 8 (registers 0 and 1) and the same 16 bytes further
 * (registers 2 and 3); of b (32 x 8) the same of column g; of the sums (16 x 8) columns 2 * t and
 * 2 * t + 1 of row g, then of row g + 8. sm_75 has m8n8k16, whose fragments are quarters of these,
 * and no asynchronous copies. */
#pragma once

#include "device.cuh"

#ifndef MMINT_EMULATED

__device__ __forceinline__ unsigned shared_address(const void *at) {
    return (unsigned)__cvta_generic_to_shared(at);
}

/* sums += a * b: 8 x 16 by 16 x 8. */
__device__ __forceinline__ void mma_m8n8k16_s8(int (&d)[2], unsigned a, unsigned b) {
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
                 : "+r"(d[0]), "+r"(d[1])
                 : "r"(a), "r"(b));
}

/* Four matrices of 8 rows of 16 bytes; lane i points to row i % 8 of matrix i / 8. */
__device__ __forceinline__ void ldmatrix_x4(unsigned (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/* The same, each transposed in units of two bytes. */
__device__ __forceinline__ void ldmatrix_x4_trans(unsigned (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

#if __CUDA_ARCH__ >= 800

/* sums += a * b: 16 x 32 by 32 x 8. */
__device__ __forceinline__ void mma_m16n8k32_s8(int (&d)[4], const unsigned (&a)[4],
                                                const unsigned (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Copies to shared memory that arrive when they are waited for; bytes beyond `copied` are zeros. */
__device__ __forceinline__ void cp_async_16(void *to, const void *from, int copied) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(copied)
                 : "memory");
}
__device__ __forceinline__ void cp_async_4(void *to, const void *from, int copied) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(copied)
                 : "memory");
}
/* Ends a group of copies; waits for all groups but the latest N. */
__device__ __forceinline__ void cp_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int N> __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

#else

__device__ __forceinline__ void cp_async_16(void *to, const void *from, int copied) {
    *(uint4 *)to = copied ? *(const uint4 *)from : make_uint4(0, 0, 0, 0);
}
__device__ __forceinline__ void cp_async_4(void *to, const void *from, int copied) {
    *(uint32_t *)to = copied ? *(const uint32_t *)from : 0;
}
__device__ __forceinline__ void cp_async_commit() {}
template <int N> __device__ __forceinline__ void cp_async_wait() {}

#endif
#endif

/* m16n8k32 in quarters. */
__device__ __forceinline__ void mma_in_quarters(int (&d)[4], const unsigned (&a)[4],
                                                const unsigned (&b)[2]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int part[2] = {d[2 * half], d[2 * half + 1]};
        mma_m8n8k16_s8(part, a[half], b[0]);
        mma_m8n8k16_s8(part, a[half + 2], b[1]);
        d[2 * half] = part[0];
        d[2 * half + 1] = part[1];
    }
}

#if !defined(MMINT_EMULATED) && __CUDA_ARCH__ < 800
__device__ __forceinline__ void mma_m16n8k32_s8(int (&d)[4], const unsigned (&a)[4],
                                                const unsigned (&b)[2]) {
    mma_in_quarters(d, a, b);
}
#endif
