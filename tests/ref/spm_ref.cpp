// spm_ref: see spm_ref.h.
#include "spm_ref.h"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <string>
#include <unordered_map>
#include <vector>

struct spm_ref {
    sentencepiece::SentencePieceProcessor processor;
};

int spm_ref_open(struct spm_ref **r, const void *model, size_t n, struct err *err)
{
    *r = new spm_ref;
    const auto status = (*r)->processor.LoadFromSerializedProto(
        absl::string_view(static_cast<const char *>(model), n));
    if (status.ok())
        return 0;
    spm_ref_close(*r);
    *r = nullptr;
    return err_set(err, nullptr, nullptr, "sentencepiece: %s", status.ToString().c_str());
}

int spm_ref_encode(const struct spm_ref *r, const void *text, size_t n, struct ids *to,
                   struct err *err)
{
    std::vector<int> ids;
    const auto status =
        r->processor.Encode(absl::string_view(static_cast<const char *>(text), n), &ids);
    if (!status.ok())
        return err_set(err, nullptr, nullptr, "sentencepiece: %s", status.ToString().c_str());
    for (const int id : ids)
        TRY(ids_put(to, id, err));
    return 0;
}

int spm_ref_vocab(const struct spm_ref *r)
{
    return r->processor.GetPieceSize();
}

const char *spm_ref_piece(const struct spm_ref *r, int id, size_t *n)
{
    *n = r->processor.IdToPiece(id).size();
    return r->processor.IdToPiece(id).data();
}

float spm_ref_score(const struct spm_ref *r, int id)
{
    return r->processor.GetScore(id);
}

void spm_ref_close(struct spm_ref *r)
{
    delete r;
}

namespace
{

class Lines : public sentencepiece::SentenceIterator
{
  public:
    Lines(const char *const *lines, size_t n) : lines_(lines), n_(n)
    {
        Next();
    }
    bool done() const override
    {
        return at_ > n_;
    }
    void Next() override
    {
        if (at_ < n_)
            line_ = lines_[at_];
        at_++;
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
    const char *const *lines_;
    size_t n_, at_ = 0;
    std::string line_;
};

} // namespace

int spm_ref_train(const struct spm_spec *spec, const char *const *lines, size_t n,
                  struct buf *model, struct err *err)
{
    Lines iterator(lines, n);
    std::string markers, bytes;
    for (const char *const *m = spm_markers; *m; m++)
        markers += (markers.empty() ? "" : ",") + std::string(*m);
    const std::unordered_map<std::string, std::string> args = {
        {"model_type", "bpe"},
        {"vocab_size", std::to_string(spec->vocab)},
        {"hard_vocab_limit", "false"},
        {"character_coverage", std::to_string(spec->coverage)},
        {"max_sentencepiece_length", std::to_string(spec->max_chars)},
        {"max_sentence_length", "1000000"},
        {"normalization_rule_name", "identity"},
        {"add_dummy_prefix", "false"},
        {"remove_extra_whitespaces", "false"},
        {"allow_whitespace_only_pieces", spec->has_space_runs ? "true" : "false"},
        {"byte_fallback", "true"},
        {"split_digits", "true"},
        {"pad_id", "3"},
        {"control_symbols", markers},
        {"num_threads", "1"},
        {"minloglevel", "2"}};
    const auto status = sentencepiece::SentencePieceTrainer::Train(args, &iterator, &bytes);
    if (!status.ok())
        return err_set(err, nullptr, nullptr, "sentencepiece: %s", status.ToString().c_str());
    return buf_put(model, bytes.data(), bytes.size(), err);
}
