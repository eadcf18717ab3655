/* shard_scan: every id of a shard in order, with everything checked; see shard.h. */
#include "shard.h"

#include <stdlib.h>

int shard_scan(struct shard *s, struct shard_scratch *x,
               int (*fn)(void *arg, const int32_t *ids, size_t n, struct err *err), void *arg,
               struct err *err)
{
    struct stream_counts counts = {0};
    const size_t most = s->s.n_frames ? shard_frame_n(s, 0) : 1;
    uint8_t *raw = malloc(most * 4);
    int32_t *ids = malloc(most * sizeof *ids);
    int rc = raw && ids ? 0 : err_oom(err, most * 8);
    for (uint32_t i = 0; rc == 0 && i < s->s.n_frames; i++) {
        const uint32_t n = shard_frame_n(s, i);
        rc = shard_read(s, x, i, raw, err);
        if (rc != 0)
            break;
        stream_widen(ids, raw, s->s.h.width, n);
        rc = stream_count(&counts, &s->s.h, ids, n, err);
        if (rc != 0)
            rc = err_file(err, s->in.path);
        else if (fn)
            rc = fn(arg, ids, n, err);
    }
    free(raw);
    free(ids);
    return rc == 0 ? shard_end(s, &counts, err) : rc;
}
