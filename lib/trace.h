/* trace: how long each op of a pass takes, and what it costs. The trace owns the device that the
 * model runs on; between trace_start and trace_stop its table of ops is one that times each call
 * and passes it on, so ops are measured as the model calls them: at its sizes, with the caches as
 * they are. While it is stopped the device is the plain one.
 *
 * Calls with the same op, section and sizes share an entry. A pass is what the caller repeats (a
 * training step, a decode step); a block is some passes, over which times are averaged. */
#ifndef HM_TRACE_H
#define HM_TRACE_H

#include "roofline.h"

enum { TRACE_ENTRIES = 1024, TRACE_BLOCKS = 64, TRACE_SIZES = 4 };

/* Parts of a pass. Where the head is known (trace.head), the trace itself moves on from FORWARD to
 * HEAD at the first product with it, and from there to BACKWARD at the first norm's gradient. */
enum trace_section {
    TRACE_ALL, /* a pass without parts */
    TRACE_LOADER,
    TRACE_FORWARD,
    TRACE_HEAD,
    TRACE_BACKWARD,
    TRACE_OPTIMIZER,
    TRACE_SECTIONS
};
const char *trace_section_name(enum trace_section section); /* "" for TRACE_ALL; static */

/* One call: what it is and what it has to do at least. */
struct trace_call {
    const char *op;      /* name of the entry of struct ops; static */
    const char *letters; /* of the sizes, as in ops.h; static */
    int64_t size[TRACE_SIZES];
    double bytes;  /* operands, each read or written once */
    double flops;  /* a multiply-add is 2; exp, division and root are 1 */
    bool is_16bit; /* its products read bf16 or f16 */
};

struct trace_entry {
    enum trace_section section;
    struct trace_call call;
    double n_calls;              /* a pass */
    double block_s, block_calls; /* of the block under way */
    double pass_s[TRACE_BLOCKS]; /* of a pass, one a block */
};

struct trace {
    struct dev dev; /* first: an op finds its trace by the device. Owned: dev_close(&t->dev) */
    const struct ops *inner; /* the backend's own; NULL while stopped */
    struct ops table;
    const struct weight *head; /* set by the caller, or NULL */
    /* set by the caller: NULL, or a call takes as long as this machine needs for it at least,
     * whatever the clock says (dry.h) */
    const struct roofline *predict;
    int depth; /* set by the caller: position of the rows of a decode step */
    enum trace_section section;
    double begin_s, mark_s; /* of the call, and of the section */
    double section_block_s[TRACE_SECTIONS], section_s[TRACE_SECTIONS][TRACE_BLOCKS]; /* of a pass */
    struct trace_entry entry[TRACE_ENTRIES];
    int n_entries, next; /* next: where the next call's entry is looked for first */
    int n_blocks;
    bool is_full; /* there were more different calls than entries: some are missing */
};

/* Forgets what was measured and begins; the device must be open. */
void trace_start(struct trace *t);
void trace_stop(struct trace *t);
/* What follows belongs to this section. */
void trace_enter(struct trace *t, enum trace_section section);
/* Ends a block of n_passes. At most TRACE_BLOCKS count. */
void trace_block(struct trace *t, int64_t n_passes);

/* Medians over the blocks, in seconds a pass. */
double trace_entry_time(const struct trace *t, const struct trace_entry *e);
double trace_section_time(const struct trace *t, enum trace_section section);
/* "M=512 n=1024 k=256" into to[n]; returns to. */
const char *trace_shape(const struct trace_call *call, char *to, size_t n);

/* What a call needs at least, in seconds. */
double trace_floor(const struct roofline *r, const struct trace_call *call);

/* Monotonic seconds; the median of n values, which it sorts. */
double trace_now(void);
double trace_median(double *value, int n);

/* --- between trace.c and trace_ops.c --- */

/* Puts the timing entries over those of table that are there. */
void trace_wrap(struct ops *table);
/* Around a call: the first returns the trace of the device. */
struct trace *trace_begin(struct dev *dev);
void trace_end(struct trace *t, const struct trace_call *call);

#endif
