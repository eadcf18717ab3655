/* records: reads ahead into one buffer and finds the ends of documents there; see records.h. */
#include "records.h"

#include "json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { READ_BYTES = 1 << 16 };

/* Names the open file the current one. The name that the last record was given stays. */
static void set_path(struct records *r)
{
    r->which ^= 1;
    snprintf(r->path[r->which], sizeof r->path[0], "%s", r->in.path);
    r->line = 1;
    r->file_at = 0;
}

void records_init(struct records *r, const struct split *split, const char *const *paths,
                  int n_paths)
{
    *r = (struct records){
        .split = *split, .paths = paths, .n_paths = n_paths, .in = {.fd = -1}, .line = 1};
}

void records_init_over(struct records *r, const struct split *split, struct in *in)
{
    records_init(r, split, NULL, 0);
    r->in = *in;
    r->is_open = true;
    set_path(r);
    *in = (struct in){.fd = -1};
}

void records_free(struct records *r)
{
    in_close(&r->in);
    table_close(r->table);
    buf_free(&r->hold);
    buf_free(&r->text);
    *r = (struct records){.in = {.fd = -1}};
}

/* --- the buffer --- */

static bool joins_files(const struct records *r)
{
    return r->split.kind <= SPLIT_SEP;
}

/* Opens the next file: 1, 0 where none is left, -1. */
static int open_next(struct records *r, struct err *err)
{
    if (r->next_path == r->n_paths)
        return 0;
    TRY(in_open(&r->in, r->paths[r->next_path++], err));
    r->is_open = true;
    if (r->begin == r->hold.size) {
        set_path(r);
    } else {
        r->file_at = r->hold.size;
    }
    return 1;
}

/* Reads more into hold: 1 if there was any, 0 at the end of the text (of the file, where files do
 * not join), -1. Offsets into hold stay right. */
static int read_more(struct records *r, struct err *err)
{
    for (;;) {
        size_t got;
        if (!r->is_open) {
            const int more = joins_files(r) ? open_next(r, err) : 0;
            if (more < 1)
                return more;
        }
        TRY(buf_reserve(&r->hold, READ_BYTES, err));
        TRY(in_some(&r->in, r->hold.data + r->hold.size, READ_BYTES, &got, err));
        if (got > 0 && r->file_at == r->hold.size && r->begin < r->file_at)
            r->n_joined++;
        r->hold.size += got;
        if (got > 0)
            return 1;
        in_close(&r->in);
        r->is_open = false;
    }
}

/* Throws away what was handed out, once that is most of the buffer. */
static void compact(struct records *r)
{
    const size_t left = r->hold.size - r->begin;
    if (r->begin < left || r->begin == 0)
        return;
    if (left)
        memmove(r->hold.data, r->hold.data + r->begin, left);
    r->file_at = r->file_at > r->begin ? r->file_at - r->begin : 0;
    r->hold.size = left;
    r->begin = 0;
}

/* Moves begin to `end`, counting lines; into the open file, if that is where it comes to lie. */
static void advance(struct records *r, size_t end)
{
    size_t at = r->begin;
    if (r->file_at > r->begin && r->file_at <= end) {
        at = r->file_at;
        set_path(r);
    }
    while (at < end) {
        const uint8_t *nl = memchr(r->hold.data + at, '\n', end - at);
        if (!nl)
            break;
        r->line++;
        at = (size_t)(nl - r->hold.data) + 1;
    }
    r->begin = end;
}

static void hand_out(struct records *r, struct record *rec, size_t n, bool is_ended)
{
    *rec = (struct record){.text = r->hold.data + r->begin,
                           .n = n,
                           .is_ended = is_ended,
                           .path = r->path[r->which],
                           .line = r->line};
}

/* --- byte strings --- */

static int next_separated(struct records *r, struct record *rec, size_t *taken, struct err *err)
{
    const size_t n_sep = r->split.n_sep;
    size_t from = r->begin;
    for (;;) {
        const uint8_t *hit = NULL;
        if (from < r->hold.size)
            hit = n_sep == 1
                      ? memchr(r->hold.data + from, r->split.sep[0], r->hold.size - from)
                      : memmem(r->hold.data + from, r->hold.size - from, r->split.sep, n_sep);
        if (hit) {
            const size_t end = (size_t)(hit - r->hold.data);
            hand_out(r, rec, end - r->begin, true);
            *taken = rec->n + n_sep;
            return 1;
        }
        /* A separator may have begun in the last bytes. */
        if (r->hold.size - r->begin >= n_sep)
            from = r->hold.size - (n_sep - 1);
        const int more = read_more(r, err);
        if (more < 0)
            return -1;
        if (more == 0)
            break;
    }
    if (r->begin == r->hold.size)
        return 0;
    hand_out(r, rec, r->hold.size - r->begin, false);
    *taken = rec->n;
    return 1;
}

/* --- lines and paragraphs --- */

/* Finds the line that begins at `from`: *end is behind its line end. 1; 0 where nothing is left. */
static int find_line(struct records *r, size_t from, size_t *end, struct err *err)
{
    for (size_t at = from;;) {
        const uint8_t *nl =
            at < r->hold.size ? memchr(r->hold.data + at, '\n', r->hold.size - at) : NULL;
        *end = nl ? (size_t)(nl - r->hold.data) + 1 : r->hold.size;
        if (nl)
            return 1;
        at = r->hold.size;
        const int more = read_more(r, err);
        if (more < 0)
            return -1;
        if (more == 0)
            return *end > from;
    }
}

/* The length of the line in hold[begin, end) without its line end. */
static size_t line_length(const struct records *r, size_t begin, size_t end)
{
    if (end > begin && r->hold.data[end - 1] == '\n')
        end--;
    if (end > begin && r->hold.data[end - 1] == '\r')
        end--;
    return end - begin;
}

