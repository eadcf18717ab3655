/* prompts: the records of hm-gen: prompts as JSON objects in, completions as lines or JSON objects
 * out. */
#ifndef HM_PROMPTS_H
#define HM_PROMPTS_H

#include "generate.h"

/* Parses one JSON object (n bytes) over the defaults: "prompt" (required string), "id" (string or
 * whole number, handed back), "stop" (string or list of strings, in place of the defaults'),
 * "logit_bias" (object of id: number, added to the defaults'), and every name of gen_set. V bounds
 * the ids. An unknown key is an error, so that a slip of the pen does not go unseen. *p is zeroed
 * or freed by the caller: gen_prompt_free, also after a failure. */
MUST_USE int prompt_parse(struct gen_prompt *p, const char *json, size_t n,
                          const struct gen_opts *defaults, int V, struct err *err);

/* Appends text with line breaks and backslashes escaped (\n, \r, \\), so that it fits a line. */
MUST_USE int text_escape(struct buf *to, const void *text, size_t n, struct err *err);
/* The reverse; a backslash before anything else stands for itself. */
MUST_USE int text_unescape(struct buf *to, const void *text, size_t n, struct err *err);
/* Appends a JSON string; each byte of ill-formed UTF-8 becomes U+FFFD. *is_exact is cleared when
 * that happened. */
MUST_USE int text_json(struct buf *to, const void *text, size_t n, bool *is_exact, struct err *err);

/* Appends text that is safe to show on a terminal: line breaks and tabs as they are, each other
 * control character and each byte of ill-formed UTF-8 as U+FFFD. */
MUST_USE int text_printable(struct buf *to, const void *text, size_t n, struct err *err);

struct result_opts {
    bool has_echo;  /* the prompt too */
    bool has_rates; /* JSON: tokens a second, which differ from run to run */
};
/* Appends one JSON object and a line break: number, id, prompt (echo), text, is_utf8 (false: the
 * ids have the bytes that text has not), ids, logprobs, stop, stop_string, n_prompt, n_tokens,
 * read_tok_s, decode_tok_s. */
MUST_USE int result_json(struct buf *to, const struct gen_result *r, const struct result_opts *o,
                         struct err *err);

#endif
