/* records: documents of text files, one by one, however they are separated.
 *
 * Files are read as one text, as cat would join them, where a byte string separates (line, nul,
 * sep); with para, whole, jsonl and csv each file stands by itself. Nothing is lost
 * silently: what cannot be read is an error with `file:line`. */
#ifndef HM_RECORDS_H
#define HM_RECORDS_H

#include "split.h"
#include "table.h"

struct record {
    const uint8_t *text; /* valid until the next records_next */
    size_t n;
    bool is_ended;    /* its separator followed; only the last of a text can be without */
    const char *path; /* where it begins; as long valid */
    uint64_t line;
};

struct records {
    struct split split;
    const char *const *paths; /* borrowed */
    int n_paths, next_path;
    bool skips_bad;       /* set by the caller: pass over bad JSON lines and CSV records */
    uint64_t n_bad;       /* so far */
    struct err first_bad; /* what was wrong with the first */
    int n_joined;         /* files that went on in a document of the one before */

    struct in in;
    bool is_open;
    struct table *table;
    int column;
    struct buf hold;   /* input read ahead; what is before `begin` was handed out */
    size_t begin;      /* the next record */
    size_t file_at;    /* where in hold the open file begins; 0 if before */
    char path[2][256]; /* the file that `begin` is in is path[which], */
    int which;
    uint64_t line;   /* and this its line, from 1 */
    struct buf text; /* of a JSON field */
};

/* paths must outlive *r; "-" is stdin. Opens nothing yet. */
void records_init(struct records *r, const struct split *split, const char *const *paths,
                  int n_paths);
/* The same over an input that is open, which *r takes over. */
void records_init_over(struct records *r, const struct split *split, struct in *in);
/* The next document: 1, 0 after the last, -1. Where the input comes bit by bit, a record is handed
 * out as soon as it is complete. */
MUST_USE int records_next(struct records *r, struct record *rec, struct err *err);
void records_free(struct records *r);

#endif
