/* acts: the activations of a pass: what is kept for the backward pass, what is recomputed, what
 * shares memory. Everything lies in one region of device memory, carved anew for the shape of each
 * pass by the code that planned the region's size (arena.h), so tensors have exact shapes. */
#ifndef HM_ACTS_H
#define HM_ACTS_H

#include "arena.h"
#include "config.h"

/* What is kept for the backward pass. BLOCK keeps each block's input and runs the block again; FULL
 * keeps the input of every ceil(sqrt(L))-th block only. All three give the same bits. */
enum recompute { RECOMPUTE_NONE, RECOMPUTE_BLOCK, RECOMPUTE_FULL };

/* TRAIN: forward, then backward. FORWARD: a batch, or a piece of one sequence. STEP: one token a
 * row. */
enum pass_kind { PASS_TRAIN, PASS_FORWARD, PASS_STEP };

/* One block: x -> norm -> mixer -> x2 -> norm -> MLP -> the next block's x. M = B*T rows. In a
 * FORWARD or STEP pass x and x2 are one tensor, the same for all blocks; where blocks are
 * recomputed, all but x is shared between the blocks. */
struct layer_acts {
    struct tensor x, x2;   /* (M,D) */
    struct tensor n1, n2;  /* (M,D) the two norms' outputs */
    float *rstd1, *rstd2;  /* (M) */
    struct tensor u, s;    /* (M,2F), (M,F): the MLP before and after SwiGLU */
    struct tensor proj;    /* (M,2E+2GN+H): z, x, B, C, dt of an 'm' layer */
    struct tensor conv;    /* (M,E+2GN): x, B, C after the convolution */
    struct tensor y, g;    /* (M,E): after the SSM, after the gated norm */
    float *rstd_g;         /* (M) */
    float *delta, *states; /* (B,T,H), (B,Z,H,P,N): see ssd_fwd; not in a STEP pass */
    struct tensor q, k, v; /* (M,H*P), (M,G*P) twice, of a 't' layer */
    struct tensor o;       /* (M,H*P): attention's output */
    float *lse;            /* (B,H,T); not in a STEP pass */
};

/* Gradients on the way back, of a TRAIN pass. Those of mixer, MLP and head share memory. */
struct back_acts {
    struct tensor dx;                   /* (M,D) of the residual stream */
    struct tensor dn;                   /* (M,D) of a norm's output */
    struct tensor du, ds;               /* MLP */
    struct tensor dproj, dconv, dy, dg; /* 'm' */
    struct tensor dq, dk, dv, dout;     /* 't' */
};

struct acts {
    void *region;             /* device memory, borrowed */
    int B, T;                 /* of the carved pass; STEP: B rows, T = 1 */
    struct layer_acts *layer; /* (L+1), owned; the last one has only x, the blocks' output */
    struct tensor branch;     /* (M,D) what a mixer or MLP adds to the stream; its gradient too */
    struct back_acts back;
    struct tensor h;      /* (M,D) the final norm's output */
    float *rstd_h;        /* (M) */
    struct tensor logits; /* (rows,V) f32: a chunk of min(M, ACTS_HEAD_ROWS) rows; STEP: all M */
    float *loss;          /* (M) */
    int32_t *ids, *target, *seg, *pos; /* (M); STEP uses target for the slots */
    /* recomputing */
    int stride;   /* blocks a segment, see acts_segment */
    bool is_kept; /* every block has its own activations */
    int live;     /* the block whose activations the shared set holds, -1: none */
};

/* Rows of logits at once: the chunk stays small beside the rest, yet is high enough for products.
 */
enum { ACTS_HEAD_ROWS = 512 };

/* Blocks a segment: ceil(sqrt(L)) with RECOMPUTE_FULL, as many segments as blocks a segment, which
 * keeps the fewest inputs in all; else 1. */
int acts_segment(int L, enum recompute recompute);

MUST_USE int acts_open(struct acts **a, const struct config *c, struct err *err);
void acts_close(struct acts *a);

/* Bytes of the region for such a pass, monotone in B and T. a is only scratch. */
size_t acts_plan(struct acts *a, const struct config *c, enum dtype act, enum pass_kind kind,
                 enum recompute recompute, int B, int T);
/* Lays the tensors of the pass into a->region. */
void acts_carve(struct acts *a, const struct config *c, enum dtype act, enum pass_kind kind,
                enum recompute recompute, int B, int T);

#endif
