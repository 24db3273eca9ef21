/* The CUDA language for g++: what the kernel sources use of it, in front of simt.cpp.
 *
 * Kernels are compiled with -fsanitize=thread, so that every load and store of theirs calls
 * a check of simt.cpp; everything that waits (barriers, shuffles, matrix products) is a function
 * there, which hands the processor to another thread of the block. */
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <utility>

#define MMINT_EMULATED 1

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __constant__ static const
#define __grid_constant__
#define SIMT_JOIN_(a, b) a##b
#define SIMT_JOIN(a, b) SIMT_JOIN_(a, b)
/* Between two arrays lies a gap that belongs to neither. */
#define __shared__                                                           \
    static __attribute__((used)) char SIMT_JOIN(simt_gap_, __COUNTER__)[64]; \
    static
#define DYNAMIC_SHARED(type, name) type *name = (type *)simt::dynamic_shared()

#define SIMT_LINE int line = __builtin_LINE()

template <typename T> struct simt_vector2 {
    T x, y;
};
template <typename T> struct simt_vector3 {
    T x, y, z;
};
template <typename T> struct simt_vector4 {
    T x, y, z, w;
};
#define SIMT_VECTORS(type, name)                                                             \
    struct alignas(2 * sizeof(type)) name##2 : simt_vector2<type>{};                         \
    struct name##3 : simt_vector3<type>{};                                                   \
    struct alignas(sizeof(type) < 8 ? 4 * sizeof(type) : 16) name##4 : simt_vector4<type>{}; \
    inline name##2 make_##name##2(type x, type y) { return {{x, y}}; }                       \
    inline name##3 make_##name##3(type x, type y, type z) { return {{x, y, z}}; }            \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {{x, y, z, w}}; }
SIMT_VECTORS(signed char, char)
SIMT_VECTORS(unsigned char, uchar)
SIMT_VECTORS(short, short)
SIMT_VECTORS(unsigned short, ushort)
SIMT_VECTORS(int, int)
SIMT_VECTORS(unsigned, uint)
SIMT_VECTORS(long long, longlong)
SIMT_VECTORS(unsigned long long, ulonglong)
SIMT_VECTORS(float, float)
typedef uint3 dim3;

namespace simt {

/* ---- simt.cpp ---- */
__attribute__((const)) dim3 thread_index();
__attribute__((const)) dim3 block_index();
__attribute__((const)) dim3 block_size();
__attribute__((const)) dim3 grid_size();
__attribute__((const)) void *dynamic_shared();

enum Access { READ, WRITE, ATOMIC };
void check(const void *address, unsigned long size, Access access);

enum Operation {
    SYNC,
    SHUFFLE,
    BALLOT,
    ADD,
    MIN,
    MAX,
    UMIN,
    UMAX,
    AND,
    OR,
    XOR,
    MMA_16,
    MMA_8,
    LDMATRIX
};
struct Exchange {
    uint32_t in[10], out[4];
};
void exchange(Operation operation, unsigned mask, Exchange &data, int line);
void barrier(int line);
void fence();
[[noreturn]] void fail(const char *message);

void copy_async(void *to, const void *from, int copied, int total);
void commit_async();
void wait_async(int left);

template <typename T> T shuffle(unsigned mask, T value, int lane, int line) {
    static_assert(sizeof(T) <= 8, "shuffles move up to 64 bits");
    Exchange data = {};
    memcpy(data.in, &value, sizeof value);
    data.in[2] = (uint32_t)lane;
    exchange(SHUFFLE, mask, data, line);
    memcpy(&value, data.out, sizeof value);
    return value;
}

inline uint32_t reduce(Operation operation, unsigned mask, uint32_t value, int line) {
    Exchange data = {};
    data.in[0] = value;
    exchange(operation, mask, data, line);
    return data.out[0];
}

inline int lane() {
    const dim3 t = thread_index(), size = block_size();
    return (int)((t.z * size.y + t.y) * size.x + t.x) % 32;
}

template <typename T, typename F> __attribute__((no_sanitize_thread)) T atomic(T *at, F change) {
    check(at, sizeof(T), ATOMIC);
    const T old = *at;
    *at = change(old);
    return old;
}

/* The words of a launch, taken as the kernel's parameters. */
template <typename... T, size_t... I>
__attribute__((no_sanitize_thread)) void call(void (*kernel)(T...), const char *words,
                                              std::index_sequence<I...>) {
    const size_t sizes[] = {sizeof(T)..., 0};
    size_t offsets[sizeof...(T) + 1] = {};
    for (size_t i = 0; i < sizeof...(T); i++) offsets[i + 1] = offsets[i] + sizes[i];
    kernel(*(const T *)(words + offsets[I])...);
}

template <typename... T>
__attribute__((no_sanitize_thread)) void invoke(void (*kernel)(T...), const long long *words,
                                                int count) {
    static_assert(((sizeof(T) % 8 == 0) && ...),
                  "a kernel takes pointers, int64_t, or structs of them");
    if ((sizeof(T) + ... + 0) != 8 * (size_t)count) fail("was given a wrong number of arguments");
    call(kernel, (const char *)words, std::index_sequence_for<T...>());
}

}  // namespace simt

