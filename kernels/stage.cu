/* stage: uploads and downloads; see stage.cuh.
 *
 * Uploads are copied into a ring of page-locked segments and sent from there, so that the host goes
 * on at once. A segment that was left is taken again only after the event that was recorded behind
 * its last copy: only an upload larger than the ring (weights) waits, for its own beginning. A
 * large download goes straight to the host's memory.
 *
 * A few words, which a decode step sends and gets, are moved by kernels, up as arguments: the copy
 * engine takes up to 10 us to begin. */
#include "stage.cuh"

#include <cstdlib>
#include <cstring>

enum : size_t {
    SEGMENT_BYTES = 256 << 10,
    SEGMENTS = 8,
    ALIGN = 64,
    LATER_BYTES = 32 << 10,
    FEW_BYTES = 1024
};
enum : size_t { DOWNLOADS = SEGMENTS * SEGMENT_BYTES, LATER = DOWNLOADS + SEGMENT_BYTES };

/* A download that was begun. */
struct later {
    void *host; /* NULL: it is there already */
    size_t bytes;
    cudaEvent_t passed;
};

struct few_words {
    uint32_t word[FEW_BYTES / 4];
};

/* One block. */
static __global__ void k_upload(uint32_t *to, few_words from, int n)
{
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x)
        to[i] = from.word[i];
}

/* One block; page-locked memory of the host has the same address on the device. */
static __global__ void k_download(uint32_t *to, const uint32_t *from, int n)
{
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x)
        to[i] = from[i];
}

struct cuda_stage {
    /* SEGMENTS for uploads; at DOWNLOADS one for downloads, at LATER those that were begun */
    uint8_t *ring;
    size_t segment, at;
    cudaEvent_t passed[SEGMENTS];
    bool is_used[SEGMENTS]; /* passed was recorded */
    struct later later[DEV_DOWNLOADS];
    unsigned n_begun, n_ended;
};

cudaError_t stage_open(struct cuda_stage **stage)
{
    struct cuda_stage *s = (struct cuda_stage *)calloc(1, sizeof *s);
    *stage = s;
    if (!s)
        return cudaErrorMemoryAllocation;
    cudaError_t e = cudaMallocHost((void **)&s->ring, LATER + DEV_DOWNLOADS * LATER_BYTES);
    for (size_t i = 0; i < SEGMENTS && e == cudaSuccess; i++)
        e = cudaEventCreateWithFlags(&s->passed[i], cudaEventDisableTiming);
    for (size_t i = 0; i < DEV_DOWNLOADS && e == cudaSuccess; i++)
        e = cudaEventCreateWithFlags(&s->later[i].passed, cudaEventDisableTiming);
    return e;
}

void stage_close(struct cuda_stage *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < SEGMENTS; i++)
        if (s->passed[i])
            cudaEventDestroy(s->passed[i]);
    for (size_t i = 0; i < DEV_DOWNLOADS; i++)
        if (s->later[i].passed)
            cudaEventDestroy(s->later[i].passed);
    if (s->ring)
        cudaFreeHost(s->ring);
    free(s);
}

/* Leaves the segment that is being filled for the next one. */
static cudaError_t turn(struct cuda_stage *s, cudaStream_t stream)
{
    const cudaError_t e = cudaEventRecord(s->passed[s->segment], stream);
    s->is_used[s->segment] = true;
    s->segment = (s->segment + 1) % SEGMENTS;
    s->at = 0;
    if (e != cudaSuccess || !s->is_used[s->segment])
        return e;
    return cudaEventSynchronize(s->passed[s->segment]);
}

static bool is_few(const void *on_device, size_t bytes)
{
    return bytes > 0 && bytes <= FEW_BYTES && bytes % 4 == 0 && (uintptr_t)on_device % 4 == 0;
}

void stage_upload(struct dev *dev, void *to, const void *host, size_t bytes)
{
    struct cuda *c = cuda_of(dev);
    struct cuda_stage *s = c->stage;
    cudaError_t e = cudaSuccess;
    if (is_few(to, bytes)) {
        few_words words;
        memcpy(words.word, host, bytes);
        launch(dev, "upload", k_upload, 1, 64, 0, (uint32_t *)to, words, (int)(bytes / 4));
        return;
    }
    for (size_t done = 0; done < bytes && e == cudaSuccess;) {
        const size_t left = bytes - done, n = left < SEGMENT_BYTES ? left : SEGMENT_BYTES;
        if (s->at + n > SEGMENT_BYTES)
            e = turn(s, c->stream);
        if (e != cudaSuccess)
            break;
        uint8_t *p = s->ring + s->segment * SEGMENT_BYTES + s->at;
        memcpy(p, (const uint8_t *)host + done, n);
        s->at += (n + ALIGN - 1) / ALIGN * ALIGN;
        e = cudaMemcpyAsync((uint8_t *)to + done, p, n, cudaMemcpyHostToDevice, c->stream);
        done += n;
    }
    cuda_note(dev, e, "upload");
}

void stage_download(struct dev *dev, void *host, const void *from, size_t bytes)
{
    struct cuda *c = cuda_of(dev);
    const bool is_small = bytes <= SEGMENT_BYTES;
    void *to = is_small ? c->stage->ring + DOWNLOADS : host;
    if (bytes == 0)
        return;
    cudaError_t e = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, c->stream);
    if (e == cudaSuccess)
        e = cudaStreamSynchronize(c->stream);
    cuda_note(dev, e, "download");
    if (e != cudaSuccess)
        memset(host, 0, bytes);
    else if (is_small)
        memcpy(host, to, bytes);
}

void stage_download_begin(struct dev *dev, void *host, const void *from, size_t bytes)
{
    struct cuda *c = cuda_of(dev);
    struct cuda_stage *s = c->stage;
    const unsigned i = s->n_begun++ % DEV_DOWNLOADS;
    struct later *l = &s->later[i];
    assert(s->n_begun - s->n_ended <= DEV_DOWNLOADS);
    l->host = NULL;
    if (bytes > LATER_BYTES) {
        stage_download(dev, host, from, bytes);
        return;
    }
    l->host = host;
    l->bytes = bytes;
    uint8_t *to = s->ring + LATER + i * LATER_BYTES;
    cudaError_t e = cudaSuccess;
    if (is_few(from, bytes))
        launch(dev, "download", k_download, 1, 32, 0, (uint32_t *)to, (const uint32_t *)from,
               (int)(bytes / 4));
    else
        e = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, c->stream);
    if (e == cudaSuccess)
        e = cudaEventRecord(l->passed, c->stream);
    cuda_note(dev, e, "download");
}

void stage_download_end(struct dev *dev)
{
    struct cuda_stage *s = cuda_of(dev)->stage;
    assert(s->n_ended < s->n_begun);
    const unsigned i = s->n_ended++ % DEV_DOWNLOADS;
    const struct later *l = &s->later[i];
    if (!l->host)
        return;
    cuda_note(dev, cudaEventSynchronize(l->passed), "download");
    if (cuda_of(dev)->failed != cudaSuccess)
        memset(l->host, 0, l->bytes);
    else
        memcpy(l->host, s->ring + LATER + i * LATER_BYTES, l->bytes);
}
