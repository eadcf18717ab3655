#!/bin/bash
# mutate: plants a fault in a copy of a kernel, builds the emulated backend with it, and demands that
# the op's test fails. `make check` runs it, in a plain build, with the compiler's command in
# HM_EMU_CXX and the folder of the build in HM_BUILD.
. "$(dirname "$0")/../tap.sh"

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp/tests/ops"

# mutant NAME TEST FILE SED: with the fault, the test says `not ok` or does not come to its end.
mutant() {
    local name=$1 test=$2 file=$3 edit=$4 object
    rm -rf "$tmp/kernels"
    cp -r kernels "$tmp/kernels"
    sed -i "$edit" "$tmp/kernels/$file"
    if cmp -s "kernels/$file" "$tmp/kernels/$file"; then
        ok 1 "$name: the place is still there" "$file: $edit"
        return
    fi
    object=$HM_BUILD/emu/kernels/${5:-$file}.o
    if ! $HM_EMU_CXX -I"$tmp/kernels" -c -o "$tmp/mutant.o" -x c++ "$tmp/kernels/${5:-$file}" 2>"$tmp/log" ||
        ! $HM_EMU_CXX -shared -o "$tmp/libhm-emu.so" -x none "$tmp/mutant.o" $(objects "$object") -lm -ldl 2>>"$tmp/log"; then
        ok 1 "$name: compiles" "$(cat "$tmp/log")"
        return
    fi
    cp "$HM_BUILD/tests/ops/test_$test" "$tmp/tests/ops/"
    local out=$tmp/out status=0
    timeout 120 "$tmp/tests/ops/test_$test" --device=emu 2>/dev/null |
        awk '{ print } /^not ok/ { exit 3 } /^1\.\./ { ended = 1 } END { if (!ended) exit 3 }' >"$out" || status=$?
    [ "$status" -ne 0 ]
    ok $? "$name: test_$test sees it"
}

# All objects of the library but one.
objects() { find "$HM_BUILD/emu" -name '*.o' ! -path '*/self/*' ! -path "$1"; }

mutant 'a barrier is missing where warps join' xent xent.cu '0,/__syncthreads();/s///'
mutant 'the target is overwritten before it is read' xent xent.cu 's,__syncthreads(); /\* every thread.*,,'
mutant 'the first barrier of attention' attn attn.cu '0,/__syncthreads();/s///'
done_testing
