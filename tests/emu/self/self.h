/* self: what the emulator is tested with: kernels that are wrong on purpose, and some that are
 * right. */
#ifndef HM_EMU_SELF_H
#define HM_EMU_SELF_H

#include <cuda_runtime.h>

/* Which builds have to see a fault. Plain: by a report, a NaN, or results that depend on the order
 * of threads. */
enum seen_by { NOBODY = 0, PLAIN = 1, ASAN = 2, TSAN = 4, EVERYBODY = 7 };

enum { PROBE_THREADS = 128 };

/* y and x hold PROBE_THREADS floats. */
struct probe {
    const char *what;
    void (*kernel)(float *y, const float *x);
    int n_blocks, smem_bytes;
    int seen; /* enum seen_by */
    bool is_cooperative;
};
extern const probe probes[];
extern const int n_probes;

/* c (16,16) of each way to load and to multiply fragments, see fragments.cu; A and B are (16,16)
 * dense, exact in every type. */
enum way {
    WAY_AB,       /* A B^T */
    WAY_AT_B,     /* A^T B^T */
    WAY_A_BT,     /* A B */
    WAY_CHAIN,    /* (A B^T) B: the first product as the A of the second */
    WAY_CHAIN_T,  /* A (A B^T)^T: the first product as the transposed B of the second */
    WAY_SHUFFLES, /* A B^T, in f32, by shuffles */
    N_WAYS
};
enum element { ELEMENT_F32, ELEMENT_BF16, ELEMENT_F16 };
void run_fragments(float *c, const float *a, const float *b, way w, element e);

/* c (64,n) = A (64,PRODUCT_K) B (n,PRODUCT_K)^T by a warpgroup; n: 32, 64, 128. How A lies: k along
 * its rows, down its columns, in registers (from either), or written by the warps from registers.
 * is_b_down: the same of B. */
enum { PRODUCT_K = 128 };
enum a_form { A_ALONG, A_DOWN, A_REGS, A_REGS_TURNED, A_STORED, A_STORED_TURNED, N_A_FORMS };
void run_products(float *c, const float *a, const float *b, int n, element e, a_form form,
                  bool is_b_down);

/* Votes, reductions, shuffles, bits and integer atomics; out[0] becomes the number of wrong
 * answers, out[1] the threads of the grid that counted themselves. */
void run_operations(int *out, int n_blocks);

#endif
