/* ssd: what forward and backward of the chunked scan share: one chunk of one group (B, C and their
 * products) and, within it, one head (step sizes and decays). Letters as in ops.h; n is the tokens
 * of the chunk, t and u count from its first one. */
#ifndef HM_SSD_H
#define HM_SSD_H

#include "scratch.h"

/* Rows of a tile of the lower triangle: whole register tiles of mm. */
enum { SSD_TILE = 24 };

struct ssd_chunk {
    int n;               /* tokens */
    int64_t r0;          /* row of the first one in (B*T) */
    int *start;          /* (Q) where t's document starts in the chunk; -1: before it */
    int n_live;          /* leading tokens whose document began before the chunk */
    int n_cut;           /* tokens before the last document's; 0 where the state passes through */
    struct mat b, c, bt; /* (n,N) (n,N) (N,n) */
    struct mat cb;       /* (n,n) C B^T, its lower triangle by tiles */
    /* of the head that runs now; log decays in double: their differences would lose digits */
    double *sum;       /* (Q) a_0 + ... + a_t */
    float *delta;      /* (Q) */
    float *from_start; /* (Q) exp(sum_t): how much of the state before the chunk is left at t */
    float *to_end;     /* (Q) exp(sum_{n-1} - sum_t): how much of t is left behind the chunk */
    float *to_tile;    /* (Q) of decay_tile */
    float *in_tile;    /* (SSD_TILE) of decay_tile */
    float through;     /* how much of the state before the chunk is left behind it */
    struct mat xs;     /* (n,P) delta x */
};

/* Letters of the largest chunk. */
void ssd_carve_chunk(struct ssd_chunk *ch, struct scratch *s, int Q, int P, int N);
/* Tokens z*Q .. of the sequence of T tokens that begins at row r0: B, C, B^T and C B^T of group g.
 */
void ssd_load_group(struct ssd_chunk *ch, const struct ssd_in *in, int64_t r0, int T, int z, int g);
/* Decays of head h from its delta (B,T,H), and delta x. */
void ssd_load_head(struct ssd_chunk *ch, const struct ssd_in *in, const float *delta, int h);
/* to = decays exp(sum_t - sum_u) of the tile's rows t0 <= t < t1 (row 0 is t0) from u to t, over
 * columns [0,t1): 0 where u > t or in another document. */
void ssd_decay_tile(struct mat to, const struct ssd_chunk *ch, int t0, int t1);

/* Workspace for states (B,Z,H,P,N) that the caller does not keep. */
size_t ssd_plan_states(const struct sizes *s);
size_t ssd_states_bytes(const struct ssd_in *in);
/* The states that the forward had, from its delta. The workspace from work_from on is free. */
void ssd_remake_states(struct dev *dev, float *states, size_t work_from, const float *delta,
                       const struct ssd_in *in);

/* --- one token --- */

struct ssd_token {
    const float *b, *c; /* (N) */
    float delta, decay, skip;
};

/* delta, decay and skip of head h of row r. */
void ssd_step_sizes(struct ssd_token *k, const struct ssd_in *in, int r, int h);
/* y (P) of a head, whose state (P,N) is advanced; x (P). */
void ssd_step_head(float *y, float *state, const float *x, const struct ssd_token *k, int P, int N);

static inline int ssd_chunks(int T, int Q)
{
    return (T + Q - 1) / Q;
}

static inline int min_int(int a, int b)
{
    return a < b ? a : b;
}

/* to row i = scale[i] * from row i */
static inline void scale_rows(struct mat to, const float *scale, struct mat from, int rows,
                              int cols)
{
    for (int i = 0; i < rows; i++) {
        float *restrict out = to.p + i * to.ld;
        const float *restrict x = from.p + i * from.ld;
        for (int j = 0; j < cols; j++)
            out[j] = scale[i] * x[j];
    }
}

#endif
