/* table: libcsv fed up to each line end, so that records and line numbers stay in step; see
 * table.h.
 */
#include "table.h"

#include <csv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_BYTES = 1 << 16 };

/* Fields in a row, each followed by a NUL. */
struct row {
    struct buf text;
    size_t end[TABLE_MAX_COLUMNS]; /* of field i, the NUL included */
    int n;
};

struct table {
    struct in in;
    struct csv_parser csv;
    uint8_t chunk[CHUNK_BYTES];
    size_t begin, end;
    struct row header, record;
    struct row *to; /* where fields go now */
    bool is_row;    /* the parser came to the end of a record */
    bool is_at_end, can_go_on;
    uint64_t line, next_line;
    struct err field_err; /* what happened inside a callback */
    bool has_field_err;
};

static int fail(const struct table *t, uint64_t line, struct err *err, const char *mend,
                const char *what)
{
    char file[256];
    snprintf(file, sizeof file, "%.200s:%llu", t->in.path, (unsigned long long)line);
    return err_set(err, file, mend, "%s", what);
}

static void on_field(void *text, size_t n, void *arg)
{
    struct table *t = arg;
    struct row *r = t->to;
    if (t->has_field_err)
        return;
    if (r->n == TABLE_MAX_COLUMNS) {
        t->has_field_err = true;
        fail(t, t->line, &t->field_err, NULL, "has more than 4096 fields");
        return;
    }
    if (buf_put(&r->text, text, n, &t->field_err) != 0 ||
        buf_put(&r->text, "", 1, &t->field_err) != 0) {
        t->has_field_err = true;
        return;
    }
    r->end[r->n++] = r->text.size;
}

static void on_row(int c, void *arg)
{
    ((struct table *)arg)->is_row = true;
}

static int no_space(unsigned char c)
{
    return 0;
}

static int refill(struct table *t, struct err *err)
{
    t->begin = 0;
    TRY(in_read(&t->in, t->chunk, sizeof t->chunk, &t->end, err));
    t->is_at_end = t->end == 0;
    return 0;
}

static int explain(struct table *t, struct err *err)
{
    if (csv_error(&t->csv) == CSV_EPARSE)
        return fail(t, t->next_line, err,
                    "quote a field that has quotes in it, double those, and write nothing between "
                    "a closing quote and the comma",
                    "a quote stands where CSV has none");
    return err_oom(err, csv_get_buffer_size(&t->csv));
}

/* Feeds libcsv up to the next line end, or what there is of it. */
static int feed(struct table *t, struct err *err)
{
    const uint8_t *p = t->chunk + t->begin;
    size_t n = t->end - t->begin;
    const uint8_t *stop = memchr(p, '\n', n);
    n = stop ? (size_t)(stop - p) + 1 : n;
    stop = memchr(p, '\r', n);
    n = stop ? (size_t)(stop - p) + 1 : n;
    if (csv_parse(&t->csv, p, n, on_field, on_row, t) != n)
        return explain(t, err);
    if (t->has_field_err) {
        *err = t->field_err;
        return -1;
    }
    if (t->to->text.size > TABLE_RECORD_BYTES || csv_get_buffer_size(&t->csv) > TABLE_RECORD_BYTES)
        return fail(t, t->line, err, "look for a quote that is never closed",
                    "a record is larger than 256 MiB");
    t->begin += n;
    t->next_line += p[n - 1] == '\n';
    if (!t->is_row || p[n - 1] != '\r')
        return 0;
    if (t->begin == t->end)
        TRY(refill(t, err));
    if (t->is_at_end || t->chunk[t->begin] != '\n')
        return fail(t, t->next_line, err, "end lines in LF or CRLF",
                    "a carriage return stands alone");
    t->begin++;
    t->next_line++;
    return 0;
}

static int finish(struct table *t, struct err *err)
{
    if (csv_fini(&t->csv, on_field, on_row, t) != 0)
        return fail(t, t->line, err, "close it", "a quote is opened and never closed");
    if (t->has_field_err)
        *err = t->field_err;
    return t->has_field_err ? -1 : 0;
}

/* Reads fields into *to up to the end of a record: 1, 0 at the end of the input, -1. */
static int read_row(struct table *t, struct row *to, struct err *err)
{
    t->to = to;
    to->text.size = 0;
    to->n = 0;
    t->line = t->next_line;
    for (t->is_row = false; !t->is_row;) {
        if (t->begin == t->end && !t->is_at_end)
            TRY(refill(t, err));
        if (t->is_at_end) {
            TRY(finish(t, err));
            return to->n > 0;
        }
        TRY(feed(t, err));
    }
    return 1;
}

