/* Packing for the tiles in plain C: every level's for what it has no better way. */
#ifndef MMINT_PORTABLE_PACKING_H
#define MMINT_PORTABLE_PACKING_H

#include <stdint.h>

static inline void pack_rows_loop(int32_t *panel, const void *const *rows, int lanes, long length,
                                  int wide) {
    int16_t *dst = (int16_t *)panel;
    for (long k = 0; k < (length + 1) / 2 * 2; k++)
        for (int l = 0; l < lanes; l++)
            dst[(k / 2 * lanes + l) * 2 + k % 2] = k >= length ? 0
                                                   : wide      ? ((const int16_t *)rows[l])[k]
                                                               : ((const int8_t *)rows[l])[k];
}

static inline void pack_columns_loop(int32_t *panel, const void *const *columns, long length,
                                     int lanes, int count, int wide) {
    int16_t *dst = (int16_t *)panel;
    for (long k = 0; k < (length + 1) / 2 * 2; k++)
        for (int l = 0; l < lanes; l++)
            dst[(k / 2 * lanes + l) * 2 + k % 2] = k >= length || l >= count ? 0
                                                   : wide ? ((const int16_t *)columns[k])[l]
                                                          : ((const int8_t *)columns[k])[l];
}

#endif
