/* A level is an instruction set: a table of the loops whose speed depends on it.
 *
 * Each file of this folder fills one table. It starts from the table of the level below and puts
 * its own functions in the place of those it does better. Most loops are plain C that every level
 * compiles for itself (`*_loops.h` beside the kernels), with a few pieces that it writes by hand.
 * Kernels look into `level`, the table in use, once a call, a row, a plane or a tile. */
#ifndef MMINT_LEVEL_H
#define MMINT_LEVEL_H

#include <stdint.h>

/* A tile of a product: MR rows (broadcast) by NR lanes. MOST_ROWS and MOST_TILE are of any form. */
enum { MR = 6, NR = 16, TILE = MR * NR, MOST_ROWS = 16, MOST_TILE = MOST_ROWS * NR };

struct extent;        /* products/extent.h */
struct results;       /* products/tile.h */
struct laid;          /* products/depthwise_loops.h */
struct philox_key;    /* elements/random.h */
struct blocks;        /* elements/mapping_loops.h */
struct addition;      /* elements/addition.h */
struct coefficients;  /* of a norm: arithmetic/coefficients.h */
struct layer_forward; /* elements/layer_norm.h */
struct layer_backward;
struct layer_sums;
struct average;      /* elements/pooling.h */
struct interpolation; /* elements/interpolation.h */
struct sgd_task;     /* elements/sgd.h */
struct winograd_job; /* products/winograd_parts.h */
struct winograd_places;
struct winograd_points;
struct winograd_grad_job; /* products/winograd_parts.h */

/* A way to multiply: rows by lanes, in groups of depth that fill 32 bits. A panel holds them as
 * (group, row or lane, depth within the group). */
typedef struct form {
    int rows;  /* of a tile, by NR lanes */
    int depth; /* of a group: two int16, or four int8 */
    int heads; /* words that open a panel of rows for each of them: what its sums start from */

    /* (int32) c_out = c_in (NULL: 0) + a * b; or, where `results` is there, to float32. */
    void (*tile)(const int32_t *a, const int32_t *b, long groups, const int32_t *c_in,
                 int32_t *c_out, const struct results *results);
    /* Depth k of a lane is rows[lane][k], k < length; zeros up to a whole group. */
    void (*pack_rows)(int32_t *panel, const void *const *rows, int lanes, long length, int wide);
    /* Depth k of a lane is columns[k][lane], lane < count; zeros up to `lanes`, a whole group.
     * `count` lanes may be read, also where they are more than `lanes`. */
    void (*pack_columns)(int32_t *panel, const void *const *columns, long length, int lanes,
                         int count, int wide);
    /* What remains to be done with packed groups (NULL: nothing), for rows with the heads. */
    void (*complete_rows)(int32_t *heads, const int32_t *panel, int rows, long groups);
    void (*complete_lanes)(int32_t *panel, long groups);
} form_t;

