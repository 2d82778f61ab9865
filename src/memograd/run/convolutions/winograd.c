/* Convolutions of 3x3 filters that move by one pixel, as products of transformed tiles.

   A tile of 4x4 pixels d and a filter g give 2x2 results with 16 products instead of 36:
       A'[(G g G') * (B'd B)]A
   with the matrices of F(2x2, 3x3); * is taken elementwise. Over channels the sixteen elementwise products are sixteen
   products of matrices. Backward is read off the same line: the gradient of g is G'[(A dy A') * (B'd B)]G.

   Images are cut into rows of tiles, numbered over all images of a batch. A block of such rows is transformed, multiplied
   and transformed back while it lies in the processor's cache. */
#if __has_include(<unistd.h>)
#include <unistd.h>
#endif

VECTORS

enum { AHEAD = 4 };    /* planes */
enum { LONGEST = 16 }; /* tiles written at once, whatever vectors are: so much lies between one k and the next */

/* An image: planes of H x W pixels, cut into TH x TW tiles that begin `padding` pixels outside. */
typedef struct { long channels, height, width, rows, columns, padding; } image;

/* to[t][c] = from[c][t]. */
static void transpose(const float *from, long row, float *to, long column, long channels, long columns) {
    for (long c = 0; c < channels; c += WIDE)
        for (long t = 0; t < columns; t += WIDE) {
            vector x[WIDE];
            _Pragma("GCC unroll 16") for (int i = 0; i < WIDE; ++i)
                x[i] = c + i < channels ? *(const vector *)(from + (c + i) * row + t) : (vector){0};
            turn(x);
            _Pragma("GCC unroll 16") for (int i = 0; i < WIDE; ++i) *(vector *)(to + (t + i) * column + c) = x[i];
        }
}

/* Pixels of rows first .. last - 1 of a plane, zeros where there are none. The same rows of a plane that comes soon are
   fetched meanwhile: they lie too far from here for a processor to guess. */
static void copy_rows(const float *plane, image i, long first, long last, float *to, long pitch) {
    for (long r = first; r < last; ++r, to += pitch) {
        const float *row = plane + r * i.width;
        if (r >= 0 && r < i.height) {
            copy(row, to + i.padding, i.width);
            const float *soon = row + AHEAD * i.height * i.width;
            for (long j = 0; j < i.width; j += 16) __builtin_prefetch(soon + j);
        } else for (long j = 0; j < i.width; j += WIDE) *(vector *)(to + i.padding + j) = (vector){0};
    }
}
static long pitch_of(image i) { return 2 * i.columns + 2 + 3 * LONGEST; } /* of rows copied: what is read beyond is zero */

#define FIRST_4 0, 1, 2, 3
#define FIRST_8 FIRST_4, 4, 5, 6, 7
#define FIRST_16 FIRST_8, 8, 9, 10, 11, 12, 13, 14, 15
TILES

