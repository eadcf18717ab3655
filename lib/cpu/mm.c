/* mm: see mm.h. A tile of 6 rows and 2 registers of columns of C stays in registers while k runs;
 * rows and columns left over take smaller tiles of the same code. */
#include "mm.h"

#include "vec.h"

#define INLINE static inline __attribute__((always_inline))

enum { TILE_ROWS = 6, TILE_VECS = 2 };

/* Element (i, l) of A is at a[i*a_row + l*a_col]. */
struct operands {
    float *c;
    const float *a, *b;
    int64_t ldc, a_row, a_col, ldb;
    int k;
    bool add;
};

/* C rows [0,rows) and vecs*VL columns; rows and vecs are constants where this is inlined. */
INLINE void tile(const struct operands *o, int64_t i, int64_t j, const int rows, const int vecs)
{
    vec acc[TILE_ROWS][TILE_VECS];
    const float *a = o->a + i * o->a_row, *b = o->b + j;
    float *c = o->c + i * o->ldc + j;
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vecs; v++)
            acc[r][v] = o->add ? vec_load(c + r * o->ldc + v * VL) : vec_all(0);
    for (int l = 0; l < o->k; l++, a += o->a_col, b += o->ldb) {
        vec bv[TILE_VECS];
#pragma GCC unroll 2
        for (int v = 0; v < vecs; v++)
            bv[v] = vec_load(b + v * VL);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            const vec av = vec_all(a[r * o->a_row]);
#pragma GCC unroll 2
            for (int v = 0; v < vecs; v++)
                acc[r][v] += av * bv[v];
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vecs; v++)
            vec_store(c + r * o->ldc + v * VL, acc[r][v]);
}

/* The last columns, fewer than a register. */
static void edge(const struct operands *o, int m, int64_t j, int cols)
{
    for (int64_t i = 0; i < m; i++) {
        const float *a = o->a + i * o->a_row, *b = o->b + j;
        float *c = o->c + i * o->ldc + j;
        vec acc = o->add ? vec_load_part(c, cols) : vec_all(0);
        for (int l = 0; l < o->k; l++, a += o->a_col, b += o->ldb)
            acc += vec_all(*a) * vec_load_part(b, cols);
        vec_store_part(c, acc, cols);
    }
}

INLINE void columns(const struct operands *o, int m, int64_t j, const int vecs)
{
    int64_t i = 0;
    for (; i + TILE_ROWS <= m; i += TILE_ROWS)
        tile(o, i, j, TILE_ROWS, vecs);
    if (i + 4 <= m) {
        tile(o, i, j, 4, vecs);
        i += 4;
    }
    if (i + 2 <= m) {
        tile(o, i, j, 2, vecs);
        i += 2;
    }
    if (i < m)
        tile(o, i, j, 1, vecs);
}

static void product(const struct operands *o, int m, int n)
{
    int64_t j = 0;
    for (; j + TILE_VECS * VL <= n; j += TILE_VECS * VL)
        columns(o, m, j, TILE_VECS);
    if (j + VL <= n) {
        columns(o, m, j, 1);
        j += VL;
    }
    if (j < n)
        edge(o, m, j, (int)(n - j));
}

void mm_ab(struct mat c, struct mat a, struct mat b, int m, int n, int k, bool add)
{
    product(&(struct operands){c.p, a.p, b.p, c.ld, a.ld, 1, b.ld, k, add}, m, n);
}

void mm_atb(struct mat c, struct mat a, struct mat b, int m, int n, int k, bool add)
{
    product(&(struct operands){c.p, a.p, b.p, c.ld, 1, a.ld, b.ld, k, add}, m, n);
}

static void transpose_4x4(float *to, int64_t ldt, const float *from, int64_t ldf)
{
    quad a = quad_load(from), b = quad_load(from + ldf);
    quad c = quad_load(from + 2 * ldf), d = quad_load(from + 3 * ldf);
    quad_transpose(&a, &b, &c, &d);
    quad_store(to, a);
    quad_store(to + ldt, b);
    quad_store(to + 2 * ldt, c);
    quad_store(to + 3 * ldt, d);
}

void mm_transpose(struct mat to, struct mat from, int rows, int cols)
{
    const int rows4 = rows / 4 * 4, cols4 = cols / 4 * 4;
    for (int r = 0; r < rows4; r += 4)
        for (int c = 0; c < cols4; c += 4)
            transpose_4x4(mat_at(to, c, r).p, to.ld, mat_at(from, r, c).p, from.ld);
    for (int r = 0; r < rows; r++)
        for (int c = r < rows4 ? cols4 : 0; c < cols; c++)
            to.p[c * to.ld + r] = from.p[r * from.ld + c];
}
