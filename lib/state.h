/* state: what a model remembers of the text so far, for a number of slots (sequences): conv taps
 * and SSM state of each 'm' layer, keys and values of each 't' layer, and the position. Saved,
 * loaded, copied between slots. */
#ifndef HM_STATE_H
#define HM_STATE_H

#include "arena.h"
#include "config.h"
#include "dev.h"
#include "io.h"

struct state_layer {
    float *taps;        /* (slots,K-1,C) f32, C = E + 2*G*N; 'm' */
    float *ssm;         /* (slots,H,P,N) f32; 'm' */
    struct tensor k, v; /* (slots,S,G*P); 't' */
};

struct state {
    struct dev *dev;
    const struct config *c; /* borrowed */
    int n_slots, S;         /* S: positions a slot can hold; only 't' layers are bounded by it */
    int32_t *pos;           /* (slots) tokens read so far; host memory, owned */
    struct state_layer layer[CONFIG_MAX_LAYERS];
    void *block; /* device memory, owned */
    size_t bytes;
};

/* Device bytes of such a state. */
size_t state_plan(const struct config *c, const struct dev *dev, int n_slots, int S);
/* All slots empty. c must outlive the state. */
MUST_USE int state_open(struct state *s, const struct config *c, struct dev *dev, int n_slots,
                        int S, struct err *err);
void state_free(struct state *s);

/* One slot's part of a layer: taps (K-1,C); SSM state (H,P,N); keys and values (S,G*P). */
float *state_taps(const struct state *s, int layer, int slot);
float *state_ssm(const struct state *s, int layer, int slot);
struct tensor state_keys(const struct state *s, int layer, int slot);
struct tensor state_values(const struct state *s, int layer, int slot);

void state_reset(struct state *s, int slot);
/* The same of n neighbours. */
void state_reset_run(struct state *s, int first, int n);
/* Copies slot `from` of src into slot `to` of dst (same config; may be the same state). Only pos[]
 * positions of the cache are copied. */
MUST_USE int state_copy(struct state *dst, int to, const struct state *src, int from,
                        struct err *err);

/* One slot as a safetensors file (format: hm-state(5)); keys and values are in the device's type,
 * and are converted where another device loads them. ids: the tokens it has read, kept so that a
 * reader can show or undo them; model_hash: of weights and config, checked by load. state_load
 * needs S >= the stored positions, appends to *ids, and leaves the slot as it was where it fails.
 */
MUST_USE int state_save(const struct state *s, int slot, const int32_t *ids, size_t n_ids,
                        uint64_t model_hash, struct out *out, struct err *err);
MUST_USE int state_load(struct state *s, int slot, struct ids *ids, uint64_t model_hash,
                        struct in *in, struct err *err);

#endif
