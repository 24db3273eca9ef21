/* Every kernel that Python calls, and the arguments of each, once.
 *
 * The structs that kernels take, their prototypes, the names by which Python gives arguments, and
 * the module's functions are made of these lists. An argument is a word: POINTER(type, name), where
 * a tensor's elements are, or INTEGER(name). Mantissas are int8, or int16 where `wide`; `threads`
 * says how many to use. A pointer to what there may not be is NULL. */
#ifndef MMINT_ARGUMENTS_H
#define MMINT_ARGUMENTS_H

#include "arithmetic/coefficients.h"
#include "arithmetic/exponents.h"
#include "arithmetic/philox.h"

/* clang-format off */

/* KERNEL(name), or ALIKE(name, another kernel), which takes that one's arguments. */
#define KERNELS(KERNEL, ALIKE)               \
    KERNEL(add)                              \
    KERNEL(avg_pool2d)                       \
    ALIKE(avg_pool2d_grad, avg_pool2d)       \
    KERNEL(box_taps)                         \
    KERNEL(channel_sum)                      \
    KERNEL(conv2d)                           \
    ALIKE(conv2d_input_grad, conv2d)         \
    ALIKE(conv2d_weight_grad, conv2d)        \
    KERNEL(dequantize)                       \
    KERNEL(elements)                         \
    KERNEL(frozen_norm)                      \
    KERNEL(frozen_norm_weight_grad)          \
    KERNEL(interpolate)                      \
    ALIKE(interpolate_grad, interpolate)     \
    KERNEL(layer_norm)                       \
    KERNEL(layer_norm_grad)                  \
    KERNEL(matmul)                           \
    KERNEL(max_pool2d)                       \
    ALIKE(max_pool2d_grad, max_pool2d)       \
    KERNEL(norm)                             \
    KERNEL(norm_grad)                        \
    KERNEL(norm_weight_grad)                 \
    KERNEL(plane_products)                   \
    KERNEL(plane_sums)                       \
    KERNEL(quantize)                         \
    KERNEL(relu)                             \
    ALIKE(relu_grad, relu)                   \
    ALIKE(relu_passed, elements)             \
    KERNEL(sgd_step)                         \
    KERNEL(transpose)                        \
    KERNEL(update_running)

/* ---- what several have ---- */

/* Whether to round stochastically, and the name of the random bits. */
#define RANDOM(INTEGER) \
    INTEGER(stochastic) INTEGER(k0) INTEGER(k1) INTEGER(c1) INTEGER(c2) INTEGER(c3)
#define RANDOM_OF(a) \
    ((random_words){(a)->stochastic, (a)->k0, (a)->k1, (a)->c1, (a)->c2, (a)->c3, 0})

/* A mantissa and an exponent. */
#define EPS(INTEGER) INTEGER(eps) INTEGER(eps_exponent)
#define EPS_OF(a) wide_of((a)->eps, (int)(a)->eps_exponent)

/* The exponents of mantissas in groups: see arithmetic/exponents.h. */
#define EXPONENTS(POINTER, INTEGER, name) POINTER(const int32_t, name) INTEGER(name##_step)
#define EXPONENTS_OF(a, name) ((exponents_t){(a)->name, (a)->name##_step})

