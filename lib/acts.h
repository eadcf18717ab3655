/* acts: the activations of a pass: what is kept for the backward pass, what is made again, what
 * shares memory. Everything lies in one region of device memory, carved anew for the shape of each
 * pass by the code that planned the region's size (arena.h), so tensors have exact shapes. */
#ifndef HM_ACTS_H
#define HM_ACTS_H

#include "arena.h"
#include "config.h"
#include "ops.h"

/* What the backward pass makes again instead of having it kept. NONE: nothing. CHEAP: norms, gates,
 * SwiGLU, convolutions and chunk states, but no product, SSD output or attention. BLOCK keeps each
 * block's input and runs the block again; FULL keeps the input of every ceil(sqrt(L))-th block
 * only. Each keeps less than the one before. All give the same bits. */
enum recompute { RECOMPUTE_NONE, RECOMPUTE_CHEAP, RECOMPUTE_BLOCK, RECOMPUTE_FULL };
extern const char *const recompute_names[]; /* NULL behind the last */

/* TRAIN: forward, then backward. FORWARD: a batch. READ: pieces of text of several sequences. STEP:
 * one token a row. */
enum pass_kind { PASS_TRAIN, PASS_FORWARD, PASS_READ, PASS_STEP };

/* A pass, as far as memory follows from it. */
struct acts_shape {
    const struct dev *dev;
    enum pass_kind kind;
    enum recompute recompute;
    int B, T; /* READ: B rows, T tokens in all; STEP: B rows, T = 1 */
};

/* One block: x -> norm -> mixer -> x2 -> norm -> MLP -> the next block's x. M = B*T rows, in a READ
 * pass T. In a pass that is not for training x and x2 are one tensor, the same for all blocks;
 * where blocks are recomputed, all but x is shared between the blocks. */
struct layer_acts {
    struct tensor x, x2;   /* (M,D) */
    struct tensor n1, n2;  /* (M,D) the two norms' outputs */
    float *rstd1, *rstd2;  /* (M) */
    struct tensor u, s;    /* (M,2F), (M,F): the MLP before and after SwiGLU */
    struct tensor proj;    /* (M,2E+2GN+H): z, x, B, C, dt of an 'm' layer */
    struct tensor conv;    /* (M,E+2GN): x, B, C after the convolution */
    struct tensor y, g;    /* (M,E): after the SSM, after the gated norm */
    float *rstd_g;         /* (M) */
    float *delta;          /* (M,H); not in a STEP pass */
    void *states;          /* see ssd_fwd; NULL where they are not kept, as in a READ pass */
    struct tensor qkv;     /* (M,(H+2G)*P) of a 't' layer, and its parts */
    struct tensor q, k, v; /* (M,H*P), (M,G*P) twice */
    struct tensor o;       /* (M,H*P): attention's output */
    float *lse;            /* (B,H,T); not in a READ or STEP pass */
};

/* Gradients on the way back, of a TRAIN pass. Those of mixer, MLP and head share memory. */
struct back_acts {
    struct tensor dx;                   /* (M,D) of the residual stream */
    struct tensor dn;                   /* (M,D) of a norm's output */
    struct tensor du, ds;               /* MLP */
    struct tensor dproj, dconv, dy, dg; /* 'm' */
    struct tensor dqkv, dq, dk, dv;     /* 't' */
    struct tensor dout;                 /* 't' */
};

struct acts {
    void *region;             /* device memory, borrowed */
    int B, T;                 /* of the carved pass */
    struct layer_acts *layer; /* (L+1), owned; the last one has only x, the blocks' output */
    struct layer_acts tail;   /* READ only: of the last block, for each row's last token alone */
    struct tensor branch;     /* (M,D) what a mixer or MLP adds to the stream; its gradient too */
    struct back_acts back;
    struct tensor h;      /* (M,D) the final norm's output */
    float *rstd_h;        /* (M) */
    struct tensor logits; /* (rows,V) a chunk of at most dev->head_rows rows, in the device's
                             act_dtype where they become their gradient, else f32; STEP: all M */
    float *loss;          /* (M) */
    /* What is uploaded, one block: four lists of M, or in a STEP pass three and what to choose by.
     * A list begins `stride` elements after the one before. A READ pass has those of its rows
     * before the three of M. */
    void *inputs;
    size_t inputs_bytes, stride;
    int32_t *begin, *slot, *row_pos;   /* READ only: (B+1), (B), (B), see struct read_rows */
    int32_t *last;                     /* READ only: (B, in whole units) each row's last token */
    int32_t *ids, *pos, *target, *seg; /* (M); STEP: target holds the slots; seg: batches only */
    struct sample_row *choice;         /* (M) STEP only */
    /* what a STEP pass chose: one block, logp right behind id */
    int32_t *id; /* (M) */
    float *logp; /* (M) */
    /* recomputing */
    int segment;    /* blocks a segment, see acts_segment */
    bool is_kept;   /* every block has its own activations */
    bool is_remade; /* but n1, n2, conv, g and s, one set of which serves all: backward makes
                       each again before it is read */
    int live;       /* the block whose activations the shared set holds, -1: none */
};

/* The sizes of an 'm' layer's ops, for B rows of T. */
struct sizes acts_mamba_sizes(const struct config *c, int B, int T);
/* Whether training keeps the SSD's states for its backward. */
bool acts_keep_states(const struct dev *dev, enum recompute recompute);

/* Blocks a segment: ceil(sqrt(L)) with RECOMPUTE_FULL, as many segments as blocks a segment, which
 * keeps the fewest inputs in all; else 1. */
int acts_segment(int L, enum recompute recompute);

MUST_USE int acts_open(struct acts **a, const struct config *c, struct err *err);
void acts_close(struct acts *a);

/* Bytes of the region for such a pass, monotone in B and T. a is only scratch, but its inputs_bytes
 * are the pass's. */
size_t acts_plan(struct acts *a, const struct config *c, const struct acts_shape *shape);
/* Lays the tensors of the pass into a->region. */
void acts_carve(struct acts *a, const struct config *c, const struct acts_shape *shape);

#endif
