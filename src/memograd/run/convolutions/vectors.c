/* Vectors, and products of matrices in registers. WIDE and ROWS are what a processor's registers hold. */
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

static long whole(long count) { return (count + WIDE - 1) / WIDE * WIDE; }

/* Pairs of matrices whose products are summed: list[2 i] and list[2 i + 1] say how many times f and x floats further the
   two of pair i lie. */
typedef struct { const long *list; long count, f, x; } terms;
static const terms ONE = {(const long[]){0, 0}, 1, 0, 0};

/* y[r][...] = sum over pairs and c of f[r * row + c * column] * x[c * next ...], or that added to it: so many rows of so
   many vectors, which all stay in registers. */
#define PRODUCT(M, N) \
static void product_##M##_##N(terms all, const float *f, long row, long column, const float *x, long next, float *y, \
                              long to, long n, int more) { \
    vector sum[M][N]; \
    _Pragma("GCC unroll 8") for (int r = 0; r < M; ++r) \
        _Pragma("GCC unroll 8") for (int q = 0; q < N; ++q) sum[r][q] = (vector){0}; \
    for (long i = 0; i < all.count; ++i) { \
        const float *by = f + all.list[2 * i] * all.f, *at = x + all.list[2 * i + 1] * all.x; \
        for (long c = 0; c < n; ++c, by += column, at += next) { \
            vector own[N]; \
            _Pragma("GCC unroll 8") for (int q = 0; q < N; ++q) own[q] = *(const vector *)(at + q * WIDE); \
            _Pragma("GCC unroll 8") for (int r = 0; r < M; ++r) \
                _Pragma("GCC unroll 8") for (int q = 0; q < N; ++q) sum[r][q] += own[q] * by[r * row]; \
        } \
    } \
    _Pragma("GCC unroll 8") for (int r = 0; r < M; ++r) \
        _Pragma("GCC unroll 8") for (int q = 0; q < N; ++q) { \
            vector *own = (vector *)(y + r * to + q * WIDE); \
            *own = more ? *own + sum[r][q] : sum[r][q]; \
        } \
}
PRODUCT(8, 3) PRODUCT(8, 2) PRODUCT(8, 1)
PRODUCT(4, 3) PRODUCT(4, 2) PRODUCT(4, 1)
PRODUCT(1, 3) PRODUCT(1, 2) PRODUCT(1, 1)
#define CASES(M) case M * 4 + 3: BY(M, 3); case M * 4 + 2: BY(M, 2); case M * 4 + 1: BY(M, 1)
#define BY(M, N) product_##M##_##N(all, f + r * row, row, column, x + t, next, y + r * to + t, to, n, more); break

/* y[m][t] = sum over pairs of f[m][n] x[n][t], or that added to it; t is a number of whole vectors. */
static void product(terms all, const float *f, long row, long column, const float *x, long next, float *y, long to,
                    long m, long n, long columns, int more) {
    for (long t = 0, many; t < columns; t += many * WIDE) {
        many = (columns - t) / WIDE < PAIRS ? (columns - t) / WIDE : PAIRS;
        for (long r = 0, rows; r < m; r += rows) {
            rows = m - r >= ROWS ? ROWS : m - r >= 4 ? 4 : 1;
            switch (rows * 4 + many) { CASES(8); CASES(4); CASES(1); }
        }
    }
}

/* Rows as columns. In each of its rounds element 2i of the halves taken in turn comes from the first half. */
static inline __attribute__((always_inline)) void turn(vector *x) {
    vector y[WIDE];
    _Pragma("GCC unroll 4") for (int round = 1; round < WIDE; round *= 2) {
        _Pragma("GCC unroll 8") for (int i = 0; i < WIDE / 2; ++i) {
            y[2 * i] = LOW_WIDE(x[i], x[i + WIDE / 2]);
            y[2 * i + 1] = HIGH_WIDE(x[i], x[i + WIDE / 2]);
        }
        _Pragma("GCC unroll 16") for (int i = 0; i < WIDE; ++i) x[i] = y[i];
    }
}

/* What memcpy does; a call of it, which GCC makes of a loop, takes longer than to move so few. */
static inline void copy(const float *from, float *to, long count) {
    if (count >= WIDE) {
        for (long j = 0; j + WIDE <= count; j += WIDE) *(vector *)(to + j) = *(const vector *)(from + j);
        *(vector *)(to + count - WIDE) = *(const vector *)(from + count - WIDE);
        return;
    }
#define PIECE(size) if (count & size) memcpy(to, from, 4 * size), from += size, to += size
    PIECE(8); PIECE(4); PIECE(2); PIECE(1);
}

/* Columns that a product has at least where registers are full. */
int memograd_columns(void) { return PAIRS * WIDE; }
