/* For which processor the compiler compiles. */
#ifndef MMINT_MACHINE_H
#define MMINT_MACHINE_H

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define MMINT_X86 1
#else
#define MMINT_X86 0
#endif

#if defined(__aarch64__)
#define MMINT_NEON 1
#else
#define MMINT_NEON 0
#endif

#endif
