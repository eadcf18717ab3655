/* flops: what a token costs; the formula is in model.h. */
#include "model.h"

static double mamba_flops(const struct config *c, int T)
{
    const double D = c->D, H = c->mamba_heads, P = c->mamba_head_dim, N = c->N, G = c->mamba_groups;
    const double E = H * P, C = E + 2 * G * N, q = c->Q < T ? c->Q : T;
    const double products = 2 * D * (E + C + H) + 2 * E * D;
    return products + 2 * c->K * C + H * (q * P + 4 * P * N) + G * q * N;
}

static double attention_flops(const struct config *c, int T)
{
    const double D = c->D, kv = (double)c->kv_heads * c->head_dim;
    return 2 * D * (2 * D + 2 * kv) + 2 * (double)T * D;
}

/* One block; is_again: as far as backward needs it (forward_block). */
static double block_flops(const struct config *c, int T, int i, bool is_again)
{
    const double mixer = c->pattern[i] == 'm' ? mamba_flops(c, T) : attention_flops(c, T);
    const double product = 2 * (double)c->D * c->F;
    return mixer + (is_again ? 2 : 3) * product;
}

double model_flops_fwd(const struct config *c, int T)
{
    double flops = 2 * (double)c->D * c->V;
    for (int i = 0; i < c->L; i++)
        flops += block_flops(c, T, i, false);
    return flops;
}

double model_flops_train(const struct config *c, int T, enum recompute recompute)
{
    double flops = 3 * model_flops_fwd(c, T);
    const int stride = acts_segment(c->L, recompute);
    if (recompute <= RECOMPUTE_CHEAP) /* what is cheap counts for nothing */
        return flops;
    /* As backward does it: the last block is still there; each segment but the last runs its blocks
     * but one for their outputs, which leaves the rest to run once more each. */
    for (int i = 0; i < c->L - 1; i++) {
        const bool is_last_of_segment = (i + 1) % stride == 0;
        const bool is_in_last = i / stride == (c->L - 1) / stride;
        flops += block_flops(c, T, i, true);
        if (!is_last_of_segment && !is_in_last)
            flops += block_flops(c, T, i, false);
    }
    return flops;
}
