#!/bin/bash
# format: the sources are as clang-format would write them.
. "$(dirname "$0")/../tap.sh"
mapfile -t files < <(ls bin/*.[ch] lib/*.[ch] lib/*.cpp lib/cpu/*.[ch] tests/*.h tests/*/*.[ch] tests/emu/*.cpp tests/emu/self/* kernels/*.cu kernels/*.cuh 2>/dev/null)
if command -v clang-format >/dev/null; then
    ok_none 'the sources are formatted (else: make format)' \
        "$(clang-format --dry-run -Werror "${files[@]}" 2>&1 | grep -E 'error:' | cut -d: -f1 | sort | uniq -c)"
else
    skip 'the sources are formatted' 'there is no clang-format'
fi
done_testing
