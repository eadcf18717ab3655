/* bench_data: see bench_data.h. */
#include "bench_data.h"
#include "rng.h"
#include "shard.h"
#include "words.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { SEED = 1, N_WORDS = 20000, WORDS_A_LINE = 12, DOC_TOKENS = 16384, CHUNK = 4096 };

/* --- text --- */

/* The word of that rank: frequent ones are short. */
static int put_word(struct buf *to, uint32_t rank, struct err *err)
{
    static const char *const onsets[] = {"t", "n", "s", "r", "l", "d", "m",  "k",
                                         "p", "b", "f", "g", "v", "w", "st", "ch"};
    static const char *const vowels[] = {"e", "a", "i", "o", "u", "ea", "ou", "ai"};
    do {
        TRY(buf_printf(to, err, "%s%s", onsets[rank % 16], vowels[rank / 16 % 8]));
        rank /= 128;
    } while (rank > 0);
    return 0;
}

int bench_data_text(struct buf *to, size_t n_bytes, struct err *err)
{
    const uint64_t stream = rng_stream(RNG_SHUFFLE, 0, 0);
    TRY(buf_reserve(to, n_bytes + 64, err));
    for (uint64_t i = 0; to->size < n_bytes; i++) {
        const double u = (double)rng_uniform(SEED, stream, i);
        TRY(put_word(to, (uint32_t)(pow(N_WORDS, u) - 1), err));
        TRY(buf_put(to, (i + 1) % WORDS_A_LINE ? " " : "\n", 1, err));
    }
    return 0;
}

int bench_data_tok(struct tok **tok, const struct buf *text, int n_ids, struct err *err)
{
    const struct spm_spec spec = {.vocab = n_ids, .coverage = 1, .max_chars = 16};
    struct words words = {0};
    struct buf model = {0};
    int rc = words_init(&words, 1 << 20, false, err);
    for (size_t begin = 0; rc == 0 && begin < text->size;) {
        size_t end = begin;
        while (end < text->size && text->data[end] != '\n')
            end++;
        rc = words_add(&words, text->data + begin, end - begin, err);
        begin = end + 1;
    }
    if (rc == 0)
        rc = spm_train(&spec, words.list, words.n, &model, err);
    if (rc == 0)
        rc = tok_open_bytes(tok, model.data, model.size, err);
    words_free(&words);
    buf_free(&model);
    return rc;
}

/* --- shards --- */

static int put_ids(struct shard_writer *w, int vocab, int64_t n_tokens, struct err *err)
{
    int32_t ids[CHUNK];
    const uint64_t stream = rng_stream(RNG_SHUFFLE, 1, 0);
    for (int64_t begin = 0; begin < n_tokens; begin += CHUNK) {
        const int64_t n = n_tokens - begin < CHUNK ? n_tokens - begin : CHUNK;
        for (int64_t i = 0; i < n; i++) {
            const double u = (double)rng_uniform(SEED, stream, (uint64_t)(begin + i));
            const bool is_end = (begin + i + 1) % DOC_TOKENS == 0;
            ids[i] = is_end ? ID_EOS : ID_PAD + (int32_t)(u * (vocab - ID_PAD));
        }
        TRY(shard_put(w, ids, (size_t)n, err));
    }
    return 0;
}

static int write_shard(struct shard_writer *w, const char *path, int vocab, int64_t n_tokens,
                       struct err *err)
{
    const struct stream_header h = {.width = vocab <= 65536 ? 2 : 4,
                                    .vocab = vocab,
                                    .eos = ID_EOS,
                                    .sep = STREAM_LINE,
                                    .sep_bytes = "\n",
                                    .sep_len = 1};
    struct out out;
    TRY(shard_writer_init(w, &h, 1, err));
    TRY(put_ids(w, vocab, n_tokens, err));
    TRY(out_open(&out, path, err));
    if (shard_write(w, &out, err) != 0) {
        out_abort(&out);
        return -1;
    }
    return out_commit(&out, err);
}

int bench_data_shard(char *folder, char *path, int vocab, int64_t n_tokens, struct err *err)
{
    struct shard_writer w = {0};
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, 256, "%.200s/hm-bench-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(folder)) {
        err_errno(err, folder, "name a writable folder in TMPDIR, or give shards", "cannot make");
        folder[0] = '\0';
        return -1;
    }
    if (io_join(path, 256, folder, "random.tok.zst", err) != 0)
        return -1;
    const int rc = write_shard(&w, path, vocab, n_tokens, err);
    shard_writer_free(&w);
    return rc;
}

void bench_data_remove(const char *folder, const char *path)
{
    if (!folder[0])
        return;
    unlink(path);
    rmdir(folder);
}
