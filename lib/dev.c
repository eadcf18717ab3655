/* dev: thin calls into the backend's table; see dev.h. */
#include "dev.h"
#include "ops.h"

int dev_alloc(struct dev *dev, void **p, size_t bytes, struct err *err)
{
    return dev->ops->alloc(dev, p, bytes ? bytes : 1, err);
}

void dev_free(struct dev *dev, void *p)
{
    if (p)
        dev->ops->free(dev, p);
}

void dev_zero(struct dev *dev, void *p, size_t bytes)
{
    dev->ops->zero(dev, p, bytes);
}

void dev_upload(struct dev *dev, void *to, const void *host, size_t bytes)
{
    dev->ops->upload(dev, to, host, bytes);
}

void dev_download(struct dev *dev, void *host, const void *from, size_t bytes)
{
    dev->ops->download(dev, host, from, bytes);
}

bool dev_is_async(const struct dev *dev)
{
    return dev->ops->download_begin != NULL;
}

void dev_download_begin(struct dev *dev, void *host, const void *from, size_t bytes)
{
    if (dev_is_async(dev))
        dev->ops->download_begin(dev, host, from, bytes);
    else
        dev->ops->download(dev, host, from, bytes);
}

void dev_download_end(struct dev *dev)
{
    if (dev_is_async(dev))
        dev->ops->download_end(dev);
}

void dev_copy(struct dev *dev, void *to, const void *from, size_t bytes)
{
    dev->ops->copy(dev, to, from, bytes);
}

void dev_sync(struct dev *dev)
{
    dev->ops->sync(dev);
}

int dev_status(struct dev *dev, struct err *err)
{
    return dev->ops->status ? dev->ops->status(dev, err) : 0;
}

void dev_run(struct dev *dev, uint64_t key, void (*work)(void *), void *arg)
{
    if (dev->ops->run)
        dev->ops->run(dev, key, work, arg);
    else
        work(arg);
}

void dev_forget(struct dev *dev)
{
    if (dev->ops->forget)
        dev->ops->forget(dev);
}

int dev_reserve(struct dev *dev, size_t bytes, struct err *err)
{
    if (bytes <= dev->work_bytes)
        return 0;
    dev_forget(dev);
    dev_free(dev, dev->work);
    dev->work = NULL;
    dev->work_bytes = 0;
    TRY(dev_alloc(dev, &dev->work, bytes, err));
    dev->work_bytes = bytes;
    return 0;
}

void dev_close(struct dev *dev)
{
    if (dev->ops) {
        dev_free(dev, dev->work);
        dev->ops->close(dev);
    }
    *dev = (struct dev){0};
}