#define SIMT_ENTRY(name)                                                   \
    extern "C" void simt_entry_##name(const long long *words, int count) { \
        simt::invoke(name, words, count);                                  \
    }

#define threadIdx simt::thread_index()
#define blockIdx simt::block_index()
#define blockDim simt::block_size()
#define gridDim simt::grid_size()
#define warpSize 32

/* ---- waiting ---- */
inline void __syncthreads(SIMT_LINE) { simt::barrier(line); }
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, SIMT_LINE) {
    simt::Exchange data = {};
    simt::exchange(simt::SYNC, mask, data, line);
}
inline void __threadfence() { simt::fence(); }
inline void __threadfence_block() {}

template <typename T> T __shfl_sync(unsigned mask, T v, int from, int width = 32, SIMT_LINE) {
    return simt::shuffle(mask, v, (simt::lane() & ~(width - 1)) | (from & (width - 1)), line);
}
template <typename T> T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, SIMT_LINE) {
    const int lane = simt::lane(), from = lane ^ bits;
    return simt::shuffle(mask, v, from / width > lane / width ? lane : from, line);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32, SIMT_LINE) {
    const int lane = simt::lane(), from = lane + (int)by;
    return simt::shuffle(mask, v, from / width > lane / width ? lane : from, line);
}
template <typename T> T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32, SIMT_LINE) {
    const int lane = simt::lane(), from = lane - (int)by;
    return simt::shuffle(mask, v, from < (lane & ~(width - 1)) ? lane : from, line);
}
inline unsigned __ballot_sync(unsigned mask, int on, SIMT_LINE) {
    return simt::reduce(simt::BALLOT, mask, on != 0, line);
}
inline int __any_sync(unsigned mask, int on, SIMT_LINE) {
    return simt::reduce(simt::BALLOT, mask, on != 0, line) != 0;
}
inline int __all_sync(unsigned mask, int on, SIMT_LINE) {
    return simt::reduce(simt::BALLOT, mask, on != 0, line) == mask;
}
#define SIMT_REDUCE(name, type, operation)                                       \
    inline type __reduce_##name##_sync(unsigned mask, type value, SIMT_LINE) {   \
        return (type)simt::reduce(simt::operation, mask, (uint32_t)value, line); \
    }
SIMT_REDUCE(add, int, ADD)
SIMT_REDUCE(add, unsigned, ADD)
SIMT_REDUCE(min, int, MIN)
SIMT_REDUCE(min, unsigned, UMIN)
SIMT_REDUCE(max, int, MAX)
SIMT_REDUCE(max, unsigned, UMAX)
SIMT_REDUCE(and, unsigned, AND)
SIMT_REDUCE(or, unsigned, OR)
SIMT_REDUCE(xor, unsigned, XOR)

/* ---- atomics ---- */
template <typename T> struct simt_same {
    typedef T type;
};
#define SIMT_ATOMIC(name, expression)                                        \
    template <typename T> T name(T *at, typename simt_same<T>::type value) { \
        return simt::atomic(at, [=](T old) { return (T)(expression); });     \
    }
SIMT_ATOMIC(atomicAdd, old + value)
SIMT_ATOMIC(atomicSub, old - value)
SIMT_ATOMIC(atomicMax, old > value ? old : value)
SIMT_ATOMIC(atomicMin, old < value ? old : value)
SIMT_ATOMIC(atomicAnd, old &value)
SIMT_ATOMIC(atomicOr, old | value)
SIMT_ATOMIC(atomicXor, old ^ value)
SIMT_ATOMIC(atomicExch, value)
template <typename T>
T atomicCAS(T *at, typename simt_same<T>::type expected, typename simt_same<T>::type value) {
    return simt::atomic(at, [=](T old) { return old == expected ? value : old; });
}

