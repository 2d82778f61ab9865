/* Convolutions of 3x3 filters that move by one pixel, as products of transformed tiles.

   A tile of 4x4 pixels d and a filter g give 2x2 results with 16 products instead of 36:
       A'[(G g G') * (B'd B)]A
   with the matrices of F(2x2, 3x3); * is taken elementwise. Over channels the sixteen elementwise products are sixteen
   products of matrices. Backward is read off the same line: the gradient of g is G'[(A dy A') * (B'd B)]G.

   Images are cut into rows of tiles, numbered over all images of a batch. A block of such rows is transformed, multiplied
   and transformed back while it lies in the processor's cache. WIDE and ROWS are what its registers hold. */
#include <string.h>

#ifdef __AVX512F__
enum { WIDE = 16, ROWS = 8 };
#define EVEN_WIDE EVEN_16
#define LOW_WIDE LOW_16
#define HIGH_WIDE HIGH_16
#else
enum { WIDE = 8, ROWS = 4 };
#define EVEN_WIDE EVEN_8
#define LOW_WIDE LOW_8
#define HIGH_WIDE HIGH_8
#endif
enum { PAIRS = 3 };    /* vectors side by side in a product */
enum { LONGEST = 16 }; /* tiles written at once, whatever vectors are: so much lies between one k and the next */

typedef float vector __attribute__((vector_size(4 * WIDE), aligned(4)));

/* Of two vectors side by side: every other element, or the elements of both in turn, lower and upper half. */
#define EVEN_4(a, b) __builtin_shufflevector(a, b, 0, 2, 4, 6)
#define ODD_4(a, b) __builtin_shufflevector(a, b, 1, 3, 5, 7)
#define LOW_4(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define HIGH_4(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#define EVEN_8(a, b) __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14)
#define ODD_8(a, b) __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15)
#define LOW_8(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define HIGH_8(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#define EVEN_16(a, b) __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)
#define ODD_16(a, b) __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31)
#define LOW_16(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define HIGH_16(a, b) __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)

/* An image: planes of H x W pixels, cut into TH x TW tiles that begin `padding` pixels outside. */
typedef struct { long channels, height, width, rows, columns, padding; } image;

/* y[r][...] = sum over c of f[r * row + c * column] * x[c * next ...], or that added to it: so many rows of so many
   vectors, which all stay in registers. */
#define PRODUCT(M, N) \
static void product_##M##_##N(const float *f, long row, long column, const float *x, long next, float *y, long to, \
                              long n, int more) { \
    vector sum[M][N]; \
    _Pragma("GCC unroll 8") for (int r = 0; r < M; ++r) \
        _Pragma("GCC unroll 8") for (int q = 0; q < N; ++q) \
            sum[r][q] = more ? *(const vector *)(y + r * to + q * WIDE) : (vector){0}; \
    for (long c = 0; c < n; ++c, f += column, x += next) { \
        vector own[N]; \
        _Pragma("GCC unroll 8") for (int q = 0; q < N; ++q) own[q] = *(const vector *)(x + q * WIDE); \
        _Pragma("GCC unroll 8") for (int r = 0; r < M; ++r) { \
            const float by = f[r * row]; \
            _Pragma("GCC unroll 8") for (int q = 0; q < N; ++q) sum[r][q] += own[q] * by; \
        } \
    } \
    _Pragma("GCC unroll 8") for (int r = 0; r < M; ++r) \
        _Pragma("GCC unroll 8") for (int q = 0; q < N; ++q) *(vector *)(y + r * to + q * WIDE) = sum[r][q]; \
}
PRODUCT(8, 3) PRODUCT(8, 2) PRODUCT(8, 1)
PRODUCT(4, 3) PRODUCT(4, 2) PRODUCT(4, 1)
PRODUCT(1, 3) PRODUCT(1, 2) PRODUCT(1, 1)
#define CASES(M) case M * 4 + 3: BY(M, 3); case M * 4 + 2: BY(M, 2); case M * 4 + 1: BY(M, 1)
#define BY(M, N) product_##M##_##N(f + r * row, row, column, x + t, next, y + r * to + t, to, n, more); break

/* y[m][t] = f[m][n] x[n][t], or that added to it; t is a number of whole vectors. */
static void product(const float *f, long row, long column, const float *x, long next, float *y, long to, long m,
                    long n, long columns, int more) {
    for (long t = 0, many; t < columns; t += many * WIDE) {
        many = (columns - t) / WIDE < PAIRS ? (columns - t) / WIDE : PAIRS;
        for (long r = 0, rows; r < m; r += rows) {
            rows = m - r >= ROWS ? ROWS : m - r >= 4 ? 4 : 1;
            switch (rows * 4 + many) { CASES(8); CASES(4); CASES(1); }
        }
    }
}

static long whole(long count) { return (count + WIDE - 1) / WIDE * WIDE; }

/* to[t][c] = from[c][t]. In each of its rounds element 2i of the halves taken in turn comes from the first half. */
static void transpose(const float *from, long row, float *to, long column, long channels, long columns) {
    for (long c = 0; c < channels; c += WIDE)
        for (long t = 0; t < columns; t += WIDE) {
            vector x[WIDE], y[WIDE];
            _Pragma("GCC unroll 16") for (int i = 0; i < WIDE; ++i)
                x[i] = c + i < channels ? *(const vector *)(from + (c + i) * row + t) : (vector){0};
            _Pragma("GCC unroll 4") for (int round = 1; round < WIDE; round *= 2) {
                _Pragma("GCC unroll 8") for (int i = 0; i < WIDE / 2; ++i) {
                    y[2 * i] = LOW_WIDE(x[i], x[i + WIDE / 2]);
                    y[2 * i + 1] = HIGH_WIDE(x[i], x[i + WIDE / 2]);
                }
                _Pragma("GCC unroll 16") for (int i = 0; i < WIDE; ++i) x[i] = y[i];
            }
            _Pragma("GCC unroll 16") for (int i = 0; i < WIDE; ++i) *(vector *)(to + (t + i) * column + c) = x[i];
        }
}

