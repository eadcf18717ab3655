/* Checkpoints: a final one written and read back, in f32 and bf16; a file as Hugging Face makes
 * them, with config.json beside it; F16; what must be refused. */
#include "ckpt.h"
#include "must.h"
#include "safetensors.h"
#include "tap.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[] = "/tmp/hm-ckpt-XXXXXX";

static const char *in_folder(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static struct config small_config(bool is_tied)
{
    struct config c = {.V = 40, .D = 32, .F = 24, .N = 8, .is_tied = is_tied, .pattern = "mtm"};
    config_derive(&c);
    return c;
}

static void save(const char *name, const struct config *c, const struct params *p, const float *w,
                 const struct buf *tok, enum dtype dtype)
{
    struct out out;
    struct err err;
    must(out_open(&out, in_folder(name), &err), &err);
    must(ckpt_save_model(c, p, w, tok, dtype, &out, &err), &err);
    must(out_commit(&out, &err), &err);
}

static bool same_values(const struct params *p, const float *a, const float *b, bool is_bf16)
{
    for (int i = 0; i < p->n; i++) {
        const struct param *t = &p->list[i];
        const bool is_wide = !t->is_matrix && t->init != INIT_CONV;
        for (size_t j = t->offset; j < t->offset + t->count; j++)
            if (a[j] != (is_bf16 && !is_wide ? bf16_to_f32(bf16_from_f32(b[j])) : b[j]))
                return false;
    }
    return true;
}

static void check_round_trip(bool is_tied, enum dtype dtype)
{
    const struct config c = small_config(is_tied);
    const char *name = dtype_name(dtype);
    struct params p;
    struct ckpt k;
    struct err err;
    struct buf tok = {0}, file = {0}, again = {0};
    must(params_open(&p, &c, &err), &err);
    float *w = malloc(p.count * sizeof *w);
    params_init(&p, &c, 1, w);
    if (dtype == DT_BF16)
        must(buf_put(&tok, "a tokenizer", 11, &err), &err);
    save("model.safetensors", &c, &p, w, &tok, dtype);
    ok(ckpt_load(&k, in_folder("model.safetensors"), &err) == 0, "%s: it loads", name);
    ok(memcmp(&k.c, &c, sizeof c) == 0 && k.params.n == p.n, "%s: with its config", name);
    ok(same_values(&p, k.weights, w, dtype == DT_BF16), "%s: its weights", name);
    ok(k.tok.size == tok.size && (tok.size == 0 || memcmp(k.tok.data, tok.data, tok.size) == 0),
       "%s: its tokenizer", name);
    ckpt_free(&k);
    ok(ckpt_load(&k, folder, &err) == 0, "%s: by its folder too", name);
    ckpt_free(&k);
    save("again", &c, &p, w, &tok, dtype);
    must(io_read_file(in_folder("model.safetensors"), &file, 1 << 24, &err), &err);
    must(io_read_file(in_folder("again"), &again, 1 << 24, &err), &err);
    ok(file.size == again.size && memcmp(file.data, again.data, file.size) == 0,
       "%s: the same model gives the same bytes", name);
    params_free(&p);
    buf_free(&file);
    buf_free(&again);
    buf_free(&tok);
    free(w);
}

/* A file without hm's metadata or checksums, with every tensor of the model made by `make`. */
struct foreign {
    const struct params *p;
    enum dtype dtype;
    int skip;          /* index of a tensor to leave out, -1: none */
    const char *extra; /* name of one more tensor, or NULL */
    bool is_flat;      /* conv1d weights without their middle dimension */
};

/* The value of every element, exact in all types. */
static float value_of(int param, size_t j)
{
    return (float)((param * 7 + (int)(j % 50)) % 64 - 32) / 16.0f;
}

static void put_tensor(struct buf *header, struct buf *data, const char *name,
                       const struct param *t, int index, const struct foreign *f)
{
    struct err err;
    const size_t begin = data->size;
    for (size_t j = 0; j < t->count; j++) {
        const float v = value_of(index, j);
        uint32_t bits;
        memcpy(&bits, &v, 4);
        const uint16_t bf16 = bf16_from_f32(v);
        const uint16_t f16 =
            v == 0.0f ? 0
                      : (uint16_t)((bits >> 16 & 0x8000u) | (((bits >> 23 & 255u) - 112u) << 10) |
                                   (bits >> 13 & 1023u));
        if (f->dtype == DT_F32)
            must(buf_put(data, &v, 4, &err), &err);
        else
            must(buf_put(data, f->dtype == DT_BF16 ? &bf16 : &f16, 2, &err), &err);
    }
    must(buf_printf(header, &err, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[",
                    header->size > 1 ? "," : "", name, dtype_name(f->dtype)),
         &err);
    const bool is_flat = f->is_flat && t->n_dims == 3;
    for (int d = 0; d < t->n_dims; d++)
        if (!is_flat || d != 1)
            must(buf_printf(header, &err, "%s%lld", d ? "," : "", (long long)t->dim[d]), &err);
    must(buf_printf(header, &err, "],\"data_offsets\":[%zu,%zu]}", begin, data->size), &err);
}

static void write_foreign(const struct foreign *f)
{
    struct buf header = {0}, data = {0};
    struct out out;
    struct err err;
    uint8_t length[8];
    must(buf_put(&header, "{", 1, &err), &err);
    for (int i = 0; i < f->p->n; i++)
        if (i != f->skip)
            put_tensor(&header, &data, f->p->list[i].name, &f->p->list[i], i, f);
    if (f->extra)
        put_tensor(&header, &data, f->extra, &f->p->list[f->p->final_norm], 0, f);
    must(buf_put(&header, "}", 1, &err), &err);
    set_u64(length, header.size);
    must(out_open(&out, in_folder("foreign"), &err), &err);
    must(out_write(&out, length, 8, &err), &err);
    must(out_write(&out, header.data, header.size, &err), &err);
    must(out_write(&out, data.data, data.size, &err), &err);
    must(out_commit(&out, &err), &err);
    buf_free(&header);
    buf_free(&data);
}

static void write_config(const struct config *c)
{
    struct buf text = {0};
    struct out out;
    struct err err;
    must(config_print(c, &text, &err), &err);
    must(out_open(&out, in_folder("config.json"), &err), &err);
    must(out_write(&out, text.data, text.size, &err), &err);
    must(out_commit(&out, &err), &err);
    buf_free(&text);
}

static void check_foreign(void)
{
    const struct config c = small_config(true);
    struct params p;
    struct ckpt k;
    struct err err;
    must(params_open(&p, &c, &err), &err);
    struct foreign f = {&p, DT_F32, -1, NULL, false};
    write_foreign(&f);
    ok(ckpt_load(&k, in_folder("foreign"), &err) != 0, "no config: %s", err.what);
    write_config(&c);
    const enum dtype types[] = {DT_F32, DT_BF16, DT_F16};
    for (int i = 0; i < 3; i++) {
        f.dtype = types[i];
        write_foreign(&f);
        ok(ckpt_load(&k, in_folder("foreign"), &err) == 0,
           "%s without checksums, config.json beside", dtype_name(f.dtype));
        bool is_same = true;
        for (int t = 0; t < p.n; t++)
            for (size_t j = 0; j < p.list[t].count; j++)
                is_same &= k.weights[p.list[t].offset + j] == value_of(t, j);
        ok(is_same && k.tok.size == 0, "with its values");
        ckpt_free(&k);
    }
    f.dtype = DT_F32;
    f.extra = "lm_head.weight";
    write_foreign(&f);
    ok(ckpt_load(&k, in_folder("foreign"), &err) == 0, "a tied model's head is not asked for");
    ckpt_free(&k);
    f.extra = "model.layers.0.block_sparse_moe.router.layer.weight";
    write_foreign(&f);
    ok(ckpt_load(&k, in_folder("foreign"), &err) != 0, "%s", err.what);
    f.extra = NULL;
    f.skip = 5;
    write_foreign(&f);
    ok(ckpt_load(&k, in_folder("foreign"), &err) != 0 && strstr(err.what, p.list[5].name), "%s",
       err.what);
    f.skip = -1;
    f.is_flat = true;
    write_foreign(&f);
    ok(ckpt_load(&k, in_folder("foreign"), &err) != 0, "%s", err.what);
    f.is_flat = false;
    struct config other = c;
    other.F = 48;
    write_config(&other);
    f.dtype = DT_F32;
    write_foreign(&f);
    ok(ckpt_load(&k, in_folder("foreign"), &err) != 0, "%s", err.what);
    ok(ckpt_load(&k, in_folder("nothing"), &err) != 0, "%s", err.what);
    params_free(&p);
}

static void check_damage(void)
{
    struct buf file = {0};
    struct err err;
    struct ckpt k;
    struct out out;
    int accepted = 0;
    must(io_read_file(in_folder("model.safetensors"), &file, 1 << 24, &err), &err);
    for (size_t at = 0; at < file.size; at += 1009) {
        file.data[at] ^= 4;
        must(out_open(&out, in_folder("bad"), &err), &err);
        must(out_write(&out, file.data, file.size, &err), &err);
        must(out_commit(&out, &err), &err);
        if (ckpt_load(&k, in_folder("bad"), &err) == 0) {
            accepted++;
            ckpt_free(&k);
        }
        file.data[at] ^= 4;
    }
    ok(accepted == 0, "no flipped bit is accepted");
    buf_free(&file);
}

int main(void)
{
    if (!mkdtemp(folder))
        return 1;
    check_round_trip(true, DT_F32);
    check_round_trip(false, DT_BF16);
    check_damage();
    check_foreign();
    const char *const names[] = {"model.safetensors", "again", "foreign", "config.json", "bad"};
    for (int i = 0; i < 5; i++)
        unlink(in_folder(names[i]));
    ok(rmdir(folder) == 0, "nothing is left behind");
    return tap_done();
}
