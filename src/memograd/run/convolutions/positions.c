/* Convolutions one position of an image at a time, for all images of a batch together.

   Each result is a sum over the taps of the filter that see a pixel and not the zeros around the image:
       y[., p] = sum over (tap, pixel q that it sees from p) of w[tap] x[., q]
   a product of a matrix [images, channels] and one [channels, channels] for each. Both gradients are sums of the same
   pairs, by pixel and by tap. Filters are put in order in the processor's cache, a block at a time, where they are used. */
VECTORS

enum { BLOCK = PAIRS * WIDE, CHUNK = 16 }; /* channels of a target, and of a source, that are together in a product */
enum { TERMS = 128 }; /* that are summed at once over images: a sum of such sums errs less than a long one */

static long least(long a, long b) { return a < b ? a : b; }

/* x[images][channels][places] to [channels / CHUNK][places][CHUNK][images], for chunks first .. last - 1. */
void memograd_by_position(const float *x, float *to, long images, long channels, long places, long first, long last) {
    for (long c0 = first * CHUNK; c0 < least(channels, last * CHUNK); c0 += CHUNK) {
        const long some = least(CHUNK, channels - c0);
        for (long c = 0; c < some; ++c)
            for (long n = 0; n < images; ++n) {
                const float *from = x + (n * channels + c0 + c) * places;
                float *own = to + c0 * places * images + c * images + n;
                for (long p = 0; p < places; ++p) own[p * some * images] = from[p];
            }
    }
}

/* Part number `part` of so many of a block of filters, rows of `floats` each, comes to the cache while others are used. */
#define FETCH(w, rows, row, floats, part, parts, write) \
    for (long r = (part) * (rows) / (parts); r < ((part) + 1) * (rows) / (parts); ++r) \
        for (long j = 0; j < (floats); j += 16) __builtin_prefetch((w) + r * (row) + j, write, 2)

/* b[tap][c][o] of w[o][c][tap]: `some` channels and `width` filters, both at most what is together, filled up with zeros.
   The filters of `row` floats begin at w. */
static void filters_along(const float *w, float *b, long row, long taps, long some, long width) {
    const long count = some * taps;
    for (long v = 0; v < width; v += WIDE)
        for (long j = 0, c = 0, tap = 0; j < count; j += WIDE) {
            vector x[WIDE];
            const long many = least(WIDE, count - j);
            if (many == WIDE && v + WIDE <= width)
                _Pragma("GCC unroll 16") for (int i = 0; i < WIDE; ++i) x[i] = *(const vector *)(w + (v + i) * row + j);
            else {
                memset(x, 0, sizeof x);
                for (long i = 0; i < least(WIDE, width - v); ++i) copy(w + (v + i) * row + j, (float *)(x + i), many);
            }
            turn(x);
            for (long i = 0; i < many; ++i) {
                *(vector *)(b + (tap * some + c) * BLOCK + v) = x[i];
                if (++tap == taps) tap = 0, ++c;
            }
        }
}

/* b[tap][o][c] of w[o][c][tap]: `some` filters, `row` floats from one to the next, and `width` channels; nothing is read
   at `end` or behind it. */
static void filters_across(const float *w, float *b, long row, long taps, long some, long width, const float *end) {
    for (long o = 0; o < some; ++o)
        for (long v = 0; v < width; v += WIDE)
            for (long t = 0; t < taps; t += WIDE) {
                const float *from = w + o * row + v * taps + t;
                const long many = least(WIDE, taps - t);
                vector x[WIDE];
                if (v + WIDE <= width && from + (WIDE - 1) * taps + WIDE <= end)
                    _Pragma("GCC unroll 16") for (int i = 0; i < WIDE; ++i) x[i] = *(const vector *)(from + i * taps);
                else {
                    memset(x, 0, sizeof x);
                    for (long i = 0; i < least(WIDE, width - v); ++i) copy(from + i * taps, (float *)(x + i), many);
                }
                turn(x);
                for (long i = 0; i < many; ++i) *(vector *)(b + ((t + i) * some + o) * BLOCK + v) = x[i];
            }
}

/* y[images][m][targets] of channels k at sources, as memograd_by_position leaves them, for blocks first .. last - 1 of m.
   Pairs of source and tap starts[p] .. starts[p + 1] - 1 go to target p. turned: w is [k][m][taps] and not [m][k][taps].
   work: BLOCK * (targets * images + CHUNK * taps) floats. */
