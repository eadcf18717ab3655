/* analyzer: included in front of each file by `make lint`. clang-tidy does not see into err.c; this
 * tells it that these calls return -1, so that it does not follow paths that cannot be. */
#include "err.h"

#define err_set(...)   (err_set(__VA_ARGS__), -1)
#define err_errno(...) (err_errno(__VA_ARGS__), -1)
#define err_oom(...)   (err_oom(__VA_ARGS__), -1)
#define err_file(...)  (err_file(__VA_ARGS__), -1)
