/* parts: the two gradients that a backward op sums over the heads of a group (dk and dv, dB and
 * dC). A worker owns a group of one sequence, or, where groups are few, a part of its heads; then
 * the parts' sums lie in the workspace and are added in order at the end, so the bits do not depend
 * on who was first. */
#ifndef HM_PARTS_H
#define HM_PARTS_H

#include "scratch.h"

struct parts {
    struct tensor *to[2]; /* the gradients (B*T,n_groups*width) */
    int width, heads;     /* columns and heads of a group */
    int n;                /* parts of a group */
    float *sums;          /* (n,2,B*T,n_groups*width); unused for 1 part */
};

/* Bytes that parts_carve takes at most, for any number of units up to n_units. */
size_t parts_plan(int n_workers, int n_units, int heads, int T, int width);
/* Chooses n for the n_units = B*n_groups groups of T tokens each, and takes sums. */
void parts_carve(struct parts *p, struct scratch *s, int n_workers, int n_units, int T);
/* Where part `part` of gradient `which` of group g goes, from row r on. */
struct mat parts_at(const struct parts *p, int part, int which, int64_t r, int g);
/* The gradients from their parts, once all are there. */
void parts_add(struct parts *p, struct dev *dev);

#endif
