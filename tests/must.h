/* must: what ends a test program that cannot go on, as TAP has it. */
#ifndef HM_MUST_H
#define HM_MUST_H

#include "err.h"

#include <stdio.h>
#include <stdlib.h>

__attribute__((unused, noreturn)) static void fail(const char *what)
{
    printf("Bail out! %s\n", what);
    exit(1);
}

__attribute__((unused, noreturn)) static void die(const struct err *err)
{
    printf("Bail out! %s: %s: %s\n", err->file, err->what, err->mend);
    exit(1);
}

/* rc: 0, or err says what went wrong. */
__attribute__((unused)) static void must(int rc, const struct err *err)
{
    if (rc != 0)
        die(err);
}

#endif
