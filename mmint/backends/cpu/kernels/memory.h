/* Working memory, aligned for every vector; NULL where there is none. */
#ifndef MMINT_MEMORY_H
#define MMINT_MEMORY_H

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "integers.h"

INLINE void *allocate(size_t bytes) { return aligned_alloc(64, (bytes + 127) / 64 * 64); }

#endif
