/* eval_data: see eval_data.h. */
#include "eval_data.h"
#include "corpus.h"
#include "records.h"
#include "shard_format.h"
#include "table.h"

#include <string.h>
#include <sys/stat.h>

enum { BLOCK_IDS = 4096, CACHE_BYTES = 1 << 24 };

/* Documents put together from blocks of ids. */
struct joiner {
    const struct eval_feed *feed;
    struct scorer *scorer;
    struct ids doc;
    bool is_over; /* the limit is reached */
};

static void show_progress(const struct joiner *j)
{
    char tokens[32];
    const struct text_score *s = &j->scorer->score;
    if (!cli_progress_due(j->feed->progress))
        return;
    cli_progress_line(j->feed->progress, "%llu documents, %s tokens, %.0f tokens/s",
                      (unsigned long long)s->n_docs,
                      cli_count(tokens, sizeof tokens, (double)s->n_tokens),
                      (double)s->n_tokens / (cli_now() - j->feed->progress->start_s + 1e-9));
}

/* Scores the document that is complete. */
static int end_doc(struct joiner *j, struct err *err)
{
    if (j->doc.n == 0)
        return 0;
    TRY(score_put(j->scorer, j->doc.data, j->doc.n, err));
    j->doc.n = 0;
    j->is_over = j->feed->limit > 0 && j->scorer->score.n_docs >= (uint64_t)j->feed->limit;
    show_progress(j);
    return cli_signal() ? err_set(err, NULL, NULL, "stopped by a signal") : 0;
}

static int put_ids(struct joiner *j, const int32_t *ids, size_t n, struct err *err)
{
    while (n > 0 && !j->is_over) {
        size_t take = 0;
        while (take < n && ids[take] != ID_EOS)
            take++;
        const bool is_end = take < n;
        take += is_end;
        TRY(ids_append(&j->doc, ids, take, err));
        if (is_end)
            TRY(end_doc(j, err));
        ids += take;
        n -= take;
    }
    return 0;
}

/* The model must know the ids; the table of lengths and the separator count the bytes. */
static int begin(const struct eval_feed *f, const struct stream_header *h, const char *path,
                 struct scorer *s, struct err *err)
{
    const struct tok *tok = f->eval->tok;
    struct score_opts opts = f->opts;
    if (tok && h->tok_hash != tok_hash(tok))
        return err_set(err, path, "encode the text with the model's tokenizer",
                       "was made with another tokenizer than the model's");
    if (h->vocab > f->eval->model->c.V)
        return err_set(err, path, "encode the text with the model's tokenizer",
                       "has %d ids, the model %d", h->vocab, f->eval->model->c.V);
    opts.sep_bytes = h->sep_len;
    opts.piece_bytes = h->piece_bytes;
    score_begin(s, f->eval, &opts);
    return 0;
}

static int end(struct joiner *j, int rc, struct err *err)
{
    if (rc == 0 && !j->is_over)
        rc = end_doc(j, err);
    if (rc == 0)
        rc = score_end(j->scorer, err);
    j->scorer->opts.piece_bytes = NULL;
    ids_free(&j->doc);
    return rc;
}

/* --- shards --- */

static int read_shard(struct corpus *c, int i, struct joiner *j, struct err *err)
{
    int32_t ids[BLOCK_IDS];
    const uint64_t n = c->shard[i].s.n_tokens;
    if (!c->shard[i].s.is_rest)
        TRY(end_doc(j, err));
    for (uint64_t at = 0; at < n && !j->is_over;) {
        const uint64_t left = n - at;
        const size_t take = left < BLOCK_IDS ? (size_t)left : BLOCK_IDS;
        TRY(corpus_read(c, c->start[i] + at, take, ids, err));
        TRY(put_ids(j, ids, take, err));
        at += take;
    }
    return 0;
}

int eval_feed_shards(const struct eval_feed *f, const char *const *paths, int n, struct scorer *s,
                     struct err *err)
{
    struct corpus c;
    struct joiner j = {.feed = f, .scorer = s};
    TRY(corpus_open(&c, paths, n, CACHE_BYTES, err));
    struct stream_header h = c.shard[0].s.h;
    h.piece_bytes = (uint8_t *)c.piece_bytes;
    int rc = begin(f, &h, paths[0], s, err);
    for (int i = 0; rc == 0 && i < n; i++)
        rc = read_shard(&c, i, &j, err);
    rc = end(&j, rc, err);
    corpus_close(&c);
    return rc;
}

/* --- a stream --- */

static int read_stream(struct stream_reader *r, struct joiner *j, struct err *err)
{
    const int32_t *ids;
    size_t n;
    int more = 0;
    while (!j->is_over && (more = stream_next(r, &ids, &n, err)) == 1)
        TRY(put_ids(j, ids, n, err));
    return more < 0 ? -1 : 0;
}

