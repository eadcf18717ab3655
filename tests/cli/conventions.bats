#!/usr/bin/env bats
# What every tool does alike: help, version, mistakes, shut and full stdout.

load helper

setup() {
    cd "$BATS_TEST_TMPDIR"
}

@test "--help goes to stdout, status 0, also after other options" {
    for tool in $(tools); do
        run --separate-stderr "$tool" --quiet --help
        [ "$status" -eq 0 ]
        [ -z "$stderr" ]
        says "usage: $tool "
    done
}

@test "--help shows the defaults, not what stands before it" {
    run diff <(hm-train --help) <(hm-train --seed 99 --help)
    [ "$status" -eq 0 ]
}

@test "--version names version, commit and backends" {
    for tool in $(tools); do
        run --separate-stderr "$tool" -V
        [ "$status" -eq 0 ]
        [ -z "$stderr" ]
        says "$tool (hm) "
        says "commit "
        says "backends: cpu"
    done
}

@test "an unknown option is told in two lines on stderr, status 2" {
    for tool in $(tools); do
        for option in --no-such-option -Z; do
            run --separate-stderr "$tool" $option </dev/null
            [ "$status" -eq 2 ]
            [ -z "$output" ]
            [ "${stderr_lines[0]}" = "$tool: unknown option '$option'" ]
            [ "${stderr_lines[1]}" = "try '$tool --help'" ]
        done
    done
}

@test "a near miss is answered with the name that was meant" {
    for tool in $(tools); do
        run "$tool" --pogress </dev/null
        [ "$status" -eq 2 ]
        says "did you mean '--progress'?"
    done
}

@test "a missing argument and a needless one, status 2" {
    for tool in $(tools); do
        run "$tool" --progress </dev/null
        [ "$status" -eq 2 ]
        says "wants an argument"
        run "$tool" --quiet=yes </dev/null
        [ "$status" -eq 2 ]
        says "takes no argument"
        run "$tool" --progress=sometimes </dev/null
        [ "$status" -eq 2 ]
        says "use one of auto, always, never"
    done
}

@test "numbers are read whole, within their bounds" {
    for text in 12x '' 0x10 nan 1.5 -1 99999999999999999999; do
        run hm-train --batch "$text" x.tok.zst
        [ "$status" -eq 2 ]
        says "hm-train: --batch: '$text' is"
    done
    for text in 1e999 nan inf 1,5; do
        run hm-train --lr "$text" x.tok.zst
        [ "$status" -eq 2 ]
        says "hm-train: --lr: '$text' is"
    done
}

@test "a full disk behind stdout: status 1 and a message" {
    for tool in $(tools); do
        run bash -c "$tool --help 2>&1 >/dev/full"
        [ "$status" -eq 1 ]
        says "$tool: stdout: cannot write: No space left on device"
    done
}

@test "a closed stdout: status 1 and a message" {
    for tool in $(tools); do
        run bash -c "$tool --version 2>&1 >&-"
        [ "$status" -eq 1 ]
        says "$tool: stdout: cannot write"
    done
}

@test "closed standard streams give their numbers to no file" {
    mkfifo wait
    shard wait <&- >&- 2>&- 3>&- &
    pid=$!
    exec 7>wait
    for fd in 0 1 2; do
        [ "$(readlink "/proc/$pid/fd/$fd")" = /dev/null ]
    done
    exec 7>&-
    status=0
    wait "$pid" || status=$?
    [ "$status" -eq 1 ]
}

@test "a reader that goes away ends the writer quietly, by SIGPIPE" {
    for tool in $(tools); do
        run bash -c "set -o pipefail; { sleep 0.1; exec $tool --help 2>&1; } | true"
        [ "$status" -eq 141 ]
        [ -z "$output" ]
    done
}

@test "the error of a missing file names it" {
    for tool in $(tools); do
        case $tool in
        tok-train) run "$tool" none.txt ;;
        tok-encode) run "$tool" -m none.model ;;
        shard) run "$tool" --list none.tok.zst ;;
        hm-train) run "$tool" --tokenizer none.model none.tok.zst ;;
        *) run "$tool" -m none.safetensors ;;
        esac
        [ "$status" -eq 1 ]
        [[ ${lines[0]} == "$tool: none."*": "* ]]
        says "No such file"
    done </dev/null
}

@test "without a default file the error names the option" {
    run bash -c 'echo text | tok-encode'
    [ "$status" -eq 1 ]
    says "tok-encode: tok.model: is not in the working directory: name it with --model FILE"
    run bash -c 'echo text | hm-gen'
    [ "$status" -eq 1 ]
    says "hm-gen: model.safetensors: is not in the working directory: name it with"
}

@test "a word that an option does not know is a wrong command line, and the option is named" {
    for call in 'tok-train --split=foo' 'tok-encode --split=foo' 'hm-eval --text --split=foo' \
        'hm-gen --logit-bias=foo' 'shard --split=foo'; do
        run $call </dev/null
        [ "$status" -eq 2 ]
        option=${call##* }
        [[ ${lines[0]} == "${call%% *}: ${option%%=*}: "*foo* ]]
    done
}
