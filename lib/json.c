/* json: see json.h. */
#include "json.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

int js_parse(json_t **root, const char *text, size_t n, size_t flags, struct err *err)
{
    json_error_t e;
    /* an empty file has no text at all */
    *root = json_loadb(text ? text : "", n, JSON_REJECT_DUPLICATES | flags, &e);
    if (!*root)
        return err_set(err, NULL, "check the JSON there", "bad JSON at line %d, column %d: %s",
                       e.line, e.column, e.text);
    return 0;
}

/* Length of the bare word at text (n bytes are left) that Python means as a number; 0: none. */
static size_t python_word(const char *text, size_t n)
{
    static const char *const words[] = {"Infinity", "-Infinity", "NaN"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        const size_t len = strlen(words[i]);
        if (n >= len && memcmp(text, words[i], len) == 0)
            return len;
    }
    return 0;
}

static int quote_words(struct buf *to, const char *text, size_t n, struct err *err)
{
    bool is_string = false;
    for (size_t i = 0; i < n; i++) {
        const size_t word = is_string ? 0 : python_word(text + i, n - i);
        if (word) {
            TRY(buf_put(to, "\"", 1, err));
            TRY(buf_put(to, text + i, word, err));
            TRY(buf_put(to, "\"", 1, err));
            i += word - 1;
            continue;
        }
        if (is_string && text[i] == '\\' && i + 1 < n)
            TRY(buf_put(to, text + i++, 1, err));
        else if (text[i] == '"')
            is_string = !is_string;
        TRY(buf_put(to, text + i, 1, err));
    }
    return 0;
}

int js_parse_python(json_t **root, const char *text, size_t n, struct err *err)
{
    struct buf quoted = {0};
    int rc = quote_words(&quoted, text, n, err);
    if (rc == 0)
        rc = js_parse(root, (const char *)quoted.data, quoted.size, 0, err);
    buf_free(&quoted);
    return rc;
}

int js_print(const json_t *root, size_t flags, struct buf *to, struct err *err)
{
    char *text = root ? json_dumps(root, flags | JSON_REAL_PRECISION(17)) : NULL;
    if (!text)
        return err_oom(err, 4096);
    const int rc = buf_put(to, text, strlen(text), err);
    free(text);
    return rc;
}
