#!/usr/bin/env bats
# The pipelines as a user runs them: train.mk, eval.mk, sweep.mk, plot.mk, pipe.sh and deps.sh.

load helper

# A model of some milliseconds a step.
small='--preset=tiny --width=32 --mlp=48 --pattern=mtm --context=32 --state=16 --chunk=16 --batch=2 -j1'

setup() {
    road="$BATS_TEST_DIRNAME/../../pipelines"
    # A make of its own, that knows nothing of the one that runs the tests.
    unset MAKEFLAGS MAKELEVEL MFLAGS
}

train() {
    make -f "$road/train.mk" "$@" VOCAB=400 SHARE=10% RUN=mine CORPUS=corpus.txt \
        TRAIN="$small --max-steps=30 --save-every=10 --valid-every=10"
}

@test "train.mk: text in; model, figures, plot and words out; then nothing to do" {
    fixture
    run train -j2
    [ "$status" -eq 0 ]
    says "Bits per byte of the held-out text"
    says "this model"
    says "xz -9e"
    for file in tok.model train-00000.tok.zst valid-00000.tok.zst model.safetensors train.csv eval.csv \
        loss.png samples.txt report.txt; do
        [ -s "mine/$file" ]
    done
    [ "$(head -c 4 mine/loss.png | tail -c 3)" = PNG ]
    [ "$(wc -l <mine/samples.txt)" -eq 5 ]
    [ -z "$(find mine -name '*.new*' -o -name '*.tmp-*')" ]
    find mine -type f -exec stat -c '%n %Y %s' {} + | sort >before
    run train
    [ "$status" -eq 0 ]
    [[ $output != *hm-train* ]]
    find mine -type f -exec stat -c '%n %Y %s' {} + | sort | diff before -
    # A model that is gone is made again, and what hangs on it; the shards stand.
    rm mine/model.safetensors mine/ckpt-*
    run train
    [ "$status" -eq 0 ]
    says hm-train
    says hm-eval
    [[ $output != *tok-encode\ * ]]
}

@test "train.mk -n shows the road and makes nothing; so with the demo's text" {
    fixture
    rm -rf mine
    run train -n
    [ "$status" -eq 0 ]
    says "tok-train"
    says "hm-train"
    says "gnuplot"
    [ ! -e mine ]
    run make -n -f "$road/train.mk" RUN=demo
    [ "$status" -eq 0 ]
    [ ! -e demo ]
}

@test "train.mk: a stage that fails stops it, and leaves nothing under a real name" {
    fixture
    run make -f "$road/train.mk" RUN=mine CORPUS=none.txt
    [ "$status" -ne 0 ]
    says none.txt
    run make -f "$road/train.mk" RUN=mine CORPUS=corpus.txt VOCAB=400 CUT=--split=csv:none
    [ "$status" -ne 0 ]
    [ ! -e mine/tok.model ]
    mkdir -p mine
    cp tok.model mine/
    run make -f "$road/train.mk" RUN=mine CORPUS=corpus.txt CUT=--split=csv:none
    [ "$status" -ne 0 ]
    [ -z "$(find mine -name '*.zst*')" ]
}

@test "train.mk: another text asks for another run; a text of one document is refused" {
    fixture
    train mine/tok.model >/dev/null 2>&1
    head -n 50 corpus.txt > other.txt
    touch -d yesterday other.txt
    run make -f "$road/train.mk" RUN=mine CORPUS=other.txt VOCAB=400 SHARE=10% TRAIN=--max-steps=1
    [ "$status" -eq 2 ]
    says "give RUN=another"
    run make -f "$road/train.mk" RUN=one CORPUS=corpus.txt VOCAB=400 CUT=--split=whole
    [ "$status" -eq 2 ]
    says "cut the text into more documents"
    [ -z "$(find one -name '*.zst')" ]
}

