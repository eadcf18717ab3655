/* Documents of every kind of input: against a plain splitter at the edges of the read-ahead, over
 * several files, and what is wrong with bad JSON lines and CSV. */
#include "records.h"

#include "rng.h"
#include "tap.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct err err;
static char folder[64];

static int open_over(struct records *r, const char *spec, const void *text, size_t n)
{
    struct split split;
    struct in in;
    TRY(split_parse(&split, spec, &err));
    TRY(in_memory(&in, "in", text, n, &err));
    records_init_over(r, &split, &in);
    return 0;
}

/* All records as "[text]", "(text" for one that is not ended, then "!" and the error if any. */
static const char *listed(struct records *r)
{
    static char list[4096];
    size_t n = 0;
    struct record rec;
    int more;
    while ((more = records_next(r, &rec, &err)) == 1 && n + rec.n + 8 < sizeof list) {
        list[n++] = rec.is_ended ? '[' : '(';
        memcpy(list + n, rec.text, rec.n);
        n += rec.n;
        list[n++] = rec.is_ended ? ']' : '.';
    }
    if (more < 0)
        n += (size_t)snprintf(list + n, sizeof list - n, "!%s", err.file);
    list[n] = '\0';
    records_free(r);
    return list;
}

/* What can stand in a test's name. */
static const char *shown(const char *text)
{
    static char name[80];
    size_t n = 0;
    for (; text[n] && n + 1 < sizeof name; n++)
        name[n] = text[n] >= ' ' && text[n] < 0x7F && text[n] != '#' ? text[n] : '~';
    name[n] = '\0';
    return name;
}

static void check_n(const char *spec, const void *text, size_t n, const char *want)
{
    struct records r;
    const char *got = open_over(&r, spec, text, n) == 0 ? listed(&r) : "no such split";
    if (!ok(strcmp(got, want) == 0, "%s: %s", spec, shown(want)))
        printf("# got %s (%s)\n", shown(got), err.what);
}

static void check(const char *spec, const char *text, const char *want)
{
    check_n(spec, text, strlen(text), want);
}

static void test_plain(void)
{
    check("line", "a\nbc\n", "[a][bc]");
    check("line", "a\n\nbc", "[a][](bc.");
    check("line", "", "");
    check("line", "\r\na\r\n", "[\r][a\r]");
    check("line",
          "\xEF\xBB\xBF"
          "a\n",
          "[\xEF\xBB\xBF"
          "a]");
    check_n("nul", "a\0b\nc\0\0d", 8, "[a][b\nc][](d.");
    check("sep:--", "a--b---c-", "[a][b](-c-.");
    check("sep:\\n\\n\\n", "a\n\nb\n\n\nc", "[a\n\nb](c.");
    check("sep:\\x41\\x6a", "xAjyAAjA", "[x][yA](A.");
    check("whole", "a\nb", "[a\nb]");
    check("whole", "", "[]");
    check("para", "\n\na\nb\n\n\r\n\nc\r\nd\n", "[a\nb][c\r\nd]");
    check("para", "\n\r\n", "");
    check("para", "a", "[a]");
    for (const char *const *bad = (const char *const[]){"lines", "", "sep:", "sep:\\q", "sep:\\x4",
                                                        "sep:\\", "jsonl:", "csv:", "csv", NULL};
         *bad; bad++) {
        struct split s;
        ok(split_parse(&s, *bad, &err) == -1, "no way to split: '%s'", *bad);
    }
    struct split s;
    ok(split_parse(&s, "sep:0123456789012345678901234567890123456789", &err) == -1,
       "a separator that is too long");
}

