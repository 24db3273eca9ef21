/* The largest magnitudes of what is mapped, as bit patterns: of a tensor, or of each block of
 * elements that shares an exponent, in memory or made where it is read.
 *
 * `largest` leaves the maxima of parts, of which the mapping takes the maximum again, so that it
 * needs no atomics and no zeroed memory. */
#include "groups.cuh"
#include "source.cuh"

enum { THREADS = 256, TILE_CHANNELS = 32 };

extern "C" __global__ void __launch_bounds__(THREADS)
    largest(const uint32_t *x, int64_t n, uint32_t *tops) {
    const int64_t first = first_index(), step = stride();
    uint32_t top = 0;
    int64_t done = 0;
    if ((uint64_t)x % 16 == 0) {
        const uint4 *quads = (const uint4 *)x;
#pragma unroll 4
        for (int64_t i = first; i < n / 4; i += step) {
            const uint4 q = quads[i];
            top = max(top, max(max(q.x & 0x7FFFFFFF, q.y & 0x7FFFFFFF),
                               max(q.z & 0x7FFFFFFF, q.w & 0x7FFFFFFF)));
        }
        done = n / 4 * 4;
    }
    for (int64_t i = done + first; i < n; i += step) top = max(top, x[i] & 0x7FFFFFFF);
    top = block_max(top);
    if (threadIdx.x == 0) tops[blockIdx.x] = top;
}

/* Joins the largest magnitude of each block to tops[count]; n elements of x. */
extern "C" __global__ void __launch_bounds__(THREADS)
    largest_each(const uint32_t *x, int64_t n, int64_t count, int64_t run, int32_t *tops) {
    note_tops(whole_grid(), n, count, run, tops, [=](int64_t i) { return x[i] & 0x7FFFFFFF; });
}

/* The same of elements of memory whose bits are set. */
extern "C" __global__ void __launch_bounds__(THREADS)
    largest_passed(source s, int64_t n, int64_t count, int64_t run, int32_t *tops) {
    note_tops(whole_grid(), n, count, run, tops,
              [=](int64_t i) { return passed_at(s, i) & 0x7FFFFFFF; });
}

/* The same of n elements that are made, whose blocks hold whole planes: of the smallest and the
 * largest mantissa of a plane's part, or where there are others too, of all. A warp's lanes are
 * neighbouring channels. */
extern "C" __global__ void __launch_bounds__(THREADS)
    largest_made(source s, int64_t n, int64_t count, int64_t run, int32_t *tops) {
    enum { PART = 64, ROWS = THREADS / TILE_CHANNELS };
    const int64_t across = (s.channels + TILE_CHANNELS - 1) / TILE_CHANNELS;
    const int64_t parts = (s.pixels + PART * ROWS - 1) / (PART * ROWS);
    const int64_t images = n / (s.channels * s.pixels);
    const int lane = threadIdx.x % TILE_CHANNELS, row = threadIdx.x / TILE_CHANNELS;
    for (int64_t t = blockIdx.x; t < images * across * parts; t += gridDim.x) {
        const int64_t channel = t % across * TILE_CHANNELS + lane, image = t / (across * parts);
        const int64_t first = (t / across % parts * ROWS + row) * PART;
        const int64_t last = min(first + PART, s.pixels), plane = image * s.channels + channel;
        if (channel >= s.channels || first >= last) continue;
        const coefficients_t *of = s.coefficients + (s.per_image ? plane : channel);
        const cut_t cut = cut_at(s.ceiling);
        int64_t low = 32767, high = -32767;
        uint32_t top = 0;
        for (int64_t p = first; p < last; p++) {
            const int64_t i = (image * s.pixels + p) * s.channels + channel;
            if (s.others) {
                top = max(top, magnitude_bits(made_at(s, of, i, cut)));
            } else {
                low = min(low, mantissa_at(s, s.mantissas, i));
                high = max(high, mantissa_at(s, s.mantissas, i));
            }
        }
        if (!s.others) top = top_between(low, high, of, cut);
        atomicMax(tops + plane * s.pixels / run % count, (int32_t)top);
    }
}