/* Pixels of rows first .. last - 1 of a plane, zeros where there are none. */
static void copy_rows(const float *plane, image i, long first, long last, float *to, long pitch) {
    for (long r = first; r < last; ++r, to += pitch) {
        const float *row = plane + r * i.width;
        if (r < 0 || r >= i.height) for (long j = 0; j < i.width; ++j) to[i.padding + j] = 0;
        else for (long j = 0; j < i.width; ++j) to[i.padding + j] = row[j];
    }
}
static long pitch_of(image i) { return 2 * i.columns + 2 + 3 * LONGEST; } /* of rows copied: what is read beyond is zero */

TILES

#define EACH(task, tiles, i, ...) \
    ((i).columns > 8 ? task##_16(tiles, i, __VA_ARGS__) \
                     : (i).columns > 4 ? task##_8(tiles, i, __VA_ARGS__) : task##_4(tiles, i, __VA_ARGS__))

/* filters[k][o][c] of w[o][c][3][3], numbers begin .. end - 1 of them, step floats from one k to the next. Turned by half
   a turn they are the filters of the gradient's convolution. What is written beyond the last of all lies between one k
   and the next. */
void memograd_filters(const float *w, float *filters, long step, int turned, long begin, long end) {
    for (long first = begin; first < end; first += WIDE) {
        const long some = end - first < WIDE ? end - first : WIDE;
        union { float one[9][WIDE]; vector all[9]; } g;
        if (some < WIDE) memset(&g, 0, sizeof g);
        for (long i = 0; i < some; ++i)
            for (int q = 0; q < 9; ++q) g.one[turned ? 8 - q : q][i] = w[(first + i) * 9 + q];
        vector t[4][3];
        _Pragma("GCC unroll 3") for (int b = 0; b < 3; ++b) {
            const vector sum = .5f * (g.all[b] + g.all[6 + b]), middle = .5f * g.all[3 + b];
            t[0][b] = g.all[b], t[1][b] = sum + middle, t[2][b] = sum - middle, t[3][b] = g.all[6 + b];
        }
        _Pragma("GCC unroll 4") for (int k = 0; k < 4; ++k) {
            float *to = filters + 4 * k * step + first;
            const vector sum = .5f * (t[k][0] + t[k][2]), middle = .5f * t[k][1];
            *(vector *)to = t[k][0], *(vector *)(to + step) = sum + middle;
            *(vector *)(to + 2 * step) = sum - middle, *(vector *)(to + 3 * step) = t[k][2];
        }
    }
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
            union { float one[9][WIDE]; vector all[9]; } g;
            _Pragma("GCC unroll 3") for (int a = 0; a < 3; ++a) {
                const vector m1 = .5f * t[a][1], m2 = .5f * t[a][2];
                g.all[3 * a] = t[a][0] + m1 + m2, g.all[3 * a + 1] = m1 - m2, g.all[3 * a + 2] = m1 + m2 + t[a][3];
                zero += (g.all[3 * a] + g.all[3 * a + 1] + g.all[3 * a + 2]) * 0;
            }
            const long some = c - i < WIDE ? c - i : WIDE;
            float *to = dw + (r * c + i) * 9;
            for (long k = 0; k < some; ++k)
                for (int q = 0; q < 9; ++q) to[k * 9 + q] = g.one[q][k];
        }
    float sum = 0;
    for (int i = 0; i < WIDE; ++i) sum += zero[i];
    return sum == 0;
}

/* y = x convolved with filters [k][o * row + c * column], for rows of tiles first .. last - 1, `block` at a time. Returns
   whether all is finite. */
int memograd_convolve(const float *x, const float *filters, float *y, float *u, float *m, const long *sizes, long step,
                       long row, long column, long block, long first, long last) {
    const image in = {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5]};
    const image out = {sizes[6], sizes[7], sizes[8], sizes[3], sizes[4], 0};
    float buffer[(2 * block + 2) * pitch_of(in)];
    memset(buffer, 0, sizeof buffer);
    float written[2 * pitch_of(out)], zero = 0;
    for (long r0 = first; r0 < last; r0 += block) {
        const long r1 = r0 + block < last ? r0 + block : last, tiles = whole((r1 - r0) * in.columns);
        const long from_u = in.channels * tiles + LONGEST, from_m = out.channels * tiles + LONGEST;
        for (long c = 0; c < in.channels; ++c) EACH(pixels, x, in, c, u + c * tiles, from_u, buffer, r0, r1);
        for (int k = 0; k < 16; ++k)
            product(filters + k * step, row, column, u + k * from_u, tiles, m + k * from_m, tiles, out.channels,
                    in.channels, tiles, 0);
        for (long o = 0; o < out.channels; ++o)
            zero += EACH(results, y, out, o, m + o * tiles, from_m, written, r0, r1);
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
            product(m + k * from_m, tiles, 1, transposed, row, filters + k * step, row, out.channels, count,
                    whole(in.channels), r0 > first);
        }
    }
}