static int next_paragraph(struct records *r, struct record *rec, size_t *taken, struct err *err)
{
    size_t end = r->begin, last = 0;
    int more;
    while ((more = find_line(r, r->begin, &end, err)) == 1 && line_length(r, r->begin, end) == 0)
        advance(r, end);
    if (more < 1)
        return more;
    do {
        last = end;
        more = find_line(r, last, &end, err);
    } while (more == 1 && line_length(r, last, end) > 0);
    if (more < 0)
        return -1;
    hand_out(r, rec, line_length(r, r->begin, last), true);
    *taken = last - r->begin;
    return 1;
}

/* --- JSON lines --- */

static int bad_record(struct records *r, const struct record *rec, const char *mend,
                      const char *what, struct err *err)
{
    char file[256];
    snprintf(file, sizeof file, "%.230s:%llu", rec->path, (unsigned long long)rec->line);
    return err_set(err, file, mend, "%s", what);
}

/* Puts the field of the object on the line into r->text. */
static int read_object(struct records *r, const struct record *line, struct err *err)
{
    json_t *root;
    struct err inner;
    char what[400];
    if (js_parse(&root, (const char *)line->text, line->n, JSON_ALLOW_NUL, &inner) != 0)
        return bad_record(r, line, "one JSON object a line", inner.what, err);
    const json_t *field = json_object_get(root, r->split.field);
    int rc;
    r->text.size = 0;
    if (json_is_string(field)) {
        rc = buf_put(&r->text, json_string_value(field), json_string_length(field), err);
        if (rc == 0)
            rc = buf_reserve(&r->text, 1, err); /* not NULL, even if empty */
    } else {
        snprintf(what, sizeof what,
                 !json_is_object(root) ? "is no JSON object"
                 : field               ? "the field '%.100s' is no string"
                                       : "the object has no field '%.100s'",
                 r->split.field);
        rc = bad_record(r, line, "leave such lines out with --skip-bad", what, err);
    }
    json_decref(root);
    return rc;
}

/* The bytes of a byte order mark at the begin of a file. */
static size_t mark_length(const struct records *r, size_t end)
{
    const bool has_mark = r->line == 1 && end - r->begin >= 3 &&
                          memcmp(r->hold.data + r->begin, "\xEF\xBB\xBF", 3) == 0;
    return has_mark ? 3 : 0;
}

static bool is_blank(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != ' ' && p[i] != '\t')
            return false;
    return true;
}

/* Counts a bad record and keeps what was wrong with the first; 0 where it may be passed over. */
static int pass_over(struct records *r, const struct err *err)
{
    if (!r->skips_bad)
        return -1;
    if (r->n_bad++ == 0)
        r->first_bad = *err;
    return 0;
}

/* The next object of the open file. */
static int next_object(struct records *r, struct record *rec, struct err *err)
{
    size_t end;
    int more;
    while ((more = find_line(r, r->begin, &end, err)) == 1) {
        const size_t mark = mark_length(r, end);
        const size_t n = line_length(r, r->begin + mark, end);
        struct record line = {r->hold.data + r->begin + mark, n, true, r->path[r->which], r->line};
        const bool is_empty = is_blank(line.text, n);
        const int rc = is_empty ? 0 : read_object(r, &line, err);
        advance(r, end);
        if (rc != 0)
            TRY(pass_over(r, err));
        if (rc == 0 && !is_empty) {
            *rec = (struct record){r->text.data, r->text.size, true, r->path[r->which], line.line};
            return 1;
        }
        compact(r);
    }
    return more;
}

/* --- whole files and CSV --- */

static int next_whole(struct records *r, struct record *rec, struct err *err)
{
    int more;
    while ((more = read_more(r, err)) == 1)
        ;
    if (more < 0)
        return -1;
    hand_out(r, rec, r->hold.size - r->begin, true);
    return 1;
}

/* The next record of the open file's table, which is opened first. */
static int next_row(struct records *r, struct record *rec, struct err *err)
{
    if (!r->table) {
        TRY(table_over(&r->table, &r->in, err));
        TRY(table_column(r->table, r->split.field, &r->column, err));
    }
    int more;
    while ((more = table_next(r->table, err)) < 0) {
        if (!table_can_go_on(r->table))
            return -1;
        TRY(pass_over(r, err));
    }
    if (more == 1) {
        size_t n;
        const char *field = table_field(r->table, r->column, &n);
        *rec = (struct record){(const uint8_t *)field, n, true, r->path[r->which],
                               table_line(r->table)};
        return 1;
    }
    table_close(r->table);
    r->table = NULL;
    r->is_open = false;
    return 0;
}

/* The next record of the files that do not join; *taken bytes of hold are then to be skipped. */
static int next_in_file(struct records *r, struct record *rec, size_t *taken, struct err *err)
{
    int more = 0;
    while (more == 0) {
        if (!r->is_open && r->begin == r->hold.size && (more = open_next(r, err)) < 1)
            return more;
        if (r->split.kind == SPLIT_PARA)
            more = next_paragraph(r, rec, taken, err);
        else if (r->split.kind == SPLIT_JSONL)
            more = next_object(r, rec, err);
        else if (r->split.kind == SPLIT_CSV)
            more = next_row(r, rec, err);
        else if ((more = next_whole(r, rec, err)) == 1)
            *taken = rec->n;
    }
    return more;
}

int records_next(struct records *r, struct record *rec, struct err *err)
{
    size_t taken = 0;
    compact(r);
    const int more =
        joins_files(r) ? next_separated(r, rec, &taken, err) : next_in_file(r, rec, &taken, err);
    if (more == 1)
        advance(r, r->begin + taken);
    return more;
}
