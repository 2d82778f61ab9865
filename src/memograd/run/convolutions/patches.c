/* Patches of images as columns, and back. A column is what a filter sees at one place: patches[c][a][b] of result (i, j)
   of image n is pixel (i * stride + a - padding, j * stride + b - padding) of channel c, zero outside. */

/* x[n][c][H][W], patches[c][KH][KW][n][rows][columns] */
typedef struct { long images, channels, height, width, kh, kw, sh, sw, ph, pw, rows, columns; } shape;

/* Pixels of a plane with zeros around them, in columns b, b + sw, b + 2 sw, ... for each b < sw: what a row of results
   sees at one place of the patch then lies side by side. */
static void spread(const float *plane, shape s, float *to, long rows, long pitch) {
    for (long i = 0; i < s.height; ++i)
        for (long b = 0; b < s.sw; ++b) {
            float *row = to + (b * rows + i + s.ph) * pitch;
            const long first = b >= s.pw ? 0 : (s.pw - b + s.sw - 1) / s.sw; /* column of the first pixel among these */
            const float *from = plane + i * s.width + first * s.sw + b - s.pw;
            const long count = (s.width - (first * s.sw + b - s.pw) + s.sw - 1) / s.sw;
            for (long j = 0; j < count && first + j < pitch; ++j) row[first + j] = from[j * s.sw];
        }
}

enum { WIDE = 16 };
typedef float vector __attribute__((vector_size(4 * WIDE), aligned(4)));

static long rows_of(shape s) {
    const long seen = (s.rows - 1) * s.sh + s.kh;
    return seen > s.height + s.ph ? seen : s.height + s.ph;
}
static long pitch_of(shape s) { return s.columns + s.kw + WIDE; }

/* Floats that memograd_patches needs for pixels with zeros around them. */
long memograd_patches_need(const long *sizes) {
    const shape s = *(const shape *)sizes;
    return s.images * s.sw * rows_of(s) * pitch_of(s);
}

/* x[n][c][H][W] to patches[c][KH][KW][n][rows][columns], channels first .. last - 1. A row is written a vector at a
   time: what is too much of it the next rows write over, unless it would lie behind the last. pixels: zeros, as many as
   memograd_patches_need. */
void memograd_patches(const float *x, float *patches, float *pixels, const long *sizes, long first, long last) {
    const shape s = *(const shape *)sizes;
    const long rows = rows_of(s), pitch = pitch_of(s), plane = s.sw * rows * pitch;
    for (long c = first; c < last; ++c) {
        for (long n = 0; n < s.images; ++n)
            spread(x + (n * s.channels + c) * s.height * s.width, s, pixels + n * plane, rows, pitch);
        const long each = s.kh * s.kw * s.images * s.rows * s.columns;
        float *to = patches + c * each, *stop = patches + last * each - (s.columns + WIDE);
        for (long a = 0; a < s.kh; ++a)
            for (long b = 0; b < s.kw; ++b)
                for (long n = 0; n < s.images; ++n) {
                    const float *from = pixels + n * plane + (b % s.sw * rows + a) * pitch + b / s.sw;
                    for (long i = 0; i < s.rows; ++i, from += s.sh * pitch, to += s.columns)
                        if (to > stop) for (long j = 0; j < s.columns; ++j) to[j] = from[j];
                        else for (long j = 0; j < s.columns; j += WIDE) *(vector *)(to + j) = *(const vector *)(from + j);
                }
    }
}

/* The results whose pixel number b of the patch lies in the image: from, up to. */
static long begin(long b, long stride, long padding) { return b >= padding ? 0 : (padding - b + stride - 1) / stride; }
static long end(long b, long stride, long padding, long size, long count) {
    const long last = size - 1 + padding - b < 0 ? 0 : (size - 1 + padding - b) / stride + 1;
    return last < count ? last : count;
}

/* Each pixel is the sum over the patches it is in. */
void memograd_from_patches(const float *patches, float *x, const long *sizes, long first, long last) {
    const shape s = *(const shape *)sizes;
    for (long c = first; c < last; ++c) {
        for (long n = 0; n < s.images; ++n) {
            float *plane = x + (n * s.channels + c) * s.height * s.width;
            for (long k = 0; k < s.height * s.width; ++k) plane[k] = 0;
        }
        for (long a = 0; a < s.kh; ++a)
            for (long b = 0; b < s.kw; ++b) {
                const float *from = patches + ((c * s.kh + a) * s.kw + b) * s.images * s.rows * s.columns;
                const long j0 = begin(b, s.sw, s.pw), j1 = end(b, s.sw, s.pw, s.width, s.columns);
                for (long n = 0; n < s.images; ++n)
                    for (long i = 0; i < s.rows; ++i, from += s.columns) {
                        const long r = i * s.sh + a - s.ph;
                        if (r < 0 || r >= s.height) continue;
                        float *row = x + ((n * s.channels + c) * s.height + r) * s.width + b - s.pw;
                        if (s.sw == 1) for (long j = j0; j < j1; ++j) row[j] += from[j];
                        else for (long j = j0; j < j1; ++j) row[j * s.sw] += from[j];
                    }
            }
    }
}