static void test_json(void)
{
    check("jsonl:text", "{\"text\":\"a\"}\n\n {\"n\":1,\"text\":\"\"}", "[a][]");
    check("jsonl:text", "\xEF\xBB\xBF{\"text\":\"\\u00e9\\ud83d\\ude00\\n\"}\r\n",
          "[\xC3\xA9\xF0\x9F\x98\x80\n]");
    check_n("jsonl:text", "{\"text\":\"a\\u0000b\"}", 19, "[a");
    check("jsonl:text", "{\"text\":\"a\"}\n{\"text\":\"\\ud83d\"}\n", "[a]!in:2");
    check("jsonl:text", "{\"text\":\"\xFF\"}\n", "!in:1");
    check("jsonl:text", "{\"text\":12}\n", "!in:1");
    check("jsonl:text", "{\"other\":\"\"}\n", "!in:1");
    check("jsonl:text", "{\"text\":\"a\",\"text\":\"b\"}\n", "!in:1");
    check("jsonl:text", "\n\n[1]\n", "!in:3");
    check("jsonl:text", "{\"text\":\"cut", "!in:1");
    const char *mixed = "{\"text\":\"a\"}\nnot json\n{\"text\":3}\n{\"text\":\"b\"}\n";
    struct records r;
    struct record rec;
    int n = 0;
    if (open_over(&r, "jsonl:text", mixed, strlen(mixed)) != 0)
        return;
    r.skips_bad = true;
    while (records_next(&r, &rec, &err) == 1)
        n++;
    ok(n == 2 && r.n_bad == 2 && strcmp(r.first_bad.file, "in:2") == 0,
       "bad lines are passed over, counted and told");
    records_free(&r);
}

static void test_csv(void)
{
    check("csv:b", "a,b\n1,x\n2,y\n", "[x][y]");
    check("csv:b", "a,b\r\n1,\"x, \"\"y\"\"\r\nz\"\r\n2, w \r\n", "[x, \"y\"\r\nz][ w ]");
    check("csv:b",
          "\xEF\xBB\xBF"
          "b,a\n1,2",
          "[1]");
    check("csv:b", "\xEF\xBB\xBF\"b\",a\n\n\"\",2\n\n", "[]");
    check("csv:b", "b\nx\n\ny\n", "[x][][y]");
    check("csv:b", "b\r\nx\r\n\r\ny", "[x][][y]");
    check("csv:b", "", "!in");
    check("csv:c", "a,b\n1,2\n", "!in");
    check("csv:b", "a,b,a\n1,2,3\n", "!in");
    check("csv:b", "a,b\n1\n", "!in:2");
    check("csv:b", "a,b\n\"1\n\",2\n1,2,3\n", "[2]!in:4");
    check("csv:b", "a,b\n1,x\"y\n", "!in:2");
    check("csv:b", "a,b\n1,\"x\"y\n", "!in:2");
    check("csv:b", "a,b\n1,\"x", "!in:2");
    check("csv:b", "a,b\n1,2\r3,4\n", "!in:2");
    check_n("csv:b", "a,b\n1,x\0y\n", 10, "[x");
    struct split split;
    struct in in;
    struct table *t;
    size_t n;
    const char *text = "id,text,label\n1,too few\n2,just,right\n";
    if (split_parse(&split, "csv:text", &err) != 0 ||
        in_memory(&in, "in", text, strlen(text), &err) != 0 || table_over(&t, &in, &err) != 0)
        return;
    ok(table_n_columns(t) == 3 && strcmp(table_name(t, 2, &n), "label") == 0 && n == 5,
       "the header of a table");
    ok(table_next(t, &err) == -1 && table_can_go_on(t) && strcmp(err.file, "in:2") == 0 &&
           strstr(err.what, "2 fields where the header has 3"),
       "a ragged record");
    ok(table_next(t, &err) == 1 && table_line(t) == 3 &&
           strcmp(table_field(t, 1, &n), "just") == 0 && n == 4,
       "and the one behind it");
    ok(table_next(t, &err) == 0 && table_next(t, &err) == 0, "the end, again and again");
    table_close(t);
}

/* Random text of a few hundred kB with separators everywhere, so that some lie across the edges of
 * the read-ahead; a plain splitter beside it. */
static void test_edges(const char *spec, const char *sep, size_t n_sep)
{
    const size_t n = 700000;
    uint8_t *text = malloc(n);
    struct records r;
    struct record rec;
    if (!text)
        return;
    for (size_t i = 0; i < n; i++)
        text[i] = (uint8_t) "aab-\n\n"[philox(1, n_sep, i).v[0] % (i / 300000 == 1 ? 3 : 6)];
    size_t at = 0, n_wrong = open_over(&r, spec, text, n) != 0, line = 1;
    while (records_next(&r, &rec, &err) == 1) {
        const uint8_t *hit = memmem(text + at, n - at, sep, n_sep);
        const size_t end = hit ? (size_t)(hit - text) : n;
        n_wrong += rec.n != end - at || memcmp(rec.text, text + at, rec.n) != 0 ||
                   rec.is_ended != !!hit || rec.line != line;
        const size_t next = end + (hit ? n_sep : 0);
        for (; at < next; at++)
            line += text[at] == '\n';
    }
    ok(n_wrong == 0 && at == n, "%s: separators at the edges of the read-ahead", spec);
    records_free(&r);
    free(text);
}

