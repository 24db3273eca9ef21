/* An interpolation, prepared. */
#ifndef MMINT_INTERPOLATION_H
#define MMINT_INTERPOLATION_H

#include "arguments.h"
#include "arithmetic/interpolation.h"
#include "arithmetic/mapping.h"
#include "integers.h"

enum { LANES = 16, MOST_OVERLAP = 4, BAND = 256 };

typedef struct interpolation {
    const interpolate_args *a;
    scale_t scale;
} interpolation_t;

/* Rows of results that are moved at once, of few columns several. */
static inline long rows_of_band(const interpolate_args *a) {
    return most(1, least(a->out_h, BAND / most(1, a->out_w)));
}

#endif
