#!/usr/bin/env bats
# hm-eval: text in every form gives the same figures; protocols; tasks; tables and CSV.

load helper

setup() {
    fixture
    head -40 corpus.txt > text.txt
}

eval_() {
    hm-eval -q -j1 "$@"
}

# The value of a metric, of a task if one is named.
value() {
    awk -F, -v metric="$1" -v task="${2-}" '$4 == metric && $2 == task { print $5 }'
}

@test "shards, a stream and text give the same figures" {
    tok-encode text.txt > text.tok
    shard -q -o sh < text.tok
    eval_ sh/*.zst | value loss_nats_per_token > a
    eval_ < text.tok | value loss_nats_per_token > b
    eval_ text.tok | value loss_nats_per_token > c
    eval_ --text text.txt | value loss_nats_per_token > d
    eval_ --text < text.txt | value loss_nats_per_token > e
    [ -s a ]
    for other in b c d e; do
        cmp a $other
    done
}

@test "every byte and every token counts" {
    eval_ --text text.txt > out
    [ "$(awk -F, '$4 == "bits_per_byte" { print $7 }' out)" = "$(wc -c < text.txt)" ]
    n=$(($(tok-encode --ids text.txt | wc -w) + $(wc -l < text.txt)))
    [ "$(awk -F, '$4 == "loss_nats_per_token" { print $7 }' out)" = "$n" ]
    [ "$(awk -F, '$4 == "perplexity_per_word" { print $7 }' out)" = "$(wc -w < text.txt)" ]
    [ "$(value documents < out)" = 40 ]
    awk -F, '{ v[$4] = $5; n[$4] = $7 } END {
        nats = v["loss_nats_per_token"] * n["loss_nats_per_token"]
        bits = nats / log(2) / n["bits_per_byte"]
        word = exp(nats / n["perplexity_per_word"])
        exit !(bits / v["bits_per_byte"] - 1 < 1e-6 && bits / v["bits_per_byte"] - 1 > -1e-6 &&
            word / v["perplexity_per_word"] - 1 < 1e-5 && word / v["perplexity_per_word"] - 1 > -1e-5)
    }' out
}

@test "an unterminated last line has no document end" {
    printf 'the cat\nthe dog' | eval_ --text > out
    n=$(($(printf 'the cat\nthe dog' | tok-encode --ids | wc -w) + 1))
    [ "$(awk -F, '$4 == "loss_nats_per_token" { print $7 }' out)" = "$n" ]
    [ "$(awk -F, '$4 == "bits_per_byte" { print $7 }' out)" = 15 ]
}

@test "the protocol stands with the figure" {
    eval_ --text text.txt | grep -q 'state carried over at most 16384 tokens'
    eval_ --text text.txt --context=100 | grep -q 'state carried over at most 100 tokens'
    eval_ --text text.txt --window=16 --stride=4 | grep -q 'windows of 16 tokens at stride 4'
    eval_ --text text.txt --window=16 | grep -q 'windows of 16 tokens at stride 8'
    eval_ --text text.txt --rows | grep -q 'rows of .* tokens as in training'
}

@test "a long document: protocols differ, short ones agree" {
    tr '\n' ' ' < text.txt > long.txt
    eval_ --text long.txt | value bits_per_byte > a
    eval_ --text --window=8 --stride=8 long.txt | value bits_per_byte > b
    run cmp -s a b
    [ "$status" -eq 1 ]
    echo 'the cat sat' > short.txt
    a=$(eval_ --text short.txt | value bits_per_byte)
    b=$(eval_ --text --window=64 short.txt | value bits_per_byte)
    c=$(eval_ --text --rows short.txt | value bits_per_byte)
    awk "BEGIN { exit !($a - $b < 1e-5 && $b - $a < 1e-5 && $a - $c < 1e-5 && $c - $a < 1e-5) }"
}

@test "--split cuts text as tok-encode does, --limit stops" {
    tr '\n' '\0' < text.txt > nul.txt
    a=$(eval_ --text text.txt | value loss_nats_per_token)
    [ "$(eval_ --text --split=nul nul.txt | value loss_nats_per_token)" = "$a" ]
    [ "$(eval_ --text --split=whole text.txt | value documents)" = 1 ]
    [ "$(eval_ --text --limit=3 text.txt | value documents)" = 3 ]
    [ "$(eval_ --limit=3 train-*.tok.zst | value documents)" = 3 ]
    head -3 text.txt > three.txt
    [ "$(eval_ --text --limit=3 text.txt | value bits_per_byte)" = "$(eval_ --text three.txt | value bits_per_byte)" ]
}

choices() {
    printf 'task,id,context,label,choice_0,choice_1,choice_2\n'
    printf 'a,1,the cat,0,sat on,sat on,\n'
    printf 'a,2,the cat,1,sat on,"sat ""on, a",king\n'
    printf 'b,1,"two\nlines",0,the,the,the\n'
}

@test "multiple choice: ties, tasks and all of them" {
    choices > q.csv
    eval_ q.csv > out
    [ "$(head -1 out)" = source,task,kind,metric,value,stderr,n,protocol ]
    [ "$(value accuracy b < out)" = 0.333333333 ]
    [ "$(awk -F, '$2 == "a" && $4 == "accuracy" { print $7 }' out)" = 2 ]
    [ "$(awk -F, '$2 == "all" && $4 == "accuracy" { print $3, $7 }' out)" = "choice 3" ]
    a=$(value accuracy a < out)
    [ "$a" = 0.25 ] || [ "$a" = 0.75 ]
    eval_ --limit=1 q.csv > out
    [ "$(value accuracy a < out)" = 0.5 ]
    run awk -F, '$2 == "all"' out
    [ -z "$output" ]
}

@test "minimal pairs and cloze" {
    printf 'task,id,context,label,choice_0,choice_1\np,1,,0,The cat sat.,The cat sat.\np,2,,1,x,y\n' > p.csv
    eval_ p.csv > out
    [ "$(awk -F, '$2 == "p" && $4 == "accuracy" { print $3, $7 }' out)" = "pairs 2" ]
    printf 'task,id,context,target\nc,1,the cat,sat\nc,2,a,dog\n' > c.csv
    eval_ c.csv > out
    [ "$(awk -F, '$2 == "c" && $4 == "accuracy" { print $3, $7 }' out)" = "cloze 2" ]
    [ -n "$(value perplexity_per_target c < out)" ]
    word=$(hm-gen -q --greedy --prompt='the cat' --max-tokens=1)
    printf 'task,id,context,target\nc,1,the cat,%s\n' "${word# }" > c.csv
    [[ $word != ' '* ]] || [ "$(eval_ c.csv | value accuracy c)" = 1 ]
}

@test "mistakes in tables are told with file and line" {
    printf 'task,id,context,label,choice_0,choice_1\na,1,,0,x,y\na,2,,2,x,y\n' > q.csv
    run eval_ q.csv
    [ "$status" -eq 1 ]
    says "hm-eval: q.csv:3: label '2' names none of the 2 choices"
    printf 'task,id,context\na,1,x\n' > q.csv
    run eval_ q.csv
    [ "$status" -eq 1 ]
    says "q.csv: the header is that of no task"
    printf 'task,id,context,target\na,1,x\n' > q.csv
    run eval_ q.csv
    [ "$status" -eq 1 ]
    says "q.csv:2"
    printf 'task,id,context,target\n' > q.csv
    run eval_ q.csv
    [ "$status" -eq 1 ]
    says "no question"
    : > q.csv
    run eval_ q.csv
    [ "$status" -eq 1 ]
}

@test "several inputs in one run; tables for people" {
    choices > q.csv
    eval_ valid-*.tok.zst q.csv > out
    [ "$(cut -d, -f1 out | sort -u | wc -l)" -eq 4 ]
    run eval_ --format=table valid-00000.tok.zst q.csv
    [ "$status" -eq 0 ]
    says "bits per byte"
    says "per word"
    says "accuracy"
    eval_ -o file.csv valid-*.tok.zst
    eval_ valid-*.tok.zst | cmp - file.csv
    no_leftovers
}

@test "the model from a pipe, then the data are files" {
    eval_ valid-*.tok.zst > a
    eval_ -m - valid-*.tok.zst < model.safetensors | cmp - a
    run eval_ -m - < model.safetensors
    [ "$status" -eq 2 ]
    says "with -m - the data must be files"
}

@test "the hash of logits is that of the model and of the arithmetic" {
    a=$(eval_ --logits-hash | value logits_hash)
    [ "${#a}" -eq 16 ]
    [ "$(eval_ --logits-hash | value logits_hash)" = "$a" ]
    [ "$(eval_ --logits-hash --dtype=bf16 | value logits_hash)" != "$a" ]
}

@test "a table that is none is told, and how to mend it" {
    echo 'task,id,context,label,choice_0,choice_1' > table.csv
    run eval_ -o out table.csv
    [ "$status" -eq 1 ]
    [ "$output" = 'hm-eval: table.csv: there is no question to answer: write one a line below the header' ]
    echo 't,1,The,2,cat,dog' >> table.csv
    run eval_ -o out table.csv
    [ "$status" -eq 1 ]
    [ "$output" = "hm-eval: table.csv:2: label '2' names none of the 2 choices: give the number of the right one, from 0" ]
    [ ! -e out ]
}

@test "what does not fit the model is refused" {
    head -c 3000 corpus.txt > other.txt
    tok-train -q --vocab=300 -o other.model other.txt
    tok-encode -m other.model text.txt > other.tok
    run eval_ other.tok
    [ "$status" -eq 1 ]
    says "was made with another tokenizer than the model's"
    shard -q -o other < other.tok
    run eval_ other/*.zst
    [ "$status" -eq 1 ]
    says "was made with another tokenizer than the model's"
    run eval_ text.txt
    [ "$status" -eq 1 ]
    [ "$output" = "hm-eval: text.txt: is neither a shard nor a token stream nor named *.csv: give --text for raw text, --tasks for a table" ]
    eval_ <(tok-encode text.txt) | grep -q bits_per_byte
    tok-encode text.txt | head -c 200 > cut.tok
    run eval_ cut.tok
    [ "$status" -eq 1 ]
    for data in nowhere nowhere.csv; do
        run eval_ $data
        [ "$status" -eq 1 ]
        says "$data: cannot open"
    done
    run eval_ --text /dev/null
    [ "$status" -eq 1 ]
    says "there is no text to score"
}

@test "what does not go together is a usage error" {
    for options in '--text --tasks' '--stride=4' '--window=4 --stride=5' '--window=4 --rows' \
        '--split=line' '--format=xml' '--context=0' '- -'; do
        run eval_ $options < /dev/null
        [ "$status" -eq 2 ]
    done
}