/* ---- integers and bits ---- */
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline unsigned __brev(unsigned x) {
    unsigned y = 0;
    for (int i = 0; i < 32; i++) y |= (x >> i & 1) << (31 - i);
    return y;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
inline int __mulhi(int a, int b) { return (int)((int64_t)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline long long __mul64hi(long long a, long long b) { return (long long)((__int128)a * b >> 64); }
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) {
    return (unsigned)((((uint64_t)high << 32 | low) << (by & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
    return (unsigned)(((uint64_t)high << 32 | low) >> (by & 31));
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    const uint64_t bytes = (uint64_t)y << 32 | x;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) /* of each selector the lowest three bits count */
        out |= (unsigned)(bytes >> 8 * (selector >> 4 * i & 7) & 0xFF) << 8 * i;
    return out;
}
inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; i++) c += (int8_t)(a >> 8 * i) * (int8_t)(b >> 8 * i);
    return c;
}
inline int __dp2a_lo(int a, int b, int c) {
    return c + (int16_t)a * (int8_t)b + (int16_t)(a >> 16) * (int8_t)(b >> 8);
}
inline int __dp2a_hi(int a, int b, int c) { return __dp2a_lo(a, b >> 16, c); }
template <typename T> T min(T a, T b) { return b < a ? b : a; }
template <typename T> T max(T a, T b) { return a < b ? b : a; }

template <typename T, typename F> T simt_cast(F from) {
    static_assert(sizeof(T) == sizeof(F), "a cast of bits");
    T to;
    memcpy(&to, &from, sizeof to);
    return to;
}
inline int __float_as_int(float x) { return simt_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return simt_cast<unsigned>(x); }
inline float __int_as_float(int x) { return simt_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return simt_cast<float>(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
/* Of positive a * b, which a double holds, and a c that is no smaller: so does the sum as far as it
 * tells which float32 is next below. */
inline float __fmaf_rz(float a, float b, float c) {
    const double sum = (double)a * b + c;
    const float rounded = (float)sum;
    return rounded > sum ? nextafterf(rounded, 0.0f) : rounded;
}
inline int __float2int_rn(float x) { return (int)rintf(x); }
inline int __float2int_rz(float x) { return x != x ? 0 : (int)x; }

template <typename T> T __ldg(const T *at) { return *at; }
template <typename T> T __ldcg(const T *at) { return *at; }
template <typename T> T __ldcs(const T *at) { return *at; }
template <typename T> void __stcg(T *at, T value) { *at = value; }
template <typename T> void __stcs(T *at, T value) { *at = value; }

/* ---- mma.cuh, whose PTX has no meaning here ---- */

/* d += a * b: a 16 x 32 and b 32 x 8 of int8, d 16 x 8 of int32; fragments as the PTX manual has
 * them for m16n8k32. */
inline void mma_m16n8k32_s8(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                            SIMT_LINE) {
    simt::Exchange data = {{a[0], a[1], a[2], a[3], b[0], b[1], (unsigned)d[0], (unsigned)d[1],
                            (unsigned)d[2], (unsigned)d[3]},
                           {}};
    simt::exchange(simt::MMA_16, 0xFFFFFFFFu, data, line);
    for (int i = 0; i < 4; i++) d[i] = (int)data.out[i];
}

/* d += a * b: a 8 x 16 and b 16 x 8 of int8, d 8 x 8 of int32; as for m8n8k16. */
inline void mma_m8n8k16_s8(int (&d)[2], unsigned a, unsigned b, SIMT_LINE) {
    simt::Exchange data = {{a, b, (unsigned)d[0], (unsigned)d[1]}, {}};
    simt::exchange(simt::MMA_8, 0xFFFFFFFFu, data, line);
    for (int i = 0; i < 2; i++) d[i] = (int)data.out[i];
}

/* `N` matrices of 8 rows of 16 bytes; lane i gives the address of row i % 8 of matrix i / 8. */
template <int N> void simt_ldmatrix(unsigned (&r)[N], const void *row, bool transposed, int line) {
    const uint64_t address = (uint64_t)row;
    simt::Exchange data = {{(unsigned)address, (unsigned)(address >> 32), N, transposed}, {}};
    simt::exchange(simt::LDMATRIX, 0xFFFFFFFFu, data, line);
    for (int i = 0; i < N; i++) r[i] = data.out[i];
}
inline void ldmatrix_x1(unsigned (&r)[1], const void *row, SIMT_LINE) {
    simt_ldmatrix(r, row, false, line);
}
inline void ldmatrix_x2(unsigned (&r)[2], const void *row, SIMT_LINE) {
    simt_ldmatrix(r, row, false, line);
}
inline void ldmatrix_x4(unsigned (&r)[4], const void *row, SIMT_LINE) {
    simt_ldmatrix(r, row, false, line);
}
inline void ldmatrix_x2_trans(unsigned (&r)[2], const void *row, SIMT_LINE) {
    simt_ldmatrix(r, row, true, line);
}
inline void ldmatrix_x4_trans(unsigned (&r)[4], const void *row, SIMT_LINE) {
    simt_ldmatrix(r, row, true, line);
}

/* Copies to shared memory that arrive when they are waited for; of 16 (or 4, or 8) bytes the first
 * `copied` come from global memory, the rest are zeros. */
inline void cp_async_16(void *to, const void *from, int copied = 16) {
    simt::copy_async(to, from, copied, 16);
}
inline void cp_async_8(void *to, const void *from, int copied = 8) {
    simt::copy_async(to, from, copied, 8);
}
inline void cp_async_4(void *to, const void *from, int copied = 4) {
    simt::copy_async(to, from, copied, 4);
}
inline void cp_async_commit() { simt::commit_async(); }
template <int N> void cp_async_wait() { simt::wait_async(N); }
