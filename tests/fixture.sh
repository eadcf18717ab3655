#!/bin/bash
# fixture: fills a folder with what the tests of the tools begin from; the tools are found on PATH.
#   tests/fixture.sh DIR
# corpus.txt (1200 short lines), tok.model (400 pieces), train-*.tok.zst and valid-*.tok.zst, stream.tok,
# run/ (a tiny hybrid model, trained for a second), model.safetensors, prompts.txt, prompts.jsonl,
# questions.csv, a.state. Made once in $HM_BUILD/fixture, and again when a tool or this file is newer.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
build=${HM_BUILD:-$root/build/last}
PATH=$build/bin:$PATH
made=$build/fixture
to=$1

# A line of 3 to 14 words that follow each other with a little sense, by a fixed generator.
make_corpus() {
    awk 'BEGIN {
        n = split("the cat sat on a mat dog ran house in time upon once and king said to queen her his old " \
            "river stone green light under walked slowly every morning bread letter", word, " ")
        seed = 12345
        for (i = 1; i <= 1200; i++) {
            len = 3 + draw(12); at = draw(n)
            line = i % 7 ? "The" : "Once upon a time the"
            for (j = 1; j <= len; j++) {
                at = (draw(3) ? at * 5 + 3 : draw(n)) % n
                line = line " " word[at + 1]
            }
            print line "."
        }
    }
    function draw(n) { seed = (seed * 16807) % 2147483647; return int(seed / 65536) % n }'
}

make_all() {
    make_corpus >corpus.txt
    tok-train -q --vocab 400 -o tok.model corpus.txt
    tok-encode -q corpus.txt >stream.tok
    shard -q --split valid=10% <stream.tok
    hm-train -q -j1 --preset=tiny --width=32 --mlp=48 --pattern=mtm --context=32 --state=16 --chunk=16 \
        --batch=8 --max-steps=80 -o run --valid=valid-00000.tok.zst train-*.tok.zst
    rm -f run/ckpt-*
    cp run/model.safetensors .
    printf '%s\n' 'The cat' 'Once upon a time' 'The old king' >prompts.txt
    sed 's/.*/{"prompt": "&", "max_tokens": 8}/' prompts.txt >prompts.jsonl
    printf 'task,id,context,label,choice_0,choice_1\nt,1,The,0,cat sat.,sat cat.\nt,2,,1,"her, his",The cat.\n' >questions.csv
    hm-gen -q -j1 --prompt 'The cat' --max-tokens=2 --state-save=a.state >completion.txt
}

is_made() {
    [ "$made/completion.txt" -nt "$root/tests/fixture.sh" ] || return 1
    for tool in tok-train tok-encode shard hm-train hm-gen; do
        [ "$made/completion.txt" -nt "$(readlink -f "$(command -v "$tool")")" ] || return 1
    done
}

mkdir -p "$build" "$to"
exec 9>"$build/fixture.lock"
flock 9
if ! is_made; then
    rm -rf "$made"
    mkdir -p "$made.new"
    (cd "$made.new" && make_all) || { rm -rf "$made.new"; exit 1; }
    mv "$made.new" "$made"
fi
flock -u 9
cp -r "$made/." "$to"
