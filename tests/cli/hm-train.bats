#!/usr/bin/env bats
# hm-train: run folder, log, resuming, fine-tuning, plans, and what it refuses.

load helper

# A minute model: some milliseconds a step.
small=(--preset=tiny --width=32 --mlp=48 --pattern=mtm --context=32 --state=16 --chunk=16 --batch=2
    --valid-every=4 --valid-tokens=128 -j1)

setup() {
    fixture
    rm -rf run
}

train() {
    hm-train "${small[@]}" -q --valid=valid-00000.tok.zst "$@" train-*.tok.zst
}

@test "a run fills its folder" {
    run --separate-stderr train --max-steps=6 -o run
    [ "$status" -eq 0 ]
    [ -z "$output$stderr" ]
    run ls run
    [ "$output" = "$(printf '%s\n' ckpt-0000000{4,6}.safetensors config.json model.safetensors tok.model train.csv)" ]
    cmp tok.model run/tok.model
    no_leftovers run
}

@test "the log is CSV: a header, the run, steps, validations, the end" {
    train --max-steps=6 -o run
    run cut -d, -f1,2,3 run/train.csv
    [ "${lines[0]}" = event,step,tokens ]
    [ "${lines[1]}" = run,0,0 ]
    [ "${lines[2]}" = train,1,64 ]
    [ "$(grep -c ^train, run/train.csv)" -eq 6 ]
    [ "$(grep ^valid, run/train.csv | cut -d, -f2 | paste -sd,)" = 4,6 ]
    [ "${lines[-1]}" = end,6,384 ]
    [[ $(grep ^run, run/train.csv) == *'""seed"":1'*'""hidden_size"": 32'* ]] ||
        [[ $(grep ^run, run/train.csv) == *'""seed"":1'*'""hidden_size"":32'* ]]
}

@test "the same seed gives the same bytes, another does not" {
    train --max-steps=3 -o run
    train --max-steps=3 -o again
    train --max-steps=3 -o other --seed=2
    cmp run/model.safetensors again/model.safetensors
    cmp run/ckpt-00000003.safetensors again/ckpt-00000003.safetensors
    ! cmp -s run/model.safetensors other/model.safetensors
}