int eval_feed_stream(const struct eval_feed *f, const char *path, struct scorer *s, struct err *err)
{
    struct in in;
    struct stream_reader r;
    struct joiner j = {.feed = f, .scorer = s};
    TRY(in_open(&in, path, err));
    if (stream_open(&r, &in, err) != 0) {
        in_close(&in);
        return -1;
    }
    int rc = begin(f, &r.h, path, s, err);
    if (rc == 0)
        rc = read_stream(&r, &j, err);
    rc = end(&j, rc, err);
    stream_close(&r);
    in_close(&in);
    return rc;
}

/* --- text --- */

static int read_text(struct records *r, struct joiner *j, struct err *err)
{
    struct record rec;
    int more = 0;
    while (!j->is_over && (more = records_next(r, &rec, err)) == 1) {
        TRY(tok_encode(j->feed->eval->tok, rec.text, rec.n, &j->doc, err));
        if (rec.is_ended)
            TRY(ids_put(&j->doc, ID_EOS, err));
        TRY(end_doc(j, err));
    }
    return more < 0 ? -1 : 0;
}

int eval_feed_text(const struct eval_feed *f, const char *const *paths, int n, struct scorer *s,
                   struct err *err)
{
    struct records r;
    struct joiner j = {.feed = f, .scorer = s};
    struct score_opts opts = f->opts;
    if (!f->eval->tok)
        return err_set(err, NULL, "name one with --tokenizer", "text needs a tokenizer");
    opts.sep_bytes = (int)f->split.n_sep;
    score_begin(s, f->eval, &opts);
    records_init(&r, &f->split, paths, n);
    const int rc = end(&j, read_text(&r, &j, err), err);
    records_free(&r);
    return rc;
}

/* --- tasks --- */

static int read_header(const struct table *t, struct task_columns *c, struct err *err)
{
    struct task_field field[TABLE_MAX_COLUMNS];
    const int n = table_n_columns(t);
    for (int i = 0; i < n; i++)
        field[i].data = table_name(t, i, &field[i].n);
    return task_columns_parse(c, field, n, err);
}

static int put_question(const struct table *table, const struct task_columns *c, struct tasks *t,
                        struct err *err)
{
    struct task_field field[TABLE_MAX_COLUMNS];
    struct question q;
    for (int i = 0; i < c->n_fields; i++)
        field[i].data = table_field(table, i, &field[i].n);
    TRY(question_parse(&q, c, field, c->n_fields, err));
    return tasks_put(t, &q, err);
}

static int read_questions(const struct eval_feed *f, struct table *table, const char *path,
                          struct tasks *t, struct err *err)
{
    struct task_columns c;
    int more = 0;
    if (read_header(table, &c, err) != 0)
        return err_file(err, path);
    for (int64_t n = 0; f->limit == 0 || n < f->limit; n++) {
        if ((more = table_next(table, err)) != 1)
            break;
        if (put_question(table, &c, t, err) != 0) {
            char place[300];
            snprintf(place, sizeof place, "%s:%llu", path, (unsigned long long)table_line(table));
            return err_file(err, place);
        }
        if (cli_progress_due(f->progress))
            cli_progress_line(f->progress, "%lld questions, %.1f/s", (long long)n + 1,
                              (double)(n + 1) / (cli_now() - f->progress->start_s + 1e-9));
        if (cli_signal())
            return err_set(err, NULL, NULL, "stopped by a signal");
    }
    return more < 0 ? -1 : tasks_end(t, err);
}

int eval_feed_tasks(const struct eval_feed *f, const char *path, struct tasks *t, struct err *err)
{
    struct table *table;
    TRY(table_open(&table, path, err));
    const int rc = read_questions(f, table, path, t, err);
    table_close(table);
    return rc;
}

/* --- what a file is --- */

/* The first bytes of a token stream. */
static const uint8_t stream_magic[4] = {0x89, 'H', 'M', 'T'};

int eval_kind_of(const char *path, enum eval_kind *kind, struct err *err)
{
    struct in in;
    struct stat st;
    uint8_t magic[4] = {0};
    size_t got;
    const size_t n = strlen(path);
    *kind = n > 4 && strcmp(path + n - 4, ".csv") == 0 ? EVAL_TASKS : EVAL_STREAM;
    if (strcmp(path, "-") == 0)
        return 0;
    TRY(in_open(&in, path, err));
    /* what comes through a pipe can be read once: it is taken for a stream */
    const bool is_known = *kind == EVAL_TASKS || fstat(in.fd, &st) != 0 || !S_ISREG(st.st_mode);
    const int rc = is_known ? 0 : in_read(&in, magic, sizeof magic, &got, err);
    in_close(&in);
    if (rc != 0 || is_known)
        return rc;
    if (get_u32(magic) == FRONT_MAGIC)
        *kind = EVAL_SHARDS;
    else if (memcmp(magic, stream_magic, sizeof magic) != 0)
        return err_set(err, path, "give --text for raw text, --tasks for a table",
                       "is neither a shard nor a token stream nor named *.csv");
    return 0;
}
