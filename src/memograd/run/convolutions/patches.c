/* Patches of images as columns, and back. A column is what a filter sees at one place: patches[c][a][b] of result (i, j)
   of image n is pixel (i * stride + a - padding, j * stride + b - padding) of channel c, zero outside. */

/* x[n][c][H][W], patches[c][KH][KW][n][rows][columns] */
typedef struct { long images, channels, height, width, kh, kw, sh, sw, ph, pw, rows, columns; } shape;

/* The results whose pixel number b of the patch lies in the image: from, up to. */
static long begin(long b, long stride, long padding) { return b >= padding ? 0 : (padding - b + stride - 1) / stride; }
static long end(long b, long stride, long padding, long size, long count) {
    const long last = size - 1 + padding - b < 0 ? 0 : (size - 1 + padding - b) / stride + 1;
    return last < count ? last : count;
}

void memograd_patches(const float *x, float *patches, const long *sizes, long first, long last) {
    const shape s = *(const shape *)sizes;
    for (long c = first; c < last; ++c)
        for (long a = 0; a < s.kh; ++a)
            for (long b = 0; b < s.kw; ++b) {
                float *to = patches + ((c * s.kh + a) * s.kw + b) * s.images * s.rows * s.columns;
                const long j0 = begin(b, s.sw, s.pw), j1 = end(b, s.sw, s.pw, s.width, s.columns);
                for (long n = 0; n < s.images; ++n)
                    for (long i = 0; i < s.rows; ++i, to += s.columns) {
                        const long r = i * s.sh + a - s.ph;
                        if (r < 0 || r >= s.height || j0 >= j1) {
                            for (long j = 0; j < s.columns; ++j) to[j] = 0;
                            continue;
                        }
                        const float *row = x + ((n * s.channels + c) * s.height + r) * s.width + b - s.pw;
                        for (long j = 0; j < j0; ++j) to[j] = 0;
                        if (s.sw == 1) for (long j = j0; j < j1; ++j) to[j] = row[j];
                        else for (long j = j0; j < j1; ++j) to[j] = row[j * s.sw];
                        for (long j = j1; j < s.columns; ++j) to[j] = 0;
                    }
            }
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
