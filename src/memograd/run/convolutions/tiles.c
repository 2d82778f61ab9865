/* Tiles, LANES of a row at a time. What is written beyond a row is written over by the next. */
typedef float tiles_LANES __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int numbers_LANES __attribute__((vector_size(4 * LANES)));
static const numbers_LANES NUMBERS_LANES = {FIRST_LANES};
#define AT(p) (*(tiles_LANES *)(p))

/* B'd B of the tiles of channel c: u[k], `step` floats from one k to the next. */
static void pixels_LANES(const float *x, image i, long c, float *u, long step, float *buffer, long first, long last) {
    const long pitch = pitch_of(i);
    for (long g = first; g < last;) {
        const long n = g / i.rows, top = g % i.rows;
        const long end = top + (last - g) < i.rows ? top + (last - g) : i.rows;
        copy_rows(x + (n * i.channels + c) * i.height * i.width, i, 2 * top - i.padding, 2 * end + 2 - i.padding,
                  buffer, pitch);
        for (long r = top; r < end; ++r, ++g)
            for (long j = 0; j < i.columns; j += LANES) {
                const float *d = buffer + 2 * (r - top) * pitch + 2 * j;
                float *to = u + (g - first) * i.columns + j;
                tiles_LANES t[4][4]; /* B'd: four vectors, of pixels that begin 0, LANES, 2 and 2 + LANES further */
                _Pragma("GCC unroll 4") for (int q = 0; q < 4; ++q) {
                    const float *from = d + (q & 1) * LANES + (q & 2);
                    const tiles_LANES d0 = AT(from), d1 = AT(from + pitch), d2 = AT(from + 2 * pitch),
                                      d3 = AT(from + 3 * pitch);
                    t[0][q] = d0 - d2, t[1][q] = d1 + d2, t[2][q] = d2 - d1, t[3][q] = d1 - d3;
                }
                _Pragma("GCC unroll 4") for (int k = 0; k < 4; ++k) {
                    const tiles_LANES d0 = EVEN_LANES(t[k][0], t[k][1]), d1 = ODD_LANES(t[k][0], t[k][1]);
                    const tiles_LANES d2 = EVEN_LANES(t[k][2], t[k][3]), d3 = ODD_LANES(t[k][2], t[k][3]);
                    AT(to + (4 * k) * step) = d0 - d2, AT(to + (4 * k + 1) * step) = d1 + d2;
                    AT(to + (4 * k + 2) * step) = d2 - d1, AT(to + (4 * k + 3) * step) = d1 - d3;
                }
            }
    }
}

/* A dy A' of the tiles of channel c. */
static void gradients_LANES(const float *dy, image i, long c, float *u, long step, float *buffer, long first,
                            long last) {
    const long pitch = pitch_of(i);
    for (long g = first; g < last;) {
        const long n = g / i.rows, top = g % i.rows;
        const long end = top + (last - g) < i.rows ? top + (last - g) : i.rows;
        copy_rows(dy + (n * i.channels + c) * i.height * i.width, i, 2 * top, 2 * end, buffer, pitch);
        for (long r = top; r < end; ++r, ++g)
            for (long j = 0; j < i.columns; j += LANES) {
                const float *d = buffer + 2 * (r - top) * pitch + 2 * j;
                float *to = u + (g - first) * i.columns + j;
                tiles_LANES t[4][2];
                _Pragma("GCC unroll 2") for (int q = 0; q < 2; ++q) {
                    const tiles_LANES d0 = AT(d + q * LANES), d1 = AT(d + q * LANES + pitch);
                    t[0][q] = d0, t[1][q] = d0 + d1, t[2][q] = d0 - d1, t[3][q] = -d1;
                }
                _Pragma("GCC unroll 4") for (int k = 0; k < 4; ++k) {
                    const tiles_LANES d0 = EVEN_LANES(t[k][0], t[k][1]), d1 = ODD_LANES(t[k][0], t[k][1]);
                    AT(to + (4 * k) * step) = d0, AT(to + (4 * k + 1) * step) = d0 + d1;
                    AT(to + (4 * k + 2) * step) = d0 - d1, AT(to + (4 * k + 3) * step) = -d1;
                }
            }
    }
}

/* A'm A: the results of channel c. Returns 0 if they are all finite, NaN if not. */
static float results_LANES(float *y, image i, long c, const float *m, long step, float *buffer, long first, long last) {
    const long pitch = pitch_of(i);
    tiles_LANES zero = {0};
    for (long g = first; g < last; ++g) {
        const long n = g / i.rows, r = 2 * (g % i.rows);
        for (long j = 0; j < i.columns; j += LANES) {
            const float *from = m + (g - first) * i.columns + j;
            tiles_LANES t[2][4];
            _Pragma("GCC unroll 4") for (int b = 0; b < 4; ++b) {
                const tiles_LANES m0 = AT(from + b * step), m1 = AT(from + (4 + b) * step),
                                  m2 = AT(from + (8 + b) * step), m3 = AT(from + (12 + b) * step);
                t[0][b] = m0 + m1 + m2, t[1][b] = m1 - m2 - m3;
            }
            const numbers_LANES live = NUMBERS_LANES < (int)(i.columns - j); /* those beyond are no tiles of this row */
            _Pragma("GCC unroll 2") for (int a = 0; a < 2; ++a) {
                const tiles_LANES y0 = t[a][0] + t[a][1] + t[a][2], y1 = t[a][1] - t[a][2] - t[a][3];
                zero += (tiles_LANES)((numbers_LANES)(y0 * 0 + y1 * 0) & live);
                AT(buffer + a * pitch + 2 * j) = LOW_LANES(y0, y1);
                AT(buffer + a * pitch + 2 * j + LANES) = HIGH_LANES(y0, y1);
            }
        }
        float *to = y + ((n * i.channels + c) * i.height + r) * i.width;
        for (int a = 0; a < 2 && r + a < i.height; ++a, to += i.width) copy(buffer + a * pitch, to, i.width);
    }
    float sum = 0;
    for (int k = 0; k < LANES; ++k) sum += zero[k];
    return sum;
}
#undef AT
