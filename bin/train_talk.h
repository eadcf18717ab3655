/* train_talk: what hm-train says on stderr while it trains. */
#ifndef HM_TRAIN_TALK_H
#define HM_TRAIN_TALK_H

#include "cli.h"
#include "train_run.h"

struct train_talk {
    const struct cli_tool *tool;
    const struct train *train;
    struct cli_progress progress;
    struct train_event last; /* the last step */
    double valid_loss, valid_bits;
    float fp16_scale; /* as of the last step that was told */
};

/* Says what is about to be trained, and fills the hook, which stops the run when a signal came. */
void train_talk_begin(struct train_talk *t, const struct cli_tool *tool, const struct train *train,
                      struct train_hook *hook);
/* The last words of a run that went well: done, or stopped by a signal (is_kept: with a
 * checkpoint).
 */
void train_talk_end(struct train_talk *t, bool is_good, bool is_stopped, bool is_kept);

#endif