typedef struct {
    const char *name;

    /* ---- products ---- */

    /* Of int16, MR rows at a time, without heads; of int8, which may be the same. */
    form_t pairs, bytes;
    /* A plane of int8, or int16 if `wide`, laid out for a filter; the zeros are there. */
    void (*lay_plane)(const struct laid *l, const void *plane, int wide, int16_t *out);
    /* sums[i] = sum over an even number of taps of weight[t] * x[offset[t] + i], i < n; as many as
     * LAID_SLACK more may be read and written. */
    void (*tap_sums)(int32_t *sums, const int16_t *x, const long *offset, const int16_t *weight,
                     long taps, long n);
    /* sums[t] += sum of grad[i] * x[offset[t] + i], i < n, and zeros of grad up to TAP_LANES. */
    void (*tap_products)(int64_t *sums, const int16_t *grad, const int16_t *x, const long *offset,
                         long taps, long n);
    /* made[i] = (sum[i] + bias) * scale, noted in lane 0 of `seen`. */
    void (*finish_sums)(float *made, const int32_t *sum, int32_t bias, float scale, long n,
                        struct extent *seen);
    void (*winograd_filters)(const struct winograd_job *s, long panel, int32_t *to, long stride,
                             struct winograd_points *made);
    void (*winograd_inputs)(const struct winograd_job *s, const struct winograd_places *at,
                            int32_t *to, long stride, struct winograd_points *made);
    void (*winograd_outputs)(const struct winograd_job *s, const struct winograd_places *at,
                             const int32_t *sums, long row, struct extent *seen);
    void (*winograd_grad_transform)(const struct winograd_grad_job *s, long first, long pair);
    void (*winograd_grad_output)(const struct winograd_grad_job *s, const int32_t *sums, long row,
                                 long panel, int is_first, int is_last);

    /* ---- elements; a top that is returned is the largest magnitude of what was written ---- */

    /* The largest magnitude of n patterns of float32. */
    uint32_t (*top)(const uint32_t *x, long n);
    /* Raises each of n tops to the magnitude of x. */
    void (*raise)(uint32_t *tops, const uint32_t *x, long n);
    /* Mantissas (int16 if `wide`) of n elements of x, the first of which has number `first`; rounded
     * to nearest where `key` is NULL. */
    void (*round)(const float *x, void *out, long first, long n, const struct blocks *exponents,
                  int wide, const struct philox_key *key);
    /* to[p * to_row + c] = from[c * from_row + p] */
    void (*transpose)(const int8_t *from, long from_row, int8_t *to, long to_row, long channels,
                      long pixels);
    /* n elements, the first of which has number `first`, a multiple of GROUP. Returns the top. */
    uint32_t (*add)(const struct addition *s, const float *const *x, float *out, long first,
                    long n);
    uint32_t (*relu)(const float *x, float *out, uint8_t *passed, long n, float ceiling);
    uint32_t (*relu_grad)(const float *grad, float *out, const uint8_t *passed, long n);
    /* Adds the sums of a and of a * b. */
    void (*sums8)(const int8_t *a, const int8_t *b, long n, int64_t *sum);
    /* p * a + q * b + r, b may be NULL. Returns the top. */
    uint32_t (*combine8)(const int8_t *a, const int8_t *b, float *out, long n,
                         const struct coefficients *c);
    /* The smallest and the largest of n > 0 mantissas. */
    void (*extremes8)(const int8_t *x, long n, int8_t *low, int8_t *high);
    /* As ReLU with this ceiling, in place. Returns the top. */
    uint32_t (*cut)(float *x, long n, float ceiling);
    /* A row of layer norm. */
    uint32_t (*layer_norm)(const struct layer_forward *f, long row, int16_t *scratch);
    uint32_t (*layer_norm_grad)(const struct layer_backward *b, long row, int16_t *scratch,
                                struct layer_sums *sums);
    /* A plane of average pooling. */
    uint32_t (*average)(const struct average *p, const void *x, float *out, int64_t *lines);
    uint32_t (*average_grad)(const struct average *p, const void *grad, float *out, int64_t *lines);
    /* LANES channels of an image. Returns the top. */
    uint32_t (*interpolate)(const struct interpolation *s, long image, long channel, void *scratch);
    uint32_t (*interpolate_grad)(const struct interpolation *s, long image, long channel,
                                 void *scratch);
    /* Updates elements first, a multiple of GROUP, ... first + n - 1 of a parameter. */
    void (*sgd)(const struct sgd_task *t, long first, long n);
} level_t;

/* The level in use. */
extern const level_t *level;

/* ---- levels.c ---- */

/* Fills the tables of the levels that this machine has, and uses the best. */
void find_levels(void);

/* How many there are; their names, best first. */
int level_count(void);
const char *level_name(int i);

/* Is there a level of this name, to be used from now on? */
int use_level(const char *name);

/* ---- one each file: what it does better than the table holds ---- */

void fill_portable(level_t *table);
void fill_avx2(level_t *table);
void fill_avxvnni(level_t *table);
void fill_avx512vnni(level_t *table);
void fill_neon(level_t *table);

#endif
