#!/bin/bash
# pipe: the whole road through real pipes, with no file in between: text becomes a tokenizer, ids, a
# model, a figure on held-out text (stderr) and a completion (stdout). Nothing stays.
#   pipelines/pipe.sh CORPUS HELDOUT PROMPT [VOCAB [option of hm-train]...]
#   pipelines/pipe.sh corpus.txt heldout.txt 'Once upon' 2048 --preset=tiny --max-steps=200
# A stage that fails makes the whole fail, with the message of that stage.
set -euo pipefail

if [ $# -lt 3 ]; then
    echo 'usage: pipe.sh CORPUS HELDOUT PROMPT [VOCAB [option of hm-train]...]' >&2
    exit 2
fi
corpus=$1 heldout=$2 prompt=$3 vocab=${4:-2048}
shift $(($# < 4 ? 3 : 4))
[ $# -gt 0 ] || set -- --preset=tiny --max-steps=200
here=$(dirname "$(realpath "$0")")
bin=$here/../bin
[ -x "$bin/hm-train" ] || bin=$here/../../../bin
[ ! -x "$bin/hm-train" ] || PATH=$(realpath "$bin"):$PATH

# Two tools read the tokenizer, so it is held here, as text since a variable takes no NUL.
tok=$(tok-train -q --vocab="$vocab" -o - "$corpus" | base64 -w 0)
tok() { base64 -d < <(printf %s "$tok"); }

# The model goes to two tools as well: fd 3 leads to hm-eval, whose status `wait` brings.
tok-encode -q -m <(tok) "$corpus" | hm-train --tokenizer=<(tok) "$@" -o - - | {
    exec 3> >(hm-eval -q -m - --text --format=csv "$heldout" |
        awk -F, '$4 == "bits_per_byte" { printf "%.3f bits per byte of %s\n", $5, $1 }' >&2)
    figure=$!
    tee /dev/fd/3 | hm-gen -q -m - --prompt="$prompt" 3>&-
    exec 3>&-
    wait "$figure"
}
