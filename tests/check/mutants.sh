#!/bin/bash
# mutants: the faults that `make check` plants in copies of the kernels (tests/emu/mutate.sh) still
# have their places there; a kernel that was rewritten may have lost one.
exec "$(dirname "$0")/../emu/mutate.sh" --places
