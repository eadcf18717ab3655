#!/bin/bash
# run.sh TOK.model SHARD...: 100 steps of a small model by hm-train and by PyTorch, on the same rows from the same
# weights; fails when the losses differ by more than 1e-3. Wants python3 with torch and numpy, and the tools on PATH.
set -euo pipefail
here=$(dirname "$0")
tok=$1
shift
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
model=(--preset tiny --pattern mtm --width 64 --mlp 160 --heads 4 --kv-heads 2 --head-dim 16 --ssm-head-dim 16
       --state 32 --context 128 --chunk 32)
common=(--tokenizer "$tok" --batch 4 --accum 2 --lr 2e-3 --z-loss 0 --outlier 0 --save-time 0)

# One step at rate zero is the initial model, as a checkpoint in float32.
hm-train -q "${model[@]}" "${common[@]}" --max-steps 1 --save-every 1 --lr 0 -o "$dir/init" "$@"
hm-train -q "${common[@]}" --init-from "$dir/init/ckpt-00000001.safetensors" --max-steps 100 --log-every 1 \
    -o "$dir/run" "$@"
"${PYTHON:-python3}" "$here/loss_curve.py" "$dir/init/ckpt-00000001.safetensors" "$dir/run/train.csv" "$@" batch=4 accum=2 \
    "$(sed -n '2s/.*""seed"":\([0-9]*\).*/seed=\1/p' "$dir/run/train.csv")" beta2=0.95