#define EACH(task, tiles, i, ...) \
    ((i).columns > 8 ? task##_16(tiles, i, __VA_ARGS__) \
                     : (i).columns > 4 ? task##_8(tiles, i, __VA_ARGS__) : task##_4(tiles, i, __VA_ARGS__))

enum { HELD = WIDE < 9 ? WIDE : 9 }; /* of the nine numbers of a filter: as many as a vector has, and the rest */

/* WIDE filters that stand one behind another, a vector for each of the nine; behind the last number seven more are read. */
static void take_filters(const float *w, vector *g) {
    vector x[WIDE];
    _Pragma("GCC unroll 16") for (int i = 0; i < WIDE; ++i) x[i] = *(const vector *)(w + 9 * i);
    turn(x);
    _Pragma("GCC unroll 9") for (int q = 0; q < HELD; ++q) g[q] = x[q];
    for (int q = HELD; q < 9; ++q) for (int i = 0; i < WIDE; ++i) g[q][i] = w[9 * i + q];
}
/* And back, `some` of them. */
static void put_filters(const vector *g, float *w, long some) {
    vector x[WIDE] = {0};
    _Pragma("GCC unroll 9") for (int q = 0; q < HELD; ++q) x[q] = g[q];
    turn(x);
    for (long i = 0; i + 1 < some; ++i) *(vector *)(w + 9 * i) = x[i]; /* what is too much the next write over */
    copy((const float *)(x + some - 1), w + 9 * (some - 1), HELD);
    for (int q = HELD; q < 9; ++q) for (long i = 0; i < some; ++i) w[9 * i + q] = g[q][i];
}

/* filters[k][i] of w[i][3][3], step floats from one k to the next, for i from begin to end - 1; nothing is read at `stop`
   or behind it. Turned by half a turn they are the filters of the gradient's convolution. What is written beyond the last
   of all lies between one k and the next. */
static void filters_of(const float *w, float *filters, long step, int turned, long begin, long end, const float *stop) {
    for (long first = begin; first < end; first += WIDE) {
        vector g[9];
        if (first + WIDE <= end && w + 9 * (first + WIDE) + 7 <= stop) take_filters(w + 9 * first, g);
        else {
            float last[9 * WIDE + 7] = {0};
            memcpy(last, w + 9 * first, 4 * 9 * (end - first));
            take_filters(last, g);
        }
        vector t[4][3];
        _Pragma("GCC unroll 3") for (int b = 0; b < 3; ++b) {
            const vector g0 = g[turned ? 8 - b : b], g1 = g[turned ? 5 - b : 3 + b], g2 = g[turned ? 2 - b : 6 + b];
            const vector sum = .5f * (g0 + g2), middle = .5f * g1;
            t[0][b] = g0, t[1][b] = sum + middle, t[2][b] = sum - middle, t[3][b] = g2;
        }
        _Pragma("GCC unroll 4") for (int k = 0; k < 4; ++k) {
            float *to = filters + 4 * k * step + first;
            const vector sum = .5f * (t[k][0] + t[k][2]), middle = .5f * t[k][1];
            *(vector *)to = t[k][0], *(vector *)(to + step) = sum + middle;
            *(vector *)(to + 2 * step) = sum - middle, *(vector *)(to + 3 * step) = t[k][2];
        }
    }
}

void memograd_filters(const float *w, float *filters, long step, int turned, long begin, long end) {
    filters_of(w, filters, step, turned, begin, end, w + 9 * end);
}

/* Those that make `some` channels, from o0 on, of `out` channels of c: [k][o][c], or turned, where w is [c][o], [k][c][o] in
   rows of `share`. */
static void filters_for(const float *w, float *filters, long step, int turned, long c, long out, long o0, long some,
                        long share) {
    const float *stop = w + 9 * c * out;
    if (!turned) filters_of(w + 9 * o0 * c, filters, step, 0, 0, some * c, stop);
    else for (long i = 0; i < c; ++i) filters_of(w + 9 * (i * out + o0), filters + i * share, step, 1, 0, some, stop);
}

/* dw[o][c][3][3] of the gradients of filters[k][o][c], whose rows of c are `row` apart and filled up with zeros, for o
   from first to last - 1. Returns whether all are finite. */
int memograd_filter_gradients(const float *filters, float *dw, long c, long step, long row, long first, long last) {
    vector zero = {0};
    for (long r = first; r < last; ++r)
        for (long i = 0; i < c; i += WIDE) {
            const float *m = filters + r * row + i;
            vector t[3][4];
            _Pragma("GCC unroll 4") for (int b = 0; b < 4; ++b) {
                const vector m0 = *(const vector *)(m + b * step), m3 = *(const vector *)(m + (12 + b) * step);
                const vector m1 = .5f * *(const vector *)(m + (4 + b) * step);
                const vector m2 = .5f * *(const vector *)(m + (8 + b) * step);
                t[0][b] = m0 + m1 + m2, t[1][b] = m1 - m2, t[2][b] = m1 + m2 + m3;
            }
            vector g[9];
            _Pragma("GCC unroll 3") for (int a = 0; a < 3; ++a) {
                const vector m1 = .5f * t[a][1], m2 = .5f * t[a][2];
                g[3 * a] = t[a][0] + m1 + m2, g[3 * a + 1] = m1 - m2, g[3 * a + 2] = m1 + m2 + t[a][3];
                zero += (g[3 * a] + g[3 * a + 1] + g[3 * a + 2]) * 0;
            }
            put_filters(g, dw + (r * c + i) * 9, c - i < WIDE ? c - i : WIDE);
        }
    float sum = 0;
    for (int i = 0; i < WIDE; ++i) sum += zero[i];
    return sum == 0;
}

/* y = x convolved with filters, for rows of tiles first .. last - 1, `block` at a time. Filters are ready, for all channels
   (share), or are made of w for so many channels at a time, where they are multiplied. Returns whether all is finite. */
int memograd_convolve(const float *x, const float *w, float *filters, float *y, float *u, float *m, const long *sizes,
                      int turned, long share, long step, long block, long first, long last) {
    const image in = {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5]};
    const image out = {sizes[6], sizes[7], sizes[8], sizes[3], sizes[4], 0};
    const long row = turned ? 1 : in.channels, column = turned ? share : 1;
    float buffer[(2 * block + 2) * pitch_of(in)];
    memset(buffer, 0, sizeof buffer);
    float written[2 * pitch_of(out)], zero = 0;
    for (long r0 = first; r0 < last; r0 += block) {
        const long r1 = r0 + block < last ? r0 + block : last, tiles = whole((r1 - r0) * in.columns);
        const long from_u = in.channels * tiles + LONGEST, from_m = share * tiles + LONGEST;
        for (long c = 0; c < in.channels; ++c) EACH(pixels, x, in, c, u + c * tiles, from_u, buffer, r0, r1);
        for (long o0 = 0; o0 < out.channels; o0 += share) {
            const long some = out.channels - o0 < share ? out.channels - o0 : share;
            if (w) filters_for(w, filters, step, turned, in.channels, out.channels, o0, some, share);
            for (int k = 0; k < 16; ++k)
                product(ONE, filters + k * step, row, column, u + k * from_u, tiles, m + k * from_m, tiles, some,
                        in.channels, tiles, 0);
            for (long o = 0; o < some; ++o)
                zero += EACH(results, y, out, o0 + o, m + o * tiles, from_m, written, r0, r1);
        }
    }
    return zero == 0;
}

