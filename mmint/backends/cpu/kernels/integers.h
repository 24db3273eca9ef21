/* Sizes and indices. */
#ifndef MMINT_INTEGERS_H
#define MMINT_INTEGERS_H

#define INLINE static inline __attribute__((always_inline))

INLINE long div_up(long a, long b) { return (a + b - 1) / b; }
INLINE long least(long a, long b) { return a < b ? a : b; }
INLINE long most(long a, long b) { return a > b ? a : b; }

#endif
