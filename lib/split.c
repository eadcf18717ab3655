/* split: reads the name of a way to separate documents; see split.h. */
#include "split.h"

#include <stdio.h>
#include <string.h>

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One byte of a separator, perhaps escaped; moves *p behind it. -1: no such escape. */
static int next_byte(const char **p)
{
    const char c = *(*p)++;
    if (c != '\\')
        return (unsigned char)c;
    const char e = **p ? *(*p)++ : '\0';
    if (e == 'x') {
        const int high = hex_digit(**p), low = high < 0 ? -1 : hex_digit((*p)[1]);
        *p += low < 0 ? 0 : 2;
        return low < 0 ? -1 : high << 4 | low;
    }
    static const char from[] = "nrt0\\", to[] = "\n\r\t\0\\";
    const char *at = e ? strchr(from, e) : NULL;
    return at ? (unsigned char)to[at - from] : -1;
}

static int parse_sep(struct split *s, const char *bytes, struct err *err)
{
    while (*bytes) {
        const int b = next_byte(&bytes);
        if (b < 0)
            return err_set(err, NULL, "write \\n, \\r, \\t, \\0, \\\\ or \\xHH",
                           "the separator has an escape that does not exist");
        if (s->n_sep == SPLIT_SEP_BYTES)
            return err_set(err, NULL, NULL, "the separator is longer than %d bytes",
                           SPLIT_SEP_BYTES);
        s->sep[s->n_sep++] = (uint8_t)b;
    }
    return s->n_sep ? 0
                    : err_set(err, NULL, "give its bytes, as in sep:\\n\\n\\n",
                              "the separator is empty");
}

static int parse_field(struct split *s, const char *name, struct err *err)
{
    if (strlen(name) >= sizeof s->field)
        return err_set(err, NULL, NULL, "the name of the field is longer than %d bytes",
                       SPLIT_FIELD_BYTES - 1);
    if (!*name)
        return err_set(err, NULL, "as in jsonl:text or csv:text", "the field has no name");
    snprintf(s->field, sizeof s->field, "%s", name);
    return 0;
}

int split_parse(struct split *s, const char *spec, struct err *err)
{
    static const struct {
        const char *name;
        enum split_kind kind;
        const char *sep;
        size_t n_sep;
    } plain[] = {
        {"line", SPLIT_LINE, "\n", 1},
        {"para", SPLIT_PARA, "\n\n", 2},
        {"nul", SPLIT_NUL, "\0", 1},
        {"whole", SPLIT_WHOLE, "", 0},
    };
    *s = (struct split){0};
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        if (strcmp(spec, plain[i].name) != 0)
            continue;
        s->kind = plain[i].kind;
        s->n_sep = plain[i].n_sep;
        memcpy(s->sep, plain[i].sep, s->n_sep);
        return 0;
    }
    if (strncmp(spec, "sep:", 4) == 0) {
        s->kind = SPLIT_SEP;
        return parse_sep(s, spec + 4, err);
    }
    s->sep[0] = '\n';
    s->n_sep = 1;
    if (strncmp(spec, "jsonl:", 6) == 0) {
        s->kind = SPLIT_JSONL;
        return parse_field(s, spec + 6, err);
    }
    if (strncmp(spec, "csv:", 4) == 0) {
        s->kind = SPLIT_CSV;
        return parse_field(s, spec + 4, err);
    }
    return err_set(err, NULL, "use line, para, nul, sep:BYTES, whole, jsonl:FIELD or csv:COLUMN",
                   "there is no way '%.60s' to separate documents", spec);
}