/* What elements are a function of: elements/source.h; the ceiling is a pattern, or -1. */
#define SOURCE(POINTER, INTEGER, name)                                                            \
    POINTER(const float, name) POINTER(const uint8_t, name##_passed)                              \
    POINTER(const void, name##_mantissas) POINTER(const void, name##_others)                      \
    POINTER(const coefficients_t, name##_coefficients)                                            \
    INTEGER(name##_channels) INTEGER(name##_pixels) INTEGER(name##_per_image)                     \
    INTEGER(name##_wide) INTEGER(name##_ceiling)
#define SOURCE_OF(a, name)                                                                        \
    ((source_t){(a)->name, (a)->name##_passed, (a)->name##_mantissas, (a)->name##_others,         \
                (a)->name##_coefficients, (a)->name##_channels, (a)->name##_pixels,               \
                (int)(a)->name##_per_image, (int)(a)->name##_wide, cut_at((a)->name##_ceiling)})

/* ---- elements ---- */

/* float32 (images, channels, pixels) to mantissas, int8 ones as (images, pixels, channels). Element
 * i of x has exponent i / run % count; `tops`: the largest magnitude of each, NULL where they are
 * not known. */
#define ARGUMENTS_quantize(POINTER, INTEGER)                                                      \
    SOURCE(POINTER, INTEGER, x) POINTER(void, out) POINTER(const int32_t, tops)                   \
    POINTER(int32_t, exponents)                                                                   \
    INTEGER(images) INTEGER(channels) INTEGER(pixels) INTEGER(bits) INTEGER(count) INTEGER(run)   \
    RANDOM(INTEGER) INTEGER(threads)

/* float32 elements of a source that is made, and their top; relu_passed: bits, as `relu` says. */
#define ARGUMENTS_elements(POINTER, INTEGER)                                                      \
    SOURCE(POINTER, INTEGER, x) POINTER(void, out) INTEGER(images) INTEGER(threads)

/* n integers of `size` bytes. */
#define ARGUMENTS_dequantize(POINTER, INTEGER)                                                    \
    POINTER(const void, x) POINTER(float, out)                                                    \
    INTEGER(n) INTEGER(size) INTEGER(exponent) INTEGER(threads)

/* Sums of mantissas (images, channels, pixels) over images and pixels. */
#define ARGUMENTS_channel_sum(POINTER, INTEGER)                                                   \
    POINTER(const void, x) POINTER(float, out)                                                    \
    INTEGER(images) INTEGER(channels) INTEGER(pixels) INTEGER(wide)                               \
    EXPONENTS(POINTER, INTEGER, exponent) INTEGER(threads)

/* `out` may be x or y where they lie in memory; each of `count` runs of elements shares exponents.
 * Returns the top of the sum. */
#define ARGUMENTS_add(POINTER, INTEGER)                                                           \
    SOURCE(POINTER, INTEGER, x) SOURCE(POINTER, INTEGER, y) POINTER(float, out)                   \
    INTEGER(count) INTEGER(run) INTEGER(bits) RANDOM(INTEGER) INTEGER(threads)

/* Element i of `passed` is bit i % 8 of byte i / 8; `out` may be x, which is relu_grad's incoming
 * gradient; `ceiling` is a pattern. Both return the top of the result. */
#define ARGUMENTS_relu(POINTER, INTEGER)                                                          \
    POINTER(const float, x) POINTER(float, out) POINTER(uint8_t, passed)                          \
    INTEGER(n) INTEGER(ceiling) INTEGER(threads)

/* `planes` images of height x width; `place` is row * kernel_w + column in the window. Of
 * max_pool2d_grad x is the incoming gradient, `out` the input's. Both return the result's top. */
#define ARGUMENTS_max_pool2d(POINTER, INTEGER)                                                    \
    POINTER(const float, x) POINTER(float, out) POINTER(uint8_t, place)                           \
    INTEGER(planes) INTEGER(height) INTEGER(width) INTEGER(out_h) INTEGER(out_w)                  \
    INTEGER(kernel_h) INTEGER(kernel_w) INTEGER(stride_h) INTEGER(stride_w)                       \
    INTEGER(padding_h) INTEGER(padding_w) INTEGER(threads)

/* `planes` images of height x width; rows[out_h][2], columns[out_w][2] (start and stop, inside the
 * image) and reciprocals[out_h][out_w]. Of avg_pool2d_grad x is the incoming gradient, `out` the
 * input's. Both return the top of the result. */
#define ARGUMENTS_avg_pool2d(POINTER, INTEGER)                                                    \
    POINTER(const void, x) POINTER(float, out) POINTER(const int64_t, rows)                       \
    POINTER(const int64_t, columns) POINTER(const int64_t, reciprocals)                           \
    INTEGER(planes) INTEGER(height) INTEGER(width) INTEGER(out_h) INTEGER(out_w)                  \
    INTEGER(wide) INTEGER(exponent) INTEGER(threads)

/* boxes[count][5] to the taps of RoIAlign (host/interpolation.py): image[count],
 * rows[count][out_h], row_weights[count][height + 2 * out_h], and so the columns. `scale` is the
 * pattern of a float32. */
#define ARGUMENTS_box_taps(POINTER, INTEGER)                                                      \
    POINTER(const float, boxes) POINTER(int32_t, image)                                           \
    POINTER(void, rows) POINTER(int16_t, row_weights)                                             \
    POINTER(void, columns) POINTER(int16_t, column_weights)                                       \
    INTEGER(count) INTEGER(images) INTEGER(height) INTEGER(width) INTEGER(out_h) INTEGER(out_w)   \
    INTEGER(scale) INTEGER(ratio) INTEGER(aligned) INTEGER(threads)

/* x (images, channels, height, width), out (count, channels, out_h, out_w), and the taps of `count`
 * boxes; image NULL: one set of taps, for each of `images`. Of interpolate_grad x is the incoming
 * gradient, `out` the input's. Both return the top of the result. */
#define ARGUMENTS_interpolate(POINTER, INTEGER)                                                   \
    POINTER(const int16_t, x) POINTER(float, out) POINTER(const int32_t, image)                   \
    POINTER(const void, rows) POINTER(const int16_t, row_weights)                                 \
    POINTER(const void, columns) POINTER(const int16_t, column_weights)                           \
    INTEGER(count) INTEGER(images) INTEGER(channels) INTEGER(height) INTEGER(width)               \
    INTEGER(out_h) INTEGER(out_w) INTEGER(exponent) INTEGER(threads)

/* Rows of words (elements/sgd.h), one a parameter. Returns 1 + the number of the first that is not
 * finite, and then has updated none. */
#define ARGUMENTS_sgd_step(POINTER, INTEGER)                                                      \
    POINTER(const void, updates) INTEGER(count) INTEGER(threads)

/* ---- norms: mantissas (images, channels, pixels), parameters and statistics (channels,) ---- */

/* int8 (images, rows, columns) to (images, columns, rows). */
#define ARGUMENTS_transpose(POINTER, INTEGER)                                                     \
    POINTER(const int8_t, x) POINTER(int8_t, out)                                                 \
    INTEGER(images) INTEGER(rows) INTEGER(columns) INTEGER(threads)

/* out[2][planes]: sums of x and of its squares. */
#define ARGUMENTS_plane_sums(POINTER, INTEGER)                                                    \
    POINTER(const void, x) POINTER(int64_t, out)                                                  \
    INTEGER(planes) INTEGER(pixels) INTEGER(wide) INTEGER(threads)

/* out[2][planes]: sums of grad and of its products with x. */
#define ARGUMENTS_plane_products(POINTER, INTEGER)                                                \
    POINTER(const void, grad) POINTER(const void, x) POINTER(int64_t, out)                        \
    INTEGER(planes) INTEGER(pixels) INTEGER(wide) INTEGER(threads)

/* Sums are the totals of each group: `groups` in each image; 0: batch norm, where each channel is
 * one through all images. `count` is a group's elements. Makes coefficients of each channel, or
 * plane. */
#define ARGUMENTS_norm(POINTER, INTEGER)                                                          \
    POINTER(const int64_t, sums) POINTER(const float, weight) POINTER(const float, bias)          \
    POINTER(coefficients_t, coefficients)                                                         \
    INTEGER(images) INTEGER(channels) INTEGER(groups) INTEGER(count) INTEGER(bits)                \
    EXPONENTS(POINTER, INTEGER, exponent) EPS(INTEGER)                                            \
    INTEGER(threads)

/* products[2][channels] for batch norm, [2][images][channels] for group norm. Makes coefficients of
 * each channel, or plane. */
#define ARGUMENTS_norm_grad(POINTER, INTEGER)                                                     \
    POINTER(const int64_t, sums) POINTER(const int64_t, products) POINTER(const float, weight)    \
    POINTER(coefficients_t, coefficients)                                                         \
    INTEGER(images) INTEGER(channels) INTEGER(groups) INTEGER(count)                              \
    INTEGER(grad_bits) INTEGER(bits) EXPONENTS(POINTER, INTEGER, grad_exponent)                   \
    EXPONENTS(POINTER, INTEGER, exponent) EPS(INTEGER) INTEGER(threads)

/* For batch norm, images is 1. */
#define ARGUMENTS_norm_weight_grad(POINTER, INTEGER)                                              \
    POINTER(const int64_t, sums) POINTER(const int64_t, products)                                 \
    POINTER(float, dweight) POINTER(float, dbias)                                                 \
    INTEGER(images) INTEGER(channels) INTEGER(groups) INTEGER(count)                              \
    EXPONENTS(POINTER, INTEGER, grad_exponent) EXPONENTS(POINTER, INTEGER, exponent)              \
    EPS(INTEGER) INTEGER(threads)

/* Changes mean and var also where it returns NOT_FINITE. */
#define ARGUMENTS_update_running(POINTER, INTEGER)                                                \
    POINTER(float, mean) POINTER(float, var) POINTER(const int64_t, sums)                         \
    INTEGER(channels) INTEGER(count) EXPONENTS(POINTER, INTEGER, exponent)                        \
    INTEGER(momentum) INTEGER(momentum_exponent) INTEGER(threads)

/* mean NULL: of the input's gradient, where the exponents are the incoming one's. */
#define ARGUMENTS_frozen_norm(POINTER, INTEGER)                                                   \
    POINTER(const float, mean) POINTER(const float, var)                                          \
    POINTER(const float, weight) POINTER(const float, bias)                                       \
    POINTER(coefficients_t, coefficients)                                                         \
    INTEGER(channels) INTEGER(bits) EXPONENTS(POINTER, INTEGER, exponent) EPS(INTEGER)

#define ARGUMENTS_frozen_norm_weight_grad(POINTER, INTEGER)                                       \
    POINTER(const int64_t, products) POINTER(const float, mean) POINTER(const float, var)         \
    POINTER(float, dweight)                                                                       \
    INTEGER(channels) EXPONENTS(POINTER, INTEGER, grad_exponent)                                  \
    EXPONENTS(POINTER, INTEGER, exponent) EPS(INTEGER) INTEGER(threads)

/* Rows of `size` elements; sums[2][rows] are written. Returns the top of the result. */
#define ARGUMENTS_layer_norm(POINTER, INTEGER)                                                    \
    POINTER(const void, x) POINTER(const float, weight) POINTER(const float, bias)                \
    POINTER(float, out) POINTER(int64_t, sums)                                                    \
    INTEGER(rows) INTEGER(size) INTEGER(wide) INTEGER(bits) EXPONENTS(POINTER, INTEGER, exponent) \
    EPS(INTEGER) INTEGER(threads)

#define ARGUMENTS_layer_norm_grad(POINTER, INTEGER)                                               \
    POINTER(const void, grad) POINTER(const void, x) POINTER(const int64_t, sums)                 \
    POINTER(const float, weight) POINTER(float, out) POINTER(float, dweight)                      \
    POINTER(float, dbias)                                                                         \
    INTEGER(rows) INTEGER(size) INTEGER(wide) INTEGER(grad_bits) INTEGER(bits)                    \
    INTEGER(grad_exponent) EXPONENTS(POINTER, INTEGER, exponent) EPS(INTEGER) INTEGER(threads)

/* ---- products ---- */

/* The largest magnitude of one product, the products' exponent, or one for each group, and the bias
 * of the result's channels. Kernels with a bias return `extent_result` (products/extent.h). */
#define PRODUCTS(POINTER, INTEGER)                                                                \
    INTEGER(wide) INTEGER(largest) EXPONENTS(POINTER, INTEGER, exponent)                          \
    POINTER(const float, bias) INTEGER(bias_length) RANDOM(INTEGER) INTEGER(threads)

/* x (n, h, w, c), weight (o, kernel_h, kernel_w, c / groups), grad (n, out_h, out_w, o), of which
 * each kernel takes two; where `depthwise`, with as many groups as channels and filters, images are
 * (n, c, h, w). The weight gradient takes no bias and returns a status. */
#define ARGUMENTS_conv2d(POINTER, INTEGER)                                                        \
    POINTER(const void, x) POINTER(const void, weight) POINTER(const void, grad)                  \
    POINTER(float, out)                                                                           \
    INTEGER(n) INTEGER(c) INTEGER(h) INTEGER(w) INTEGER(o) INTEGER(kernel_h) INTEGER(kernel_w)    \
    INTEGER(out_h) INTEGER(out_w) INTEGER(stride_h) INTEGER(stride_w) INTEGER(pad_h)              \
    INTEGER(pad_w) INTEGER(dilation_h) INTEGER(dilation_w) INTEGER(groups) INTEGER(depthwise)     \
    PRODUCTS(POINTER, INTEGER)

/* `batch` times a (m, k) and b (k, n), strides in elements; each has one dimension of stride 1. Each
 * matrix may have an exponent where there is no bias, or with `each_column` each column. */
#define ARGUMENTS_matmul(POINTER, INTEGER)                                                        \
    POINTER(const void, a) POINTER(const void, b) POINTER(float, out)                             \
    INTEGER(batch) INTEGER(m) INTEGER(k) INTEGER(n)                                               \
    INTEGER(a_batch) INTEGER(a_row) INTEGER(a_column)                                             \
    INTEGER(b_batch) INTEGER(b_row) INTEGER(b_column) INTEGER(each_column)                        \
    PRODUCTS(POINTER, INTEGER)

/* clang-format on */

/* ---- structs and prototypes ---- */

#define MMINT_POINTER(type, name) type *name;
#define MMINT_INTEGER(name) int64_t name;
#define MMINT_KERNEL(name)                             \
    typedef struct {                                   \
        ARGUMENTS_##name(MMINT_POINTER, MMINT_INTEGER) \
    } name##_args;                                     \
    int64_t name(const name##_args *a);
#define MMINT_ALIKE(name, other) int64_t name(const other##_args *a);
KERNELS(MMINT_KERNEL, MMINT_ALIKE)

#endif
