/* Which levels this machine has, and which is used. */
#include <string.h>

#include "level.h"
#include "machine.h"

enum { MOST_LEVELS = 4 };

static level_t tables[MOST_LEVELS]; /* from portable upwards */
static int count;

const level_t *level = &tables[0];

/* A table that starts as the one `below` it. */
static level_t *above(const level_t *below) {
    tables[count] = *below;
    return &tables[count++];
}

#if MMINT_X86
#include <cpuid.h>

static int has_avxvnni(void) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && a >> 4 & 1;
}

static int has_avx512vnni(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}
#endif

void find_levels(void) {
    count = 1;
    fill_portable(&tables[0]);
#if MMINT_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        level_t *avx2 = above(&tables[0]);
        fill_avx2(avx2);
        if (has_avxvnni()) fill_avxvnni(above(avx2));
        if (has_avx512vnni()) fill_avx512vnni(above(avx2));
    }
#elif MMINT_NEON
    fill_neon(above(&tables[0]));
#endif
    level = &tables[count - 1];
}

int level_count(void) { return count; }

const char *level_name(int i) { return tables[count - 1 - i].name; }

int use_level(const char *name) {
    for (int i = 0; i < count; i++) {
        if (strcmp(tables[i].name, name)) continue;
        level = &tables[i];
        return 1;
    }
    return 0;
}
