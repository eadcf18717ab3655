/* graph: ops->run as CUDA graphs; see graph.cuh.
 *
 * A key's first run is a plain one: it loads kernels, picks the products' algorithms and may be the
 * only one. The second is recorded, and launched from then on. What cannot be recorded runs plainly
 * for good. The table is small and the entry that was not used for the longest time makes room, so
 * that a chat of ever new shapes does not fill the GPU with recordings. */
#include "graph.cuh"

#include <cstdlib>

enum { MAX_GRAPHS = 96 };

enum graph_state { GRAPH_SEEN, GRAPH_RECORDED, GRAPH_PLAIN };

struct graph {
    uint64_t key, used_at;
    enum graph_state state;
    cudaGraphExec_t exec; /* of GRAPH_RECORDED */
};

struct cuda_graphs {
    struct graph graph[MAX_GRAPHS];
    int n;
    uint64_t clock;
    bool is_recording;
};

struct cuda_graphs *graph_open(void)
{
    return (struct cuda_graphs *)calloc(1, sizeof(struct cuda_graphs));
}

static void drop(struct graph *g)
{
    if (g->state == GRAPH_RECORDED)
        cudaGraphExecDestroy(g->exec);
    *g = graph{};
}

void graph_close(struct cuda_graphs *graphs)
{
    for (int i = 0; graphs && i < graphs->n; i++)
        drop(&graphs->graph[i]);
    free(graphs);
}

void graph_forget(struct dev *dev)
{
    struct cuda_graphs *graphs = cuda_of(dev)->graphs;
    if (graphs->n == 0)
        return;
    cuda_note(dev, cudaStreamSynchronize(cuda_of(dev)->stream), "forget");
    for (int i = 0; i < graphs->n; i++)
        drop(&graphs->graph[i]);
    graphs->n = 0;
}

/* The key's entry, *is_new where it has just been made. */
static struct graph *find(struct cuda_graphs *graphs, uint64_t key, bool *is_new)
{
    struct graph *oldest = &graphs->graph[0];
    *is_new = false;
    for (int i = 0; i < graphs->n; i++) {
        struct graph *g = &graphs->graph[i];
        if (g->key == key)
            return g;
        if (g->used_at < oldest->used_at)
            oldest = g;
    }
    *is_new = true;
    struct graph *g = graphs->n < MAX_GRAPHS ? &graphs->graph[graphs->n++] : oldest;
    drop(g); /* one that is under way is let go when it is done */
    g->key = key;
    return g;
}

/* Records work into g. What fails on the way is no failure of the device: the plain run that
 * follows tells. */
static bool record(struct dev *dev, struct graph *g, void (*work)(void *), void *arg)
{
    struct cuda *c = cuda_of(dev);
    cudaGraph_t graph = NULL;
    if (cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess)
        return false;
    c->graphs->is_recording = true;
    work(arg);
    c->graphs->is_recording = false;
    cudaError_t e = cudaStreamEndCapture(c->stream, &graph);
    if (e == cudaSuccess)
        e = c->failed;
    c->failed = cudaSuccess;
    if (e == cudaSuccess)
        e = cudaGraphInstantiate(&g->exec, graph, 0);
    if (graph)
        cudaGraphDestroy(graph);
    return e == cudaSuccess;
}

void graph_run(struct dev *dev, uint64_t key, void (*work)(void *), void *arg)
{
    struct cuda *c = cuda_of(dev);
    bool is_new;
    if (c->graphs->is_recording || c->failed != cudaSuccess) {
        work(arg);
        return;
    }
    struct graph *g = find(c->graphs, key, &is_new);
    g->used_at = ++c->graphs->clock;
    if (!is_new && g->state == GRAPH_SEEN) {
        g->state = record(dev, g, work, arg) ? GRAPH_RECORDED : GRAPH_PLAIN;
        if (g->state == GRAPH_PLAIN)
            cudaGetLastError(); /* what a capture left behind */
    }
    if (g->state == GRAPH_RECORDED)
        cuda_note(dev, cudaGraphLaunch(g->exec, c->stream), "run");
    else
        work(arg);
}
