/* Any bytes as a JSON prompt; what is accepted must print as a line and as JSON that jansson reads
 * back the same. The same bytes as the header and the fields of a task. */
#include "json.h"
#include "prompts.h"
#include "tasks.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_prompt(const uint8_t *data, size_t size)
{
    struct gen_opts o;
    struct gen_prompt p;
    struct err err;
    struct buf line = {0}, back = {0}, json = {0};
    json_t *root = NULL;
    bool is_exact = true;
    gen_defaults(&o);
    if (prompt_parse(&p, (const char *)data, size, &o, 1000, &err) == 0) {
        if (text_escape(&line, p.text.data, p.text.size, &err) != 0 ||
            text_unescape(&back, line.data, line.size, &err) != 0 || back.size != p.text.size ||
            (back.size && memcmp(back.data, p.text.data, back.size) != 0) ||
            text_json(&json, p.text.data, p.text.size, &is_exact, &err) != 0 || !is_exact ||
            js_parse(&root, (const char *)json.data, json.size, JSON_ALLOW_NUL | JSON_DECODE_ANY,
                     &err) != 0 ||
            json_string_length(root) != p.text.size)
            abort();
        json_decref(root);
    }
    gen_prompt_free(&p);
    buf_free(&line);
    buf_free(&back);
    buf_free(&json);
}

/* Fields between commas; the first line is the header. */
static void check_task(const char *data, size_t size)
{
    struct task_field field[64];
    struct task_columns c;
    struct question q;
    struct err err;
    bool has_header = false;
    int n = 0;
    for (size_t i = 0, begin = 0; i <= size && n < 64; i++) {
        if (i < size && data[i] != ',' && data[i] != '\n')
            continue;
        field[n++] = (struct task_field){data + begin, i - begin};
        begin = i + 1;
        if (i < size && data[i] == ',')
            continue;
        if (!has_header && task_columns_parse(&c, field, n, &err) != 0)
            return;
        if (has_header && question_parse(&q, &c, field, n, &err) == 0 &&
            (c.kind == TASK_CHOICE) != (q.n_choices >= 2 && q.label < q.n_choices))
            abort();
        has_header = true;
        n = 0;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check_prompt(data, size);
    check_task((const char *)data, size);
    return 0;
}
