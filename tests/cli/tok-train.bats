#!/usr/bin/env bats
# tok-train: the text is our own headers and man pages.

load helper

setup_file() {
    cat "$BATS_TEST_DIRNAME"/../../{lib/*.h,man/*.[157]} > "$BATS_FILE_TMPDIR/text"
    tok-train -q --vocab=500 -o "$BATS_FILE_TMPDIR/model" "$BATS_FILE_TMPDIR/text"
}

setup() {
    cd "$BATS_TEST_TMPDIR"
    text=$BATS_FILE_TMPDIR/text
    model=$BATS_FILE_TMPDIR/model
}

@test "the default output is tok.model, and the last note counts pieces" {
    run tok-train --vocab=500 "$text"
    [ "$status" -eq 0 ]
    says "tok.model: 500 pieces"
    cmp tok.model "$model"
    no_leftovers
}

@test "same text, same bytes: from stdin, in parts, with another heap and other addresses" {
    tok-train -q --vocab=500 -o - < "$text" | cmp - "$model"
    head -c 30000 "$text" > a
    tail -c +30001 "$text" > b
    tok-train -q --vocab=500 -o - a b | cmp - "$model"
    MALLOC_PERTURB_=165 MALLOC_ARENA_MAX=4 tok-train -q --vocab=500 -o - "$text" | cmp - "$model"
    OMP_NUM_THREADS=7 setarch -R tok-train -q --vocab=500 -o - "$text" | cmp - "$model"
}

@test "no path and no time is in the model" {
    run grep -aE 'tmp|text$|20[0-9][0-9]-' "$model"
    [ "$status" -eq 1 ]
}

@test "special pieces have the ids of the design" {
    printf '<unk><s></s><pad><|user|>' > special
    run tok-encode -m "$model" --ids special
    [ "$status" -eq 0 ]
    for id in $output; do [ "$id" -ge 268 ]; done
    run strings -n 3 "$model"
    [[ $output == *'<|system|>'*'<|user|>'*'<|assistant|>'*'<|end|>'*'<0x00>'*'<0xFF>'* ]]
}

@test "a vocabulary too large for the text: the error says the largest, which then works" {
    printf 'a rose is a rose\n' > rose
    run tok-train --vocab=4000 -o rose.model rose
    [ "$status" -eq 1 ]
    says "at most "
    [ ! -e rose.model ]
    most=$(sed -nE 's/.*at most ([0-9]+) pieces.*/\1/p' <<<"$output")
    tok-train -q --vocab="$most" -o rose.model rose
    run tok-train -q --vocab=$((most + 1)) -o more.model rose
    [ "$status" -eq 1 ]
}

@test "a vocabulary too small for the characters: the error says the least" {
    run tok-train --vocab=270 -o small.model "$text"
    [ "$status" -eq 1 ]
    says "need a vocabulary of "
    says "raise --vocab"
}

@test "no text, empty text" {
    run tok-train --vocab=300 -o none.model /dev/null
    [ "$status" -eq 1 ]
    says "no words"
    printf '\n\n\t\n' | { run tok-train --vocab=300 -o none.model; [ "$status" -eq 1 ]; }
    [ ! -e none.model ]
}

@test "separators are not learnt: documents by --split" {
    for i in $(seq 300); do printf 'one two##three four##'; done > marked
    tok-train -q --vocab=290 --split='sep:##' -o marked.model marked
    run tok-encode -m marked.model --ids <(printf '##')
    [ "$(wc -w <<<"$output")" -eq 2 ]
    [[ " $output " == *" 47 47 "* ]] # byte 0x23
    tok-train -q --vocab=290 --split='csv:b' -o csv.model <(
        echo 'a,b'; for i in $(seq 300); do echo 'zzzz,one two three four'; done)
    run grep -c zz csv.model
    [ "$output" = 0 ]
}

@test "runs of spaces become pieces when asked for" {
    for i in $(seq 200); do printf '        x = y;\n    while z\n'; done > code
    tok-train -q --vocab=290 -o plain.model code
    tok-train -q --vocab=290 --space-runs -o runs.model code
    printf '        x' > line
    [ "$(tok-encode -m plain.model --ids line | wc -w)" -ge 8 ]
    [ "$(tok-encode -m runs.model --ids line | wc -w)" -le 3 ]
    tok-encode -m runs.model code | tok-encode -m runs.model --decode | cmp - code
}

@test "--sample and --max-bytes take a part, always the same one" {
    run tok-train --vocab=400 --sample=0.3 -o s1 "$text"
    [ "$status" -eq 0 ]
    tok-train -q --vocab=400 --sample=0.3 -o s2 "$text"
    cmp s1 s2
    run ! cmp -s s1 <(tok-train -q --vocab=400 -o - "$text")
    head -c 20000 "$text" > part
    tok-train -q --vocab=400 -o p1 part
    tok-train -q --vocab=400 --max-bytes=$((20000 - $(wc -l < part))) -o p2 "$text"
    cmp p1 p2
}

@test "--max-words stops with advice" {
    run tok-train --vocab=300 --max-words=100 -o m "$text"
    [ "$status" -eq 1 ]
    says "more than 100 different words"
    says "--sample"
    [ ! -e m ]
}

@test "nasty bytes are no trouble" {
    head -c 50000 /dev/zero > zeros
    printf 'a\xff b\xe2\x96\x81c \xe2\x96\x85d\tf \xed\xa0\x80g\r\n%.0s' {1..100} > bytes
    tok-train -q --vocab=277 --coverage=1 -o n.model zeros bytes
    # "U+2581 c" would be a piece if the mark in the text were taken for a space.
    run env LC_ALL=C grep -caP '\xff|\xed\xa0|\xe2\x96\x81[cd]' n.model
    [ "$output" = 0 ]
    run env LC_ALL=C grep -caP '\xe2\x96\x81b' n.model
    [ "$output" != 0 ]
    head -c 3000000 /dev/zero | tr '\0' x > long
    tok-train -q --vocab=273 -o l.model long
    tok-encode -m l.model long | tok-encode -m l.model --decode | cmp - long
}

@test "bad records: an error with file and line, or counted" {
    printf '{"text":"a b a b c"}\n{"text":1}\n' > bad.jsonl
    run tok-train --vocab=272 --split=jsonl:text -o j bad.jsonl
    [ "$status" -eq 1 ]
    says "bad.jsonl:2: "
    run tok-train --vocab=272 --split=jsonl:text --skip-bad -o j bad.jsonl
    [ "$status" -eq 0 ]
    says "1 bad records passed over; the first: bad.jsonl:2"
}

@test "what cannot be: usage errors and outputs that cannot be written" {
    run tok-train --vocab=267 "$text"
    [ "$status" -eq 2 ]
    run tok-train --split=lines "$text"
    [ "$status" -eq 2 ]
    says "use line, para"
    run tok-train --vocab=500 -o no/such/folder "$text"
    [ "$status" -eq 1 ]
    [[ $output != *training* ]]
    run tok-train --vocab=500 -o m no-such-file
    [ "$status" -eq 1 ]
    says "no-such-file: cannot open"
    run bash -c "tok-train -q --vocab=500 -o - '$text' > /dev/full"
    [ "$status" -eq 1 ]
    says "cannot write"
    [ ! -e m ]
    no_leftovers
}
