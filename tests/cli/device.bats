#!/usr/bin/env bats
# device: what --device and --dtype open, and the one line where they open nothing.
load helper

setup() {
    cd "$BATS_TEST_TMPDIR"
}

has_library() { [ -e "${HM_BUILD:-$BATS_TEST_DIRNAME/../../build/last}/libhm-cuda.so" ]; }
has_gpu() { [ -e /dev/nvidiactl ]; }

plan() { hm-train --plan --preset=tiny "$@"; }

# One line on stderr, nothing on stdout, status 1.
is_refused() {
    local status=0
    "$@" > out 2> err || status=$?
    [ "$status" -eq 1 ]
    [ ! -s out ]
    [ "$(wc -l < err)" -eq 1 ]
}

@test "a device that is none is refused by name" {
    for name in gpu cuda: cuda:x cuda:-1 cuda:1x cpux emus; do
        is_refused plan --device="$name"
        grep -q "there is no device '$name'" err
    done
}

@test "without a driver cuda gives one line, and auto the CPU" {
    has_library || skip 'no nvcc here'
    ! has_gpu || skip 'there is a GPU here'
    is_refused hm-bench --device=cuda --what=decode
    grep -qx 'hm-bench: cuda: no driver is loaded: .*' err
    plan -v > out 2> err
    grep -qx 'hm-train: the CPU is used, no GPU: cuda: no driver is loaded' err
    plan > out 2> err
    [ ! -s err ]
}

@test "without the library cuda gives one line" {
    ! has_library || skip 'the library is here'
    is_refused hm-bench --device=cuda --what=decode
    grep -q 'libhm-cuda.so: it is not beside the tools' err
}

@test "a plan for cuda needs no GPU" {
    has_library || skip 'no nvcc here'
    plan --device=cuda > out
    grep -q '^memory total,' out
    plan --device=cuda --dtype=f16 > half
    plan --device=cuda --dtype=f32 > full
    total() { awk -F, '$1 == "memory total" { print $2 }' "$1"; }
    [ "$(total half)" -eq "$(total out)" ]
    [ "$(total full)" -gt "$(total out)" ]
}

@test "the CPU has f32 and bf16, and auto is f32" {
    is_refused plan --device=cpu --dtype=f16
    grep -q 'f16 needs a GPU' err
    plan --device=cpu | grep -v free > auto
    plan --device=cpu --dtype=f32 | grep -v free > f32
    cmp auto f32
}

@test "--version says what is there" {
    hm-eval --version > out
    if has_library; then grep -q '^backends: cpu (.*), cuda$' out; else grep -q '^backends: cpu (.*)$' out; fi
}