@test "no file of a run holds a path or a time" {
    train --max-steps=2 -o run
    ! grep -aq "$BATS_TEST_TMPDIR\|$(date +%Y)-" run/*.safetensors run/config.json
}

@test "-o - writes the model to stdout and keeps nothing else" {
    train --max-steps=3 -o run
    mkdir -p empty
    train --max-steps=3 -o - >empty/m
    cmp run/model.safetensors empty/m
    [ "$(ls empty)" = m ]
}

@test "a stream on stdin trains too, and resumes where it was" {
    steady=(--schedule=constant --warmup=0 --save-every=1)
    shard --cat train-*.tok.zst >stream
    hm-train "${small[@]}" -q "${steady[@]}" --max-steps=7 -o whole - <stream
    hm-train "${small[@]}" -q "${steady[@]}" --max-steps=3 -o run - <stream
    hm-train "${small[@]}" -q --resume --max-steps=7 -o run - <stream
    cmp whole/model.safetensors run/model.safetensors
    shard --cat valid-*.tok.zst >other
    run hm-train "${small[@]}" -q --resume --max-steps=9 -o run - <other
    [ "$status" -eq 1 ]
}

@test "a stream that ends, ends the run" {
    shard --cat valid-*.tok.zst | hm-train "${small[@]}" -q -o run -
    [ "$(tail -n 1 run/train.csv | cut -d, -f1)" = end ]
    [ -f run/model.safetensors ]
    run hm-train "${small[@]}" --resume -o run - < <(shard --cat valid-*.tok.zst)
    [ "$status" -eq 0 ]
    says "the run is done already"
}

@test "a producer that is cut off leaves no model" {
    shard --cat valid-*.tok.zst | head -c 3000 >cut
    run hm-train "${small[@]}" -q -o run - <cut
    [ "$status" -eq 1 ]
    [ ! -e run/model.safetensors ]
    no_leftovers run
}

@test "--resume begins afresh where there is nothing, with a note" {
    run hm-train "${small[@]}" --resume --max-steps=1 -o run train-*.tok.zst
    [ "$status" -eq 0 ]
    says "run: no checkpoint to resume from"
    [ -f run/model.safetensors ]
}

@test "--resume takes the same options again, and refuses others by name" {
    train --max-steps=4 -o run --lr=0.002
    train --max-steps=4 -o run --lr=0.002 --resume
    run train --resume --max-steps=4 -o run --lr=0.003
    [ "$status" -eq 1 ]
    says "--lr is 0.003, but the run's is 0.002"
    run train --resume --max-steps=4 -o run --width=64
    [ "$status" -eq 1 ]
    says "--width is 64, but was 32"
    run train --resume --max-steps=4 -o run --accum=2
    [ "$status" -eq 1 ]
    says "--accum is 2, but the run's is 1"
}

@test "another length makes a run longer" {
    train --max-steps=2 -o run
    train --max-steps=5 -o run --resume
    [ "$(grep ^train, run/train.csv | cut -d, -f2 | paste -sd,)" = 1,2,3,4,5 ]
    [ -f run/ckpt-00000005.safetensors ]
}

@test "a folder with checkpoints is not overwritten" {
    train --max-steps=1 -o run
    run train --max-steps=1 -o run
    [ "$status" -eq 1 ]
    says "run: holds checkpoints of a run: go on with --resume"
}

@test "a folder with another tokenizer is left alone" {
    mkdir run
    echo mine >run/tok.model
    run train --max-steps=1 -o run
    [ "$status" -eq 1 ]
    says "run/tok.model: is there already"
    [ "$(cat run/tok.model)" = mine ]
}

@test "the newest and the best checkpoints are kept" {
    train --max-steps=12 --save-every=1 --keep=3 -o run
    for step in 10 11 12; do
        [ -f "run/ckpt-000000$step.safetensors" ]
    done
    best=$(grep ^valid, run/train.csv | sort -t, -k4,4g | head -n 1 | cut -d, -f2)
    [ -f "$(printf 'run/ckpt-%08d.safetensors' "$best")" ]
    [ "$(ls run/ckpt-* | wc -l)" -le 4 ]
}

@test "--init-from goes on with the weights in a new run" {
    train --max-steps=4 -o run
    train --init-from=run/model.safetensors --max-steps=1 --lr=0 -o tuned
    first=$(grep ^valid, tuned/train.csv | tail -n 1 | cut -d, -f4)
    before=$(grep ^valid, run/train.csv | tail -n 1 | cut -d, -f4)
    awk -v a="$first" -v b="$before" 'BEGIN { d = a - b; exit !(d < 0.01 && d > -0.01) }'
    run train --init-from=run/model.safetensors --width=64 --max-steps=1 -o other
    [ "$status" -eq 1 ]
    says "--width is 64, but was 32"
}

@test "--config makes the model that options made" {
    train --max-steps=1 -o run
    hm-train --config=run/config.json --batch=2 --max-steps=1 -q -j1 -o again train-*.tok.zst
    cmp run/model.safetensors again/model.safetensors
}

@test "a --config that holds none is told" {
    : > empty.json
    echo '{}' > bare.json
    echo '{"layer_types": [' > cut.json
    run hm-train --plan --config=empty.json
    [ "$status" -eq 1 ]
    says "hm-train: empty.json: bad JSON at line 1, column 0: '[' or '{' expected near end of file: "
    run hm-train --plan --config=bare.json
    [ "$status" -eq 1 ]
    says "hm-train: bare.json: layer_types does not list 1 to 256 layers: "
    run hm-train --plan --config=cut.json
    [ "$status" -eq 1 ]
    says 'hm-train: cut.json: bad JSON at line 2, '
}

@test "sizes that do not go together are called by their options, once" {
    run hm-train --plan --preset=tiny --heads=3
    [ "$status" -eq 1 ]
    [ "$output" = "hm-train: 3 attention heads of 42 do not make up hidden_size 128: set num_attention_heads (--heads) to a divisor of hidden_size (hidden_size is --width)" ]
}

@test "--recompute gives the same bytes" {
    for mode in none cheap block full; do
        train --max-steps=2 --dropout=0.1 --recompute=$mode -o $mode
    done
    cmp none/model.safetensors cheap/model.safetensors
    cmp none/model.safetensors block/model.safetensors
    cmp none/model.safetensors full/model.safetensors
}

@test "--batch-tokens rounds up to micro-batches" {
    train --batch-tokens=100 --max-steps=1 -o run
    [ "$(grep ^train, run/train.csv | cut -d, -f3)" -eq 128 ]
}

@test "--plan prints CSV and makes nothing" {
    run --separate-stderr hm-train --plan --preset=200m --recompute=full --batch=1 -o run
    [ "$status" -eq 0 ]
    [ "${lines[0]}" = item,value,unit,readable ]
    for item in parameters 'tokens a step' training 'memory weights' 'memory moments' 'memory total' fits; do
        says "$item,"
    done
    [ ! -e run ]
    # the promise: a 200m model trains within 12 GiB
    [ "$(grep '^memory total' <<<"$output" | cut -d, -f2)" -lt $((12 << 30)) ]
}

@test "--memory picks what fits, the fastest first, and keeps the step" {
    plan() { hm-train --plan --device=cpu --preset=base --vocab=32000 --batch-tokens=32K "$@" 2> err; }
    value() { grep "^$1," out | cut -d, -f2; }
    plan --memory=1T > out
    [ "$(value micro-batch) $(value micro-batches) $(value recompute)" = '32 1 0' ]
    plan --memory=6G > out
    [ "$(value recompute)" -eq 0 ]
    [ "$(value micro-batch)" -lt 32 ]
    [ $(($(value micro-batch) * $(value micro-batches))) -eq 32 ]
    [ "$(value 'memory total')" -le 6000000000 ]
    grep -q -- '--memory chose --batch=' err
    plan --memory=1.25G > out
    [ "$(value recompute)" -gt 0 ]
    [ "$(value fits)" -eq 1 ]
    plan --memory=100M > out
    [ "$(value fits)" -eq 0 ]
    run hm-train --memory=1G --batch=4 a
    [ "$status" -eq 2 ]
}

@test "a run that cannot fit does not start, and says what would fit" {
    run hm-train --preset=tiny --batch=65536 --context=4096 -o run train-*.tok.zst
    [ "$status" -eq 1 ]
    says "the run needs"
    says "--batch="
    [ ! -e run/ckpt-00000001.safetensors ]
}

@test "mistakes on the command line are status 2" {
    for args in "" "--batch-tokens=9 --accum=2 a" "--resume -o - a" "--log=- a" "--lr=x a" "--schedule=no a"; do
        run hm-train $args
        [ "$status" -eq 2 ]
        says "try 'hm-train --help'"
    done
}

@test "files that are none are named, status 1" {
    run train --tokenizer=nowhere --max-steps=1 -o run
    [ "$status" -eq 1 ]
    says "hm-train: nowhere: "
    run hm-train "${small[@]}" -q -o run nowhere.tok.zst
    [ "$status" -eq 1 ]
    says "hm-train: nowhere.tok.zst: "
    head -c 2000 train-00000.tok.zst >cut.tok.zst
    run hm-train "${small[@]}" -q -o run2 cut.tok.zst
    [ "$status" -eq 1 ]
    says "hm-train: cut.tok.zst: "
    rm tok.model
    run hm-train "${small[@]}" -q -o run3 train-*.tok.zst
    [ "$status" -eq 1 ]
    says "--tokenizer"
}

@test "a learning rate that is far too high stops the run, the last checkpoint named" {
    run train --lr=1e6 --clip=0 --warmup=0 --max-skips=3 --max-steps=500 --save-every=1 -o run
    [ "$status" -eq 1 ]
    says "3 steps in a row were skipped"
    says "last good checkpoint: run/ckpt-"
    [ ! -e run/model.safetensors ]
}

@test "--max-time measures, and fixes the steps" {
    run hm-train "${small[@]}" --max-time=1 -o run train-*.tok.zst
    [ "$status" -eq 0 ]
    says "the run will have"
    steps=$(grep -c ^train, run/train.csv)
    says "the run will have $steps steps"
}

@test "two runs do not share a folder" {
    mkdir run
    exec 9<run
    flock 9
    run train --max-steps=1 -o run
    exec 9<&-
    [ "$status" -eq 1 ]
    says "another training runs in this folder"
}

@test "a model goes through a pipe to hm-eval" {
    command -v hm-eval || skip "hm-eval is not built"
    train --max-steps=2 -o - | hm-eval -m - valid-00000.tok.zst
}
