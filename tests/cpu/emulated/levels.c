/* Instead of levels/levels.c: plain C, and above it each level with VNNI, emulated. */
#include <string.h>

#include "levels/level.h"

void fill_emulated256(level_t *table);
void fill_emulated512(level_t *table);

enum { COUNT = 3 };

static level_t tables[COUNT];

const level_t *level = &tables[0];

void find_levels(void) {
    for (int i = 0; i < COUNT; i++) fill_portable(&tables[i]);
    fill_emulated256(&tables[1]);
    fill_emulated512(&tables[2]);
}

int level_count(void) { return COUNT; }

const char *level_name(int i) { return tables[COUNT - 1 - i].name; }

int use_level(const char *name) {
    for (int i = 0; i < COUNT; i++) {
        if (strcmp(tables[i].name, name)) continue;
        level = &tables[i];
        return 1;
    }
    return 0;
}
