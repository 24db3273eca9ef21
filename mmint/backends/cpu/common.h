/* What every kernel shares: instruction-set levels, tile sizes, memory, status codes. */
#ifndef MMINT_COMMON_H
#define MMINT_COMMON_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define MMINT_X86 1
#include <immintrin.h>
#define TARGET_AVX2 __attribute__((target("avx2,fma")))
#define TARGET_AVX512 \
    __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")))
#else
#define MMINT_X86 0
#endif

#if defined(__aarch64__)
#define MMINT_NEON 1
#else
#define MMINT_NEON 0
#endif

#define INLINE static inline __attribute__((always_inline))

/* Status of a kernel; below every exponent and every other result. */
enum { OK = 0, NOT_FINITE = -(1 << 20), NO_MEMORY = -(1 << 21) };

/* A tile: MR rows (broadcast) by NR lanes; depth in groups of two int16, 32 bits. */
enum { MR = 6, NR = 16, TILE = MR * NR };

/* Where a tile's sums go as float32: (sum + row_bias[row] + lane_bias[lane]) * scale, `rows` rows
 * of NR, `stride` apart, noted in `seen`; both biases or neither (NULL). */
struct extent;
typedef struct {
    float *out;
    long stride;
    int rows;
    float scale; /* exact: see finish.h */
    const int32_t *row_bias, *lane_bias;
    struct extent *seen;
} results_t;

/* The kernels of one instruction-set level. */
typedef struct {
    const char *name;
    /* (int32) c_out = c_in (NULL: 0) + a * b; or, where `results` is there, to float32. */
    void (*tile)(const int32_t *a, const int32_t *b, long groups, const int32_t *c_in,
                 int32_t *c_out, const results_t *results);
    /* dst[k / 2][lane][k % 2] = rows[lane][k], k < length, zero-padded to an even length. */
    void (*pack_rows)(int16_t *dst, const void *const *rows, int lanes, long length, int wide);
    /* dst[k / 2][lane][k % 2] = columns[k][lane], lane < count; zeros up to `lanes`, even k.
     * `count` lanes may be read, also where they are more than `lanes`. */
    void (*pack_columns)(int16_t *dst, const void *const *columns, long length, int lanes,
                         int count, int wide);
    /* Is it AVX2, for everything that has just two forms? With AVX-512? */
    int avx2, avx512;
} level_t;

extern const level_t portable_level;
#if MMINT_X86
extern const level_t avx2_level, avxvnni_level, avx512vnni_level;
#endif
#if MMINT_NEON
extern const level_t neon_level;
#endif
extern const level_t *level;

INLINE void *allocate(size_t bytes) { return aligned_alloc(64, (bytes + 127) / 64 * 64); }

INLINE long div_up(long a, long b) { return (a + b - 1) / b; }
INLINE long least(long a, long b) { return a < b ? a : b; }
INLINE long most(long a, long b) { return a > b ? a : b; }

#endif