/* The gradients of filters[k][o * row + c] by pixels x and the gradients of results. Rows are filled up to whole
   vectors, and may be longer. */
void memograd_filter_products(const float *x, const float *gradients, float *filters, float *u, float *m,
                              float *transposed, const long *sizes, long step, long row, long block, long first,
                              long last) {
    const image in = {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5]};
    const image out = {sizes[6], sizes[7], sizes[8], sizes[3], sizes[4], 0};
    float buffer[(2 * block + 2) * pitch_of(in)];
    for (long r0 = first; r0 < last; r0 += block) {
        const long r1 = r0 + block < last ? r0 + block : last, count = (r1 - r0) * in.columns, tiles = whole(count);
        const long from_u = in.channels * tiles + LONGEST, from_m = out.channels * tiles + LONGEST;
        memset(buffer, 0, sizeof buffer);
        for (long c = 0; c < in.channels; ++c) EACH(pixels, x, in, c, u + c * tiles, from_u, buffer, r0, r1);
        memset(buffer, 0, sizeof buffer);
        for (long o = 0; o < out.channels; ++o) EACH(gradients, gradients, out, o, m + o * tiles, from_m, buffer, r0, r1);
        for (int k = 0; k < 16; ++k) {
            transpose(u + k * from_u, tiles, transposed, row, in.channels, tiles);
            product(ONE, m + k * from_m, tiles, 1, transposed, row, filters + k * step, row, out.channels, count,
                    whole(in.channels), r0 > first);
        }
    }
}

/* Bytes of the second cache of a processor; 0: it does not say. */
long memograd_second_cache(void) {
#ifdef _SC_LEVEL2_CACHE_SIZE
    return sysconf(_SC_LEVEL2_CACHE_SIZE);
#else
    return 0;
#endif
}