@test "train.mk: a training run that was killed goes on" {
    fixture
    train mine/tok.model mine/train-00000.tok.zst >/dev/null 2>&1
    # The bytes of a run that was left alone.
    hm-train -q $small --tokenizer=mine/tok.model --max-steps=30 --save-every=10 --valid-every=10 -o alone \
        --valid=mine/valid-00000.tok.zst mine/train-00000.tok.zst
    # A run of the same options that ends early leaves the checkpoint a kill would leave.
    hm-train -q $small --tokenizer=mine/tok.model --max-steps=30 --save-every=10 --valid-every=10 -o mine \
        --valid=mine/valid-00000.tok.zst mine/train-00000.tok.zst 3>&- &
    for _ in $(seq 500); do
        [ -e mine/ckpt-00000010.safetensors ] && break
        sleep 0.01
    done
    kill -KILL $! || true
    wait $! || true
    rm -f mine/model.safetensors
    run train
    [ "$status" -eq 0 ]
    cmp mine/model.safetensors alone/model.safetensors
}

@test "eval.mk: a table of models and data, computed once" {
    fixture
    for again in 1 2; do
        run make -f "$road/eval.mk" MODELS='run model.safetensors' DATA='valid-00000.tok.zst questions.csv'
        [ "$status" -eq 0 ]
        says bits_per_byte
        says accuracy
    done
    [[ $output != *hm-eval* ]]
    [ "$(grep -c bits_per_byte eval/table.csv)" -eq 2 ]
    run make -f "$road/eval.mk" MODELS=run DATA=
    [ "$status" -eq 2 ]
    says "DATA names no file"
}

@test "sweep.mk: runs, a table and one plot" {
    fixture
    run make -f "$road/sweep.mk" FROM=. VALUES='1e-3 1e-2' TRAIN="$small --max-steps=4"
    [ "$status" -eq 0 ]
    [ "$(cut -d, -f1,2 <sweep--lr/table.csv | paste -sd ' ')" = 'value,steps 1e-3,4 1e-2,4' ]
    [ -s sweep--lr/loss.png ]
}

@test "plot.mk draws PNG and SVG" {
    fixture
    run make -f "$road/plot.mk"
    [ "$status" -eq 0 ]
    [ "$(head -c 4 run/loss.png | tail -c 3)" = PNG ]
    grep -q '</svg>' run/loss.svg
    run make -f "$road/plot.mk" RUNS=none
    [ "$status" -ne 0 ]
    cp -r run other
    run make -f "$road/plot.mk" RUNS='run other' BY=both OUT=two
    [ "$status" -eq 0 ]
    grep -q 'seconds of training' two.svg
    grep -q 'million tokens' two.svg
}

@test "pipe.sh: the whole road through pipes, with nothing left behind" {
    fixture
    head -n 50 corpus.txt >held.txt
    find . -type f ! -name 'separate-stderr*' ! -name before | sort >before
    run --separate-stderr "$road/pipe.sh" corpus.txt held.txt 'The old' 400 $small --max-steps=3
    [ "$status" -eq 0 ]
    [[ $stderr == *"bits per byte of held.txt"* ]]
    [ -n "$output" ]
    find . -type f ! -name 'separate-stderr*' ! -name before | sort | diff before -
}

@test "pipe.sh fails when any of its stages does" {
    fixture
    for args in 'none.txt corpus.txt' 'corpus.txt none.txt'; do
        run timeout 30 "$road/pipe.sh" $args x 400 $small --max-steps=1
        [ "$status" -eq 1 ]
        says "none.txt: cannot open"
    done
    run timeout 30 "$road/pipe.sh" corpus.txt corpus.txt x 400 --lr=none
    [ "$status" -ne 0 ]
    [ "$status" -ne 124 ]
    says "--lr: 'none' is no number"
}

@test "deps.sh: content where all is there, without a word" {
    run "$road/deps.sh" bash 'no-such-package|coreutils'
    [ "$status" -eq 0 ]
    [ -z "$output" ]
}

@test "deps.sh names packages and command when it cannot install" {
    # An apt-get that has no network, in front of the real one.
    mkdir "$BATS_TEST_TMPDIR/bin"
    printf '#!/bin/sh\necho "E: no network" >&2\nexit 100\n' >"$BATS_TEST_TMPDIR/bin/apt-get"
    printf '#!/bin/sh\nexec "$@"\n' >"$BATS_TEST_TMPDIR/bin/sudo"
    chmod +x "$BATS_TEST_TMPDIR/bin/"*
    PATH=$BATS_TEST_TMPDIR/bin:$PATH run "$road/deps.sh" bash no-such-package 'other-package|third-package'
    [ "$status" -eq 1 ]
    says "installing: no-such-package other-package"
    says "apt-get install no-such-package other-package"
    says "E: no network"
}
