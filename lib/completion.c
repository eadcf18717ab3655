/* completion: options and growth of one completion; see generate.h. */
#include "generate.h"

#include <stdlib.h>
#include <string.h>

void gen_defaults(struct gen_opts *o)
{
    *o = (struct gen_opts){.max_tokens = 128, .end_id = -1};
    sample_defaults(&o->sample);
}

int gen_opts_copy(struct gen_opts *to, const struct gen_opts *from, struct err *err)
{
    struct stops stops = {0};
    if (stops_copy(&stops, &from->stops, err) != 0) {
        stops_free(&stops);
        return -1;
    }
    stops_free(&to->stops);
    *to = *from;
    to->stops = stops;
    return 0;
}

int gen_set(struct gen_opts *o, const char *name, double value, struct err *err)
{
    const bool is_max = strcmp(name, "max_tokens") == 0;
    if (!is_max && strcmp(name, "ignore_eos") != 0) {
        const int set = sample_set(&o->sample, name, value, err);
        o->has_seed |= set == 1 && strcmp(name, "seed") == 0;
        return set;
    }
    const double max = is_max ? 1e9 : 1;
    if (!(value >= 0 && value <= max) || value != (double)(int)value)
        return err_set(err, NULL, NULL, "%s is %g, not a whole number within 0 and %g", name, value,
                       max);
    if (is_max)
        o->max_tokens = (int)value;
    else
        o->ignore_eos = value != 0;
    return 1;
}

int gen_choice(const struct gen_opts *o, int V, struct sample_opts *choice, struct err *err)
{
    *choice = o->sample;
    return o->ignore_eos ? sample_add_bias(choice, ID_EOS, -1e9, V, err) : 0;
}

void gen_opts_free(struct gen_opts *o)
{
    stops_free(&o->stops);
}

const char *gen_stop_name(enum gen_stop stop)
{
    static const char *const name[] = {"", "eos", "stop", "length", "context", "cancelled"};
    return name[stop];
}

void completion_init(struct completion *c)
{
    *c = (struct completion){.flow = FLOW_EMPTY};
}

static int put_logp(struct completion *c, float logp, struct err *err)
{
    if (c->ids.n > c->logp_cap) {
        const size_t cap = c->ids.cap;
        float *p = realloc(c->logp, cap * sizeof *p);
        if (!p)
            return err_oom(err, cap * sizeof *p);
        c->logp = p;
        c->logp_cap = cap;
    }
    c->logp[c->ids.n - 1] = logp;
    return 0;
}

int completion_put(struct completion *c, const struct gen_opts *o, const struct tok *tok,
                   int32_t id, float logp, int64_t room, struct err *err)
{
    size_t n;
    TRY(ids_put(&c->ids, id, err));
    TRY(put_logp(c, logp, err));
    if ((id == ID_EOS && !o->ignore_eos) || id == o->end_id) {
        c->stop = GEN_EOS;
        return 0;
    }
    const char *piece = tok_piece(tok, id, &n);
    TRY(flow_put(&c->flow, &o->stops, piece, n, err));
    if (c->flow.stop >= 0)
        c->stop = GEN_STRING;
    else if (c->ids.n >= (size_t)o->max_tokens)
        c->stop = GEN_LENGTH;
    else if (room <= 0)
        c->stop = GEN_CONTEXT;
    return 0;
}

void completion_free(struct completion *c)
{
    ids_free(&c->ids);
    free(c->logp);
    flow_free(&c->flow);
    completion_init(c);
}
