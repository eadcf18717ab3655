// spm: trains through libsentencepiece; see spm.h.
//
// Words come with their counts, so the library's memory grows with the distinct words, not with the
// text. Nothing of the run (paths, times, threads) gets into the model.
#include "spm.h"

#include <sentencepiece_trainer.h>

#include <exception>
#include <string>
#include <thread>
#include <unordered_map>

extern "C" const char *const spm_markers[] = {"<|system|>",    "<|user|>",      "<|assistant|>",
                                              "<|end|>",       "<|tool|>",      "<|reserved0|>",
                                              "<|reserved1|>", "<|reserved2|>", nullptr};

namespace
{

// Hands the library lines of its tsv form: word, tab, count.
class Words : public sentencepiece::SentenceIterator
{
  public:
    Words(const spm_word *words, size_t n) : words_(words), n_(n)
    {
        make_line();
    }
    bool done() const override
    {
        return at_ == n_;
    }
    void Next() override
    {
        at_++;
        make_line();
    }
    const std::string &value() const override
    {
        return line_;
    }
    sentencepiece::util::Status status() const override
    {
        return {};
    }

  private:
    void make_line()
    {
        if (at_ == n_)
            return;
        line_.assign(reinterpret_cast<const char *>(words_[at_].text), words_[at_].n);
        line_ += '\t';
        line_ += std::to_string(words_[at_].count);
    }
    const spm_word *words_;
    size_t n_, at_ = 0;
    std::string line_;
};

std::unordered_map<std::string, std::string> arguments(const spm_spec *spec)
{
    std::string markers;
    for (const char *const *m = spm_markers; *m; m++)
        markers += (markers.empty() ? "" : ",") + std::string(*m);
    return {{"model_type", "bpe"},
            {"input_format", "tsv"},
            {"vocab_size", std::to_string(spec->vocab)},
            {"hard_vocab_limit", "false"}, // the caller says how many there could be
            {"character_coverage", std::to_string(spec->coverage)},
            {"max_sentencepiece_length", std::to_string(spec->max_chars)},
            {"normalization_rule_name", "identity"},
            {"add_dummy_prefix", "false"},
            {"remove_extra_whitespaces", "false"},
            {"allow_whitespace_only_pieces", spec->has_space_runs ? "true" : "false"},
            {"byte_fallback", "true"},
            {"split_digits", "true"},
            {"unk_id", "0"},
            {"bos_id", "1"},
            {"eos_id", "2"},
            {"pad_id", "3"},
            {"control_symbols", markers},
            {"num_threads", "1"},
            {"minloglevel", "2"}};
}

struct job {
    const spm_spec *spec;
    const spm_word *words;
    size_t n;
    std::string model, error;
};

void train(job *j)
{
    try {
        Words words(j->words, j->n);
        const auto status =
            sentencepiece::SentencePieceTrainer::Train(arguments(j->spec), &words, &j->model);
        if (!status.ok())
            j->error = status.ToString();
    } catch (const std::exception &e) {
        j->error = e.what();
    }
}

int fail(const std::string &why, struct err *err)
{
    int vocab, least;
    const auto at = why.find("smaller than required_chars. ");
    if (at != std::string::npos &&
        sscanf(why.c_str() + at, "smaller than required_chars. %d vs %d", &vocab, &least) == 2)
        return err_set(err, nullptr, "raise --vocab, or lower --coverage",
                       "the text has too many different characters: they, the bytes and the "
                       "special pieces need a vocabulary of %d, not %d",
                       least, vocab);
    return err_set(err, nullptr, nullptr, "sentencepiece cannot train: %s", why.c_str());
}

} // namespace

int spm_train(const struct spm_spec *spec, const struct spm_word *words, size_t n,
              struct buf *model, struct err *err)
{
    if (n == 0)
        return err_set(err, nullptr, "give it text", "there are no words to train on");
    job j = {spec, words, n, {}, {}};
    try {
        // The library breaks some ties by the address of an object. A new thread allocates from a
        // heap of its own, so that these do not depend on what the process did before.
        std::thread(train, &j).join();
        if (!j.error.empty())
            return fail(j.error, err);
    } catch (const std::exception &e) {
        return fail(e.what(), err);
    }
    return buf_put(model, j.model.data(), j.model.size(), err);
}
