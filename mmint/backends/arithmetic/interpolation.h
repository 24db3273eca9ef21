/* Where bilinear interpolation reads along an axis, and with which weights, as
 * reference/interpolation.py.
 *
 * Positions have POSITION_BITS fraction bits; those of a box are made of the bits of its float32
 * coordinates. A result is a mean of samples, each of which weighs two neighbouring places. Its
 * weights, with WEIGHT_BITS fraction bits, are the differences of the running sums of the exact
 * ones, divided by the number of samples and rounded half up: so none is off by 2**-WEIGHT_BITS,
 * and their total is at most 1. Positions are at most 2**28 places, samples of an axis at most
 * 2**20 more: 64 bits hold (2 q + 1) times the rest of a division by their number, below 2**61. */
#pragma once

#include "arithmetic/number.h"

enum { POSITION_BITS = 24, WEIGHT_BITS = 14, FARTHEST_BITS = 52 };

#define ONE_PLACE ((int64_t)1 << POSITION_BITS)

/* A result's places, from .. to - 1, and where their weights begin. */
typedef struct {
    int32_t from, to, at;
} taps_t;

/* The product of two finite float32 patterns, the second of which is positive, as a position: to
 * nearest, and no farther than 2**FARTHEST_BITS. */
MMINT_FUNCTION int64_t position_of(uint32_t x, uint32_t scale) {
    const uint32_t a = x & 0x7FFFFFFF;
    const uint64_t product = (uint64_t)mantissa24_of(a) * mantissa24_of(scale);
    const int shift = 300 - POSITION_BITS - int_max(field_of(a), 1) - int_max(field_of(scale), 1);
    const bool far = product && bit_length(product) - shift > FARTHEST_BITS;
    return with_sign(far ? (uint64_t)1 << FARTHEST_BITS : shift_right_even(product, shift),
                     x >> 31);
}

/* ---- the weights of one result, as its samples go from place to place ---- */

typedef struct {
    int16_t *to; /* where the next weight goes */
    int64_t samples; /* of which the result is the mean */
    int64_t sum, made; /* what has been written: exactly, and rounded */
    int64_t at, here, next; /* a place, the exact weights there and at the next one */
} weighing_t;

MMINT_FUNCTION void put_weight(weighing_t *w) {
    const int64_t unit = w->samples << (POSITION_BITS - WEIGHT_BITS);
    w->sum += w->here;
    const int64_t rounded = (w->sum + unit / 2) / unit;
    *w->to++ = (int16_t)(rounded - w->made);
    w->made = rounded;
    w->at++;
    w->here = w->next;
    w->next = 0;
}

/* Of a position from one place before an axis of `size` places to one after. */
MMINT_FUNCTION void weigh_sample(weighing_t *w, int64_t position, int64_t size) {
    const int64_t inside = position < 0 ? 0 : position;
    const bool last = inside >> POSITION_BITS >= size - 1;
    const int64_t low = last ? size - 1 : inside >> POSITION_BITS;
    const int64_t part = last ? 0 : inside & (ONE_PLACE - 1);
    if (w->at < 0) w->at = low;
    while (w->at < low) put_weight(w);
    w->here += ONE_PLACE - part;
    w->next += part;
}

/* ---- the results of RoIAlign along an axis of a box ---- */

/* Samples of an axis: `ratio` for each result, or where that is 0, one for each place. */
MMINT_FUNCTION int64_t samples_of(int64_t length, int64_t results, int64_t ratio) {
    const int64_t each = results << POSITION_BITS;
    return ratio > 0 ? ratio : length > 0 ? (length + each - 1) / each : 0;
}

/* The taps of each result, and at most size + 2 * results weights. A box that ends before it starts
 * has the results of the one turned round, in reverse. */
MMINT_FUNCTION void box_taps_of(int64_t start, int64_t end, int64_t size, int64_t results,
                                int64_t ratio, bool aligned, taps_t *taps, int16_t *weights) {
    int64_t length = end - start;
    if (!aligned && length < ONE_PLACE) length = ONE_PLACE;
    const int64_t samples = samples_of(length, results, ratio), all = samples * results;
    const bool turned = length < 0;
    if (turned) {
        start = end;
        length = -length;
    }
    /* Sample q is at start + floor((2 q + 1) * length / (2 * all)), with length = all * step +
     * rest; q begins after samples that are all before the axis. */
    const int64_t step = all ? length / all : 0, rest = all ? length % all : 0;
    int64_t q = start < -ONE_PLACE ? (-ONE_PLACE - start) / (step + 1) : 0;
    int64_t twice = 0, part = 0; /* the distance from the start, two times, and its part of `all` */
    if (q < all) {
        twice = (2 * q + 1) * step + (2 * q + 1) * rest / all;
        part = (2 * q + 1) * rest % all;
    }
    int16_t *to = weights;
    for (int64_t i = 0; i < results; i++) {
        weighing_t w = {to, samples, 0, 0, -1, 0, 0};
        taps_t *t = &taps[turned ? results - 1 - i : i];
        for (; q < (i + 1) * samples; q++) {
            const int64_t position = start + (twice >> 1);
            twice += 2 * step;
            part += 2 * rest;
            for (; part >= all; part -= all) twice++;
            if (position > size * ONE_PLACE) q = all;
            if (position < -ONE_PLACE || position > size * ONE_PLACE) continue;
            weigh_sample(&w, position, size);
        }
        if (w.at >= 0) put_weight(&w);
        if (w.here) put_weight(&w);
        t->at = (int32_t)(to - weights);
        t->to = (int32_t)(w.at < 0 ? 0 : w.at);
        t->from = t->to - (int32_t)(w.to - to);
        to = w.to;
    }
}

/* Is a box finite, and of one of so many images? */
MMINT_FUNCTION bool box_is_good(const float *box, int64_t images) {
    bool good = box[0] > -1.0f && box[0] < (float)images;
    for (int i = 0; i < 5; i++) good &= is_finite(magnitude_bits(box[i]));
    return good;
}
