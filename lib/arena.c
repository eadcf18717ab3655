/* arena: see arena.h. */
#include "arena.h"

const char *mem_kind_name(enum mem_kind kind)
{
    static const char *const names[MEM_KINDS] = {
        [MEM_WEIGHTS] = "weights",  [MEM_GRADS] = "gradients", [MEM_MOMENTS] = "moments",
        [MEM_ACTS] = "activations", [MEM_STATE] = "state",     [MEM_WORK] = "workspace",
    };
    return names[kind];
}