static const char *made_file(int i, const char *text)
{
    static char path[4][128];
    snprintf(path[i], sizeof path[i], "%s/%d", folder, i);
    FILE *f = fopen(path[i], "wb");
    if (f) {
        fputs(text, f);
        fclose(f);
    }
    return path[i];
}

static void check_files(const char *spec, const char *const text[3], const char *want, int n_joined)
{
    const char *paths[3];
    struct split split;
    struct records r;
    for (int i = 0; i < 3; i++)
        paths[i] = made_file(i, text[i]);
    if (split_parse(&split, spec, &err) != 0)
        return;
    records_init(&r, &split, paths, 3);
    struct record rec;
    struct buf got = {0};
    int more;
    while ((more = records_next(&r, &rec, &err)) == 1)
        (void)!buf_printf(&got, &err, "%s:%llu:%.*s%s", strrchr(rec.path, '/') + 1,
                          (unsigned long long)rec.line, (int)rec.n, rec.text,
                          rec.is_ended ? ";" : ".");
    (void)!buf_put(&got, "", 1, &err);
    if (!ok(more == 0 && strcmp((char *)got.data, want) == 0 && r.n_joined == n_joined,
            "%s over files: %s", spec, shown(want)))
        printf("# got %s, joined %d\n", shown((char *)got.data), r.n_joined);
    buf_free(&got);
    records_free(&r);
}

static void test_files(void)
{
    check_files("line", (const char *const[]){"a\nb", "c\n\n", "d"}, "0:1:a;0:2:bc;1:2:;2:1:d.", 1);
    check_files("line", (const char *const[]){"a", "", "b\nc"}, "0:1:ab;2:2:c.", 1);
    check_files("sep:\\n-", (const char *const[]){"a\n", "-b", ""}, "0:1:a;1:1:b.", 1);
    check_files("whole", (const char *const[]){"a\n", "", "b"}, "0:1:a\n;1:1:;2:1:b;", 0);
    check_files("para", (const char *const[]){"a\n", "b\n\nc", "\nd"}, "0:1:a;1:1:b;1:3:c;2:2:d;",
                0);
    check_files("jsonl:t",
                (const char *const[]){"{\"t\":\"a\"}", "\n{\"t\":\"b\"}\n", "{\"t\":\"c\"}"},
                "0:1:a;1:2:b;2:1:c;", 0);
    check_files("csv:t", (const char *const[]){"t\na\n", "u,t\n,b\n", "t\n"}, "0:2:a;1:2:b;", 0);
    struct split split;
    struct records r;
    struct record rec;
    const char *missing[] = {"/nonexistent/file"};
    if (split_parse(&split, "line", &err) != 0)
        return;
    records_init(&r, &split, missing, 1);
    ok(records_next(&r, &rec, &err) == -1 && strcmp(err.file, missing[0]) == 0, "a missing file");
    records_free(&r);
}

/* A line is handed out when it has come, though the pipe stays open. */
static void test_pipe(void)
{
    int fd[2];
    char path[32];
    struct split split;
    struct records r;
    struct record rec;
    if (pipe(fd) != 0 || split_parse(&split, "line", &err) != 0)
        return;
    snprintf(path, sizeof path, "/dev/fd/%d", fd[0]);
    const char *paths[] = {path};
    records_init(&r, &split, paths, 1);
    const bool is_sent = write(fd[1], "now\nla", 6) == 6;
    ok(is_sent && records_next(&r, &rec, &err) == 1 && rec.n == 3, "a line from an open pipe");
    const bool is_more = write(fd[1], "ter\n", 4) == 4;
    ok(is_more && records_next(&r, &rec, &err) == 1 && rec.n == 5, "and the next");
    close(fd[1]);
    close(fd[0]);
    records_free(&r);
}

int main(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%.40s/recordsXXXXXX", tmp && strlen(tmp) < 40 ? tmp : "/tmp");
    if (!mkdtemp(folder))
        return 1;
    test_plain();
    test_json();
    test_csv();
    test_edges("line", "\n", 1);
    test_edges("sep:\\n\\n-", "\n\n-", 3);
    test_files();
    test_pipe();
    for (int i = 0; i < 3; i++)
        unlink(made_file(i, ""));
    rmdir(folder);
    return tap_done();
}