void memograd_position_sums(const float *x, const float *w, float *y, float *work, const long *starts, const long *pairs,
                            long images, long k, long m, long taps, long sources, long targets, int turned, long first,
                            long last) {
    float *b = work + targets * images * BLOCK;
    for (long m0 = first * BLOCK; m0 < least(m, last * BLOCK); m0 += BLOCK) {
        const long width = least(BLOCK, m - m0);
        for (long k0 = 0; k0 < k; k0 += CHUNK) {
            const long some = least(CHUNK, k - k0);
            if (turned) filters_across(w + (k0 * m + m0) * taps, b, m * taps, taps, some, width, w + k * m * taps);
            else filters_along(w + (m0 * k + k0) * taps, b, k * taps, taps, some, width);
            const long next = k0 + CHUNK < k ? k0 + CHUNK : 0, own = next ? m0 : m0 + BLOCK;
            const long after = least(CHUNK, k - next), across = least(BLOCK, m - own);
            for (long p = 0; p < targets; ++p) {
                const terms all = {pairs + 2 * starts[p], starts[p + 1] - starts[p], some * images, some * BLOCK};
                if (turned) FETCH(w + (next * m + own) * taps, after, m * taps, across * taps, p, targets, 0);
                else FETCH(w + (own * k + next) * taps, across, k * taps, after * taps, p, targets, 0);
                product(all, x + k0 * sources * images, 1, images, b, BLOCK, work + p * images * BLOCK, BLOCK, images,
                        some, whole(width), k0 > 0);
            }
        }
        for (long n = 0; n < images; ++n)
            for (long c = 0; c < width; ++c) {
                float *to = y + (n * m + m0 + c) * targets;
                for (long p = 0; p < targets; ++p) to[p] = work[(p * images + n) * BLOCK + c];
            }
    }
}

/* w[o][c][tap] of b[tap][o][c]: `some` filters and `width` channels. */
static void filters_back(const float *b, float *w, long row, long taps, long some, long width) {
    for (long o = 0; o < some; ++o)
        for (long v = 0; v < width; v += WIDE)
            for (long t = (taps - 1) / WIDE * WIDE; t >= 0; t -= WIDE) {
                const long many = least(WIDE, taps - t);
                const float *from = b + (t * CHUNK + o) * BLOCK + v;
                union { vector all[WIDE]; float one[WIDE][WIDE]; } x;
                _Pragma("GCC unroll 16") for (int i = 0; i < WIDE; ++i)
                    x.all[i] = i < many ? *(const vector *)(from + i * CHUNK * BLOCK) : (vector){0};
                turn(x.all);
                float *to = w + o * row + v * taps + t;
                if ((v + WIDE - 1) * taps + t + WIDE <= width * taps) /* what is too much is written over */
                    _Pragma("GCC unroll 16") for (int i = 0; i < WIDE; ++i) *(vector *)(to + i * taps) = x.all[i];
                else for (long i = 0; i < least(WIDE, width - v); ++i, to += taps)
                    if ((v + i) * taps + t + WIDE <= width * taps) *(vector *)to = x.all[i];
                    else copy(x.one[i], to, many);
            }
}

/* w[o][c][taps] of results' gradients, as memograd_by_position leaves them, and pixels x[images][c][pixels], for blocks
   first .. last - 1 of c. Pairs of result and pixel starts[t] .. starts[t + 1] - 1 go to tap t.
   work: BLOCK * (pixels * images + CHUNK * taps) floats. */
void memograd_position_filters(const float *g, const float *x, float *w, float *work, const long *starts,
                               const long *pairs, long images, long o, long c, long taps, long results, long pixels,
                               long first, long last) {
    float *b = work + pixels * images * BLOCK;
    const long span = TERMS / images > 1 ? TERMS / images : 1;
    for (long c0 = first * BLOCK; c0 < least(c, last * BLOCK); c0 += BLOCK) {
        const long width = least(BLOCK, c - c0);
        if (width < BLOCK) memset(work, 0, 4 * pixels * images * BLOCK);
        for (long n = 0; n < images; ++n)
            for (long i = 0; i < width; ++i) {
                const float *from = x + (n * c + c0 + i) * pixels;
                for (long q = 0; q < pixels; ++q) work[(q * images + n) * BLOCK + i] = from[q];
            }
        for (long o0 = 0; o0 < o; o0 += CHUNK) {
            const long some = least(CHUNK, o - o0);
            for (long t = 0; t < taps; ++t) {
                const float *by = g + o0 * results * images;
                FETCH(w + (o0 * c + c0) * taps, some, c * taps, width * taps, t, taps, 1);
                for (long i = starts[t]; i == starts[t] || i < starts[t + 1]; i += span) {
                    const terms all = {pairs + 2 * i, least(span, starts[t + 1] - i), some * images, images * BLOCK};
                    product(all, by, images, 1, work, BLOCK, b + t * CHUNK * BLOCK, BLOCK, some, images, whole(width),
                            i > starts[t]);
                }
            }
            filters_back(b, w + (o0 * c + c0) * taps, c * taps, taps, some, width);
        }
    }
}
