/* emu_stream: streams, events and graphs. Work is a closure: done at once, kept in the stream's
 * queue until something waits for it (hm_emu_set_deferred), or put into a graph. */
#include "emu_stream.h"
#include "emu_block.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <string>

typedef std::function<void()> work;

struct CUgraph_st {
    std::vector<work> nodes;
};
struct CUgraphExec_st {
    std::vector<work> nodes;
};
struct CUstream_st {
    std::deque<work> queue;
    size_t n_done;
    CUgraph_st *into; /* the graph that is being captured */
    bool is_spoilt;   /* the capture failed */
    unsigned flags;
};
struct CUevent_st {
    cudaStream_t stream;
    CUgraph_st *into;
    size_t mark; /* done when the stream has done so many */
    std::chrono::steady_clock::time_point at;
};

namespace emu
{
static CUstream_st first; /* what a NULL stream means */
static std::vector<cudaStream_t> streams;
static bool is_deferred;

static cudaStream_t real(cudaStream_t s)
{
    return s ? s : &first;
}

static void drain(cudaStream_t s, size_t upto = ~(size_t)0)
{
    while (!s->queue.empty() && s->n_done < upto) {
        const work w = std::move(s->queue.front());
        s->queue.pop_front();
        s->n_done++;
        w();
    }
}

/* The NULL stream waits for those that do not say otherwise. */
static void drain_blocking()
{
    drain(&first);
    for (cudaStream_t s : streams)
        if (!(s->flags & cudaStreamNonBlocking))
            drain(s);
}

void drain_all()
{
    drain(&first);
    for (cudaStream_t s : streams)
        drain(s);
}

cudaError_t refuse_in_capture(const char *what)
{
    bool is_refused = false;
    for (cudaStream_t s : streams)
        if (s->into) {
            s->is_spoilt = true;
            is_refused = true;
        }
    if (!is_refused)
        return cudaSuccess;
    note_fault((std::string(what) + " while a stream is captured").c_str());
    return set_error(cudaErrorStreamCaptureUnsupported);
}

cudaError_t enqueue(cudaStream_t given, work w)
{
    cudaStream_t s = real(given);
    if (s->into) {
        s->into->nodes.push_back(std::move(w));
        return cudaSuccess;
    }
    if (sticky_error() != cudaSuccess)
        return sticky_error();
    if (s == &first) {
        if (const cudaError_t e = refuse_in_capture("work on the NULL stream"))
            return e;
        drain_blocking();
    }
    s->queue.push_back(std::move(w));
    if (!is_deferred)
        drain(s);
    return sticky_error();
}
} // namespace emu

using namespace emu;

void hm_emu_set_deferred(int is_on)
{
    drain_all();
    is_deferred = is_on != 0;
}

cudaError_t cudaDeviceSynchronize(void)
{
    if (const cudaError_t e = refuse_in_capture("cudaDeviceSynchronize"))
        return e;
    drain_all();
    return sticky_error();
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags)
{
    *s = new CUstream_st{};
    (*s)->flags = flags;
    streams.push_back(*s);
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *s)
{
    return cudaStreamCreateWithFlags(s, cudaStreamDefault);
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    drain(s);
    streams.erase(std::find(streams.begin(), streams.end(), s));
    delete s;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    if (real(s)->into)
        return refuse_in_capture("cudaStreamSynchronize");
    if (s)
        drain(s);
    else
        drain_blocking();
    return sticky_error();
}

cudaError_t cudaStreamQuery(cudaStream_t s)
{
    return real(s)->queue.empty() ? sticky_error() : cudaErrorNotReady;
}

/* --- events --- */
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    *e = new CUevent_st{};
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *e)
{
    return cudaEventCreateWithFlags(e, cudaEventDefault);
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t given)
{
    cudaStream_t s = real(given);
    e->stream = s;
    e->into = s->into;
    e->mark = s->n_done + s->queue.size();
    e->at = std::chrono::steady_clock::now();
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    if (e->stream)
        drain(e->stream, e->mark);
    return sticky_error();
}

cudaError_t cudaEventQuery(cudaEvent_t e)
{
    return e->stream && e->stream->n_done < e->mark ? cudaErrorNotReady : sticky_error();
}

cudaError_t cudaStreamWaitEvent(cudaStream_t given, cudaEvent_t e, unsigned)
{
    cudaStream_t s = real(given);
    if (e->into) { /* a fork: the stream joins the capture, in program order */
        s->into = e->into;
        return cudaSuccess;
    }
    if (!e->stream)
        return cudaSuccess;
    cudaStream_t other = e->stream;
    const size_t mark = e->mark;
    return enqueue(s, [other, mark] { drain(other, mark); });
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end)
{
    *ms = std::chrono::duration<float, std::milli>(end->at - begin->at).count();
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    delete e;
    return cudaSuccess;
}

/* --- graphs --- */
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode)
{
    if (!s || s->into) {
        note_fault("a capture of the NULL stream, or a second one of the same");
        return set_error(cudaErrorInvalidValue);
    }
    s->into = new CUgraph_st{};
    s->is_spoilt = false;
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus *status)
{
    *status = !real(s)->into       ? cudaStreamCaptureStatusNone
              : real(s)->is_spoilt ? cudaStreamCaptureStatusInvalidated
                                   : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g)
{
    if (!s->into)
        return set_error(cudaErrorInvalidValue);
    CUgraph_st *graph = s->into;
    for (cudaStream_t other : streams)
        if (other->into == graph)
            other->into = nullptr;
    *g = nullptr;
    if (s->is_spoilt) {
        delete graph;
        return set_error(cudaErrorStreamCaptureInvalidated);
    }
    *g = graph;
    return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t g, cudaGraphNode_t *, size_t *n)
{
    *n = g->nodes.size();
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long)
{
    *x = new CUgraphExec_st{g->nodes};
    return cudaSuccess;
}

cudaError_t cudaGraphExecUpdate(cudaGraphExec_t x, cudaGraph_t g,
                                cudaGraphExecUpdateResultInfo *info)
{
    if (info)
        *info = {};
    if (x->nodes.size() != g->nodes.size())
        return cudaErrorGraphExecUpdateFailure;
    x->nodes = g->nodes;
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t)
{
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s)
{
    for (const work &w : x->nodes)
        if (const cudaError_t e = enqueue(s, w))
            return e;
    return sticky_error();
}

cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    delete g;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x)
{
    delete x;
    return cudaSuccess;
}
