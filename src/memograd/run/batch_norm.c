/* Batch normalization of images in training, a channel at a time: its planes are read again while they lie in the cache. */
enum { WIDE = 16, TOGETHER = 4 * WIDE };
typedef float vector __attribute__((vector_size(4 * WIDE), aligned(4)));
typedef int mask __attribute__((vector_size(4 * WIDE), aligned(4)));
#define AT(p) (*(vector *)(p))
#define OF(p) (*(const vector *)(p))

/* The sum of EACH(j, type) over 0 <= j < size, in double from plane to plane; EACH reads a vector or one number. */
#define SUM(total, size, EACH) \
    do { \
        vector s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0}; \
        long j = 0; \
        for (; j + TOGETHER <= size; j += TOGETHER) { \
            s0 += EACH(j, vector), s1 += EACH(j + WIDE, vector); \
            s2 += EACH(j + 2 * WIDE, vector), s3 += EACH(j + 3 * WIDE, vector); \
        } \
        s0 = (s0 + s1) + (s2 + s3); \
        float sum = 0; \
        for (int k = 0; k < WIDE; ++k) sum += s0[k]; \
        for (; j < size; ++j) sum += EACH(j, float); \
        total += sum; \
    } while (0)
#define ONE(p, type) (*(const type *)(p))

static vector rectified(vector v) { return (vector)(~(v < 0) & (mask)v); } /* NaN stays */

/* y = (x - mean) / sqrt(var + eps) * w + b, and its rectifier. means, scales: of each channel, scale = 1 / sqrt(...).
   running: mean and variance before and after, of each channel. */
void memograd_batch_norm(const float *x, const float *w, const float *b, const float *running_mean,
                         const float *running_variance, float *y, float *means, float *scales, float *new_mean,
                         float *new_variance, long images, long channels, long size, double momentum, double eps,
                         int rectify, long first, long last) {
    const double count = (double)images * size;
    for (long c = first; c < last; ++c) {
        const long step = channels * size;
        const float *from = x + c * size;
        double total = 0, squares = 0;
#define X(j, type) ONE(p + (j), type)
        for (long n = 0; n < images; ++n) {
            const float *p = from + n * step;
            SUM(total, size, X);
        }
        const float mean = total / count;
#define SQUARE(j, type) (ONE(p + (j), type) - mean) * (ONE(p + (j), type) - mean)
        for (long n = 0; n < images; ++n) {
            const float *p = from + n * step;
            SUM(squares, size, SQUARE);
        }
        const double variance = squares / count;
        const float scale = 1 / __builtin_sqrt(variance + eps);
        means[c] = mean, scales[c] = scale;
        new_mean[c] = (1 - momentum) * running_mean[c] + momentum * mean;
        new_variance[c] = (1 - momentum) * running_variance[c] + momentum * (squares / (count - 1));
        const float by = scale * (w ? w[c] : 1), plus = (b ? b[c] : 0) - mean * by;
        for (long n = 0; n < images; ++n) {
            const float *p = from + n * step;
            float *to = y + c * size + n * step;
            long j = 0;
            if (rectify) for (; j + WIDE <= size; j += WIDE) AT(to + j) = rectified(OF(p + j) * by + plus);
            else for (; j + WIDE <= size; j += WIDE) AT(to + j) = OF(p + j) * by + plus;
            for (; j < size; ++j) {
                const float v = p[j] * by + plus;
                to[j] = rectify && v < 0 ? 0 : v;
            }
        }
    }
}

/* The gradients of x, w and b by that of y, or of its rectifier, whose results are `kept` (else 0). */
void memograd_batch_norm_backward(const float *g, const float *kept, const float *x, const float *w, const float *means,
                                  const float *scales, float *masked, float *dx, float *dw, float *db, long images,
                                  long channels, long size, long first, long last) {
    const double count = (double)images * size;
    for (long c = first; c < last; ++c) {
        const float mean = means[c], scale = scales[c];
        double total = 0, product = 0;
        for (long n = 0; n < images; ++n) {
            const long at = (n * channels + c) * size;
            const float *p = g + at, *q = x + at;
            if (kept) {
                const float *r = kept + at;
                float *to = masked + n * size;
                long j = 0;
                for (; j + WIDE <= size; j += WIDE) AT(to + j) = (vector)(~(OF(r + j) <= 0) & (mask)OF(p + j));
                for (; j < size; ++j) to[j] = r[j] <= 0 ? 0 : p[j];
                p = to;
            }
#define PRODUCT(j, type) ONE(p + (j), type) * (ONE(q + (j), type) - mean)
            SUM(total, size, X);
            SUM(product, size, PRODUCT);
        }
        if (db) db[c] = total;
        if (dw) dw[c] = product * scale;
        if (!dx) continue;
        const float by = scale * (w ? w[c] : 1), slope = product * scale * scale / count, level = total / count;
        for (long n = 0; n < images; ++n) {
            const long at = (n * channels + c) * size;
            const float *p = kept ? masked + n * size : g + at, *q = x + at;
            float *to = dx + at;
            long j = 0;
            for (; j + WIDE <= size; j += WIDE) AT(to + j) = (OF(p + j) - level - (OF(q + j) - mean) * slope) * by;
            for (; j < size; ++j) to[j] = (p[j] - level - (q[j] - mean) * slope) * by;
        }
    }
}
