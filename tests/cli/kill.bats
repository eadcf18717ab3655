#!/usr/bin/env bats
# Runs that die: killed anywhere, stopped by signals, out of disk space, with nowhere to write. The
# last good checkpoint survives, and a resumed run ends with the bytes of one that was left alone.

load helper

options=(--preset=tiny --width=32 --mlp=48 --pattern=mtm --context=32 --state=16 --chunk=16 --batch=2
    --dropout=0.1 --valid=valid-00000.tok.zst --valid-every=20 --valid-tokens=128 --save-every=3 -j1)

setup() {
    fixture
    rm -rf run
}

train() {
    hm-train "${options[@]}" -q "$@" train-*.tok.zst
}

# Starts a run in the background, ready to be interrupted, and waits until it made `n` steps.
start() {
    local n=$1
    shift
    env --default-signal=INT,TERM hm-train "${options[@]}" -q "$@" -o run train-*.tok.zst 3>&- &
    pid=$!
    for _ in $(seq 500); do
        [ -e run/train.csv ] && [ "$(grep -c ^train, run/train.csv)" -ge "$n" ] && return
        sleep 0.02
    done
    return 1
}

# The status of the run that was started.
ended() {
    status=0
    wait "$pid" || status=$?
}

@test "killed ten times and resumed: the bytes of a run that was left alone" {
    begin=$(date +%s%N)
    train --max-steps=160 -o whole
    # so that ten of them come before the end: up to a fifth of the whole run's time
    longest=$((($(date +%s%N) - begin) / 5000000))
    kills=0
    tries=0
    while [ "$kills" -lt 10 ] && [ "$tries" -lt 60 ]; do
        tries=$((tries + 1))
        hm-train "${options[@]}" -q --resume --max-steps=160 -o run train-*.tok.zst 3>&- &
        pid=$!
        sleep "$(printf '0.%03d' $(((RANDOM % longest + 10) % 1000)))"
        kill -9 "$pid" 2>/dev/null || true
        ended
        if [ "$status" -eq 0 ]; then
            # the machine has less to do than when the whole run was timed: anew, with shorter waits
            rm -rf run
            longest=$((longest / 2 + 1))
            kills=0
            continue
        fi
        [ "$status" -eq 137 ] || break
        kills=$((kills + 1))
    done 2>/dev/null
    echo "$kills kills, status $status, $(ls run)"
    [ "$kills" -eq 10 ]
    train --resume --max-steps=160 -o run
    cmp whole/model.safetensors run/model.safetensors
    cmp whole/ckpt-00000160.safetensors run/ckpt-00000160.safetensors
    diff <(grep '^train\|^valid' whole/train.csv | cut -d, -f1-8) <(grep '^train\|^valid' run/train.csv | cut -d, -f1-8)
    no_leftovers run
}

@test "SIGTERM and SIGINT: the step is finished, a checkpoint saved, status 143 and 130" {
    for pair in TERM:143 INT:130; do
        rm -rf run
        start 5 --max-steps=1M --save-every=0 --valid-every=0
        kill -s "${pair%:*}" "$pid"
        ended
        [ "$status" -eq "${pair#*:}" ]
        step=$(grep ^train, run/train.csv | tail -n 1 | cut -d, -f2)
        [ -f "$(printf 'run/ckpt-%08d.safetensors' "$step")" ]
        [ ! -e run/model.safetensors ]
        no_leftovers run
        train --resume --max-steps=$((step + 2)) -o run
        [ -f run/model.safetensors ]
    done
}

@test "a second signal ends the run at once" {
    start 0 --max-steps=1M --save-every=0 --valid-every=0 --accum=60K # a step of minutes
    kill -INT "$pid"
    sleep 0.3
    kill -0 "$pid"
    kill -TERM "$pid"
    ended
    [ "$status" -eq 143 ]
    [ -z "$(ls run/ckpt-* 2>/dev/null)" ]
}

@test "a closed pipe is quiet" {
    set +o pipefail
    train --max-steps=2 -o - 2>said | true
    [ "${PIPESTATUS[0]}" -eq 141 ] || [ "${PIPESTATUS[0]}" -eq 0 ]
    [ ! -s said ]
}

@test "a full disk under stdout is status 1" {
    run bash -c 'hm-train "$@" -o - train-*.tok.zst >/dev/full' -- "${options[@]}" -q --max-steps=1
    [ "$status" -eq 1 ]
    says "No space left"
}

@test "a full disk under the log is told" {
    run train --max-steps=1 --log=/dev/full -o run
    [ "$status" -eq 1 ]
    says "hm-train: /dev/full: "
    says "No space left"
}

@test "a folder that cannot be is told" {
    run train --max-steps=1 -o tok.model
    [ "$status" -eq 1 ]
    says "hm-train: tok.model: "
    run train --max-steps=1 -o /proc/no/such
    [ "$status" -eq 1 ]
    says "hm-train: /proc/no"
}

@test "a full disk on the way: the last good checkpoint stands, and resumes" {
    train --max-steps=9 -o whole
    kib=$(($(du -k --apparent-size whole/ckpt-00000009.safetensors | cut -f1) * 17 / 10 + 80))
    mkdir disk
    mount -t tmpfs -o "size=${kib}k" tmpfs disk 2>/dev/null || skip "a small tmpfs takes root's rights to mount"
    status=0
    hm-train "${options[@]}" --max-steps=9 -o disk/run train-*.tok.zst 2>said || status=$?
    ls -l disk/run
    cat said
    left=$(find disk -name '*.tmp-*')
    step=$(find disk -name 'ckpt-*' | sort | head -n 1 | grep -o '[0-9]\{8\}')
    mount -o remount,size=50M disk
    cp -r disk/run saved
    umount disk
    [ "$status" -eq 1 ]
    grep -q 'warning: .*No space left.*; the run goes on' said
    grep -q '^hm-train: disk/run/ckpt-00000009.safetensors: .*No space left.*free disk space' said
    [ -z "$left" ]
    [ "$step" = 00000003 ]
    [ ! -e saved/model.safetensors ]
    train --resume --max-steps=9 -o saved
    cmp whole/model.safetensors saved/model.safetensors
}
