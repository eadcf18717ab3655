/* emu_stream: streams as the rest of the runtime sees them. */
#ifndef HM_EMU_STREAM_H
#define HM_EMU_STREAM_H

#include "emu_launch.h"

namespace emu
{
void drain_all(); /* does all deferred work */
/* An error while any stream is captured, and the end of that capture. */
cudaError_t refuse_in_capture(const char *what);
} // namespace emu

#endif
