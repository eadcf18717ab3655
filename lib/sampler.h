/* sampler: how the next token is chosen: the settings a user gives, their names and bounds, and the
 * rows and tables that ops->sample reads. The choice itself is an op. */
#ifndef HM_SAMPLER_H
#define HM_SAMPLER_H

#include "buf.h"
#include "model.h"

enum { SAMPLE_RECENT = 1024, SAMPLE_BIAS = 256 };

/* Plain data, copied freely. */
struct sample_opts {
    uint64_t seed;
    float temperature;                                /* 0: the likeliest token */
    int top_k;                                        /* 0: off */
    float top_p, min_p, typical_p;                    /* 1; 0; 1: off */
    float repeat_penalty, freq_penalty, pres_penalty; /* 1; 0; 0: off */
    int repeat_last; /* how many ids back the penalties look, prompt included */
    int n_bias;
    int32_t bias_id[SAMPLE_BIAS];
    float bias[SAMPLE_BIAS]; /* added to the logit */
};

/* Temperature 0.8, top_p 0.95, seed 1, the rest off. */
void sample_defaults(struct sample_opts *o);
/* Sets one number by its name as in JSON: "seed", "temperature", "top_k", "top_p", "min_p",
 * "typical_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "repeat_last".
 * 1: set; 0: no such name; -1: out of bounds. */
MUST_USE int sample_set(struct sample_opts *o, const char *name, double value, struct err *err);
/* The value of that name; NaN when there is none. */
double sample_get(const struct sample_opts *o, const char *name);
/* The i-th name that sample_set knows, NULL after the last. */
const char *sample_name(int i);
/* The bounds of a name's value; false when there is no such name. */
int sample_bounds(const char *name, double *min, double *max);
/* Adds value to the logit of an id; again for the same id replaces it. Ids of 0..V-1. */
MUST_USE int sample_add_bias(struct sample_opts *o, int64_t id, double value, int V,
                             struct err *err);

/* One array of n entries each. */
struct sample_table {
    int32_t *recent;  /* (n,SAMPLE_RECENT) oldest first */
    int32_t *bias_id; /* (n,SAMPLE_BIAS) */
    float *bias;      /* (n,SAMPLE_BIAS) */
};

/* The host side of ops->sample for a number of slots: what each slot asks for, its recent ids and
 * its position, and the device memory of one call. */
struct sampler {
    struct dev *dev;
    int n_slots;
    struct sample_row *slot_row, *row;        /* (slots) host: by slot; gathered for one call */
    struct sample_table slot, rows, dev_rows; /* host: by slot; gathered; device: the same */
    int *window;      /* (slots) host: most ids that count as recent, 0: no penalty is on */
    int64_t *version; /* (slots) host: number of the sampler_start that set the slot's bias */
    int64_t *sent;    /* (slots) host: that of each row's bias on the device; 0: none */
    int64_t n_starts;
    void *host, *block; /* owned: all of the above, on the host and on the device */
};

/* Takes all memory, and the workspace of the op for V logits. */
MUST_USE int sampler_open(struct sampler *s, struct dev *dev, int n_slots, int V, struct err *err);
void sampler_close(struct sampler *s);
/* A new completion in the slot: key is the prompt's number for the generator, ids (n) what is read
 * before the first choice. */
void sampler_start(struct sampler *s, int slot, const struct sample_opts *o, uint32_t key,
                   const int32_t *ids, size_t n);
/* Decodes one token each (model_step: ids into slots) and chooses the next: id and logp (R) are
 * host memory, logp under the unmodified softmax. Each slot then counts its token as recent and
 * moves on by one position. The model holds R rows. */
MUST_USE int sampler_step(struct sampler *s, struct model *m, struct state *state,
                          const int32_t *slot, const int32_t *ids, int R, int32_t *id, float *logp,
                          struct err *err);
/* The same in two halves, see model_choose_begin. ids NULL: from the tokens chosen last, in the
 * same slots, of which sampler_goes_on must say yes. */
MUST_USE int sampler_begin(struct sampler *s, struct model *m, struct state *state,
                           const int32_t *slot, const int32_t *ids, int R, struct err *err);
MUST_USE int sampler_end(struct sampler *s, struct model *m, const int32_t *slot, int R,
                         int32_t *id, float *logp, struct err *err);
/* Whether the slot's next choice can be begun before the host knows the last: no penalty looks at
 * it. */
bool sampler_goes_on(const struct sampler *s, int slot);

#endif