static bool same_name(const struct table *t, int column, const char *name, size_t n)
{
    size_t len;
    const char *other = table_name(t, column, &len);
    return len == n && memcmp(other, name, n) == 0;
}

static int read_header(struct table *t, struct err *err)
{
    TRY(refill(t, err));
    if (t->end >= 3 && memcmp(t->chunk, "\xEF\xBB\xBF", 3) == 0)
        t->begin = 3;
    int more;
    while ((more = read_row(t, &t->header, err)) == 1 && t->header.n == 0)
        ;
    if (more < 0)
        return -1;
    if (more == 0)
        return err_set(err, t->in.path, "the first line names the columns", "has no header");
    for (int i = 0; i < t->header.n; i++) {
        size_t n;
        const char *name = table_name(t, i, &n);
        for (int k = 0; k < i; k++)
            if (same_name(t, k, name, n))
                return err_set(err, t->in.path, "rename one of them",
                               "the header has '%.100s' twice", name);
    }
    return 0;
}

int table_over(struct table **t, struct in *in, struct err *err)
{
    struct table *made = calloc(1, sizeof *made);
    if (!made || csv_init(&made->csv, CSV_STRICT | CSV_STRICT_FINI | CSV_REPALL_NL) != 0) {
        free(made);
        in_close(in);
        return err_oom(err, sizeof *made);
    }
    csv_set_space_func(&made->csv, no_space);
    made->in = *in;
    *in = (struct in){.fd = -1};
    made->next_line = 1;
    if (read_header(made, err) != 0) {
        err_file(err, made->in.path);
        table_close(made);
        return -1;
    }
    *t = made;
    return 0;
}

int table_open(struct table **t, const char *path, struct err *err)
{
    struct in in;
    TRY(in_open(&in, path, err));
    return table_over(t, &in, err);
}

void table_close(struct table *t)
{
    if (!t)
        return;
    in_close(&t->in);
    csv_free(&t->csv);
    buf_free(&t->header.text);
    buf_free(&t->record.text);
    free(t);
}

static const char *field_of(const struct row *r, int i, size_t *n)
{
    const size_t begin = i > 0 ? r->end[i - 1] : 0;
    *n = r->end[i] - begin - 1;
    return (const char *)r->text.data + begin;
}

int table_n_columns(const struct table *t)
{
    return t->header.n;
}

const char *table_name(const struct table *t, int column, size_t *n)
{
    return field_of(&t->header, column, n);
}

int table_column(const struct table *t, const char *name, int *column, struct err *err)
{
    char list[400] = "";
    size_t used = 0, n;
    for (int i = 0; i < t->header.n; i++) {
        if (same_name(t, i, name, strlen(name))) {
            *column = i;
            return 0;
        }
        const int len = snprintf(list + used, sizeof list - used, "%s%.60s", i > 0 ? ", " : "",
                                 table_name(t, i, &n));
        if (len > 0 && (size_t)len < sizeof list - used)
            used += (size_t)len;
    }
    list[used] = '\0';
    char mend[440];
    snprintf(mend, sizeof mend, "name one of its columns: %s", list);
    return err_set(err, t->in.path, mend, "has no column '%.100s'", name);
}

int table_next(struct table *t, struct err *err)
{
    int more;
    t->can_go_on = false;
    do
        more = read_row(t, &t->record, err);
    while (more == 1 && t->record.n == 0 && t->header.n > 1);
    if (more < 1)
        return more;
    if (t->record.n == 0) {
        t->record.end[t->record.n++] = 1;
        TRY(buf_put(&t->record.text, "", 1, err));
    }
    if (t->record.n == t->header.n)
        return 1;
    t->can_go_on = true;
    char what[100];
    snprintf(what, sizeof what, "has %d fields where the header has %d", t->record.n, t->header.n);
    return fail(t, t->line, err, "quote fields that have commas or line breaks in them", what);
}

bool table_can_go_on(const struct table *t)
{
    return t->can_go_on;
}

const char *table_field(const struct table *t, int column, size_t *n)
{
    return field_of(&t->record, column, n);
}

uint64_t table_line(const struct table *t)
{
    return t->line;
}
