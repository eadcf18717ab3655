#!/usr/bin/env bats
# tok-encode: text to ids and back, byte for byte.

load helper

setup_file() {
    cd "$BATS_FILE_TMPDIR"
    cat "$BATS_TEST_DIRNAME"/../../{lib/*.h,man/*.[157]} > text
    tok-train -q --vocab=500 text
    # Bytes of every kind, with and without an end of line at the end.
    { printf 'a\0b\r\n\n\n  two  spaces \t\xe2\x96\x81\xff\xc0\xaf\xed\xa0\x80<s></s>\xef\xbb\xbf';
      head -c 20000 "$(command -v tok-encode)"; } > bytes
    { cat bytes; echo; } > bytes-ended
}

setup() {
    cd "$BATS_TEST_TMPDIR"
    cp "$BATS_FILE_TMPDIR"/{text,bytes,bytes-ended,tok.model} .
}

@test "decoding gives every byte back: line, nul, sep, whole" {
    printf '\n' > newline
    : > empty
    for file in text bytes bytes-ended newline empty; do
        for split in line nul 'sep:\n\n' 'sep:e' 'sep:\xff\xc0' whole; do
            tok-encode --split="$split" "$file" | tok-encode --decode | cmp - "$file"
        done
    done
}

@test "several files are as their concatenation" {
    tok-encode text bytes text | tok-encode --decode | cmp - <(cat text bytes text)
    cmp <(tok-encode text bytes text) <(cat text bytes text | tok-encode)
    cmp <(tok-encode text bytes text) <(cat text | tok-encode - bytes text)
    tok-encode --split=whole text bytes | tok-encode --decode | cmp - <(cat text bytes)
    run bash -c 'tok-encode bytes text >/dev/null'
    says "warning: 1 files began in a document"
}

@test "the output does not depend on the number of threads" {
    for i in $(seq 60); do cat text bytes-ended; done > large
    tok-encode -j 1 large > one
    for j in 2 3 8; do tok-encode -j $j large | cmp - one; done
    tok-encode -j 2 --split=whole large | tok-encode --decode -o back
    cmp back large
}

@test "ids are those of spm_encode" {
    command -v spm_encode || skip "no spm_encode"
    grep -v $'\xe2\x96\x81' text > lossless
    tok-encode --ids lossless > ours
    spm_encode --model=tok.model --output_format=id < lossless > theirs
    cmp ours theirs
}

@test "a document ends with </s>, an unterminated one without" {
    [ "$(printf 'a\n\nb' | tok-encode --ids | wc -l)" -eq 3 ]
    printf 'a\nb' | tok-encode > open
    printf 'a\nb\n' | tok-encode > ended
    run ! cmp -s open ended
    tok-encode --decode open | cmp - <(printf 'a\nb')
    tok-encode --decode ended | cmp - <(printf 'a\nb\n')
}

@test "paragraphs, JSON lines and CSV give their texts back" {
    printf '\n\na\nb\n\n\nc' > p
    tok-encode --split=para p | tok-encode --decode | cmp - <(printf 'a\nb\n\nc\n\n')
    printf '\xef\xbb\xbf{"t":"x\\u00e9\\n"}\n\n{"t":"y"}' > j
    tok-encode --split=jsonl:t j | tok-encode --decode | cmp - <(printf 'x\xc3\xa9\n\ny\n')
    tok-encode --split=jsonl:t j | tok-encode --decode --split=nul | cmp - <(printf 'x\xc3\xa9\n\0y\0')
    printf 'a,t\r\n1,"x, ""q""\r\nz"\r\n2,\r\n' > c
    tok-encode --split=csv:t c | tok-encode --decode --split=nul | cmp - <(printf 'x, "q"\r\nz\0\0')
}

@test "bad records are errors with file and line, or are counted" {
    printf '{"t":"ok"}\n{"t":"lone \\ud83d"}\n' > lone
    run tok-encode --split=jsonl:t -o out lone
    [ "$status" -eq 1 ]
    says "lone:2: "
    printf 't,u\n1,2\n1,2,3\n4,5\n' > ragged
    run tok-encode --split=csv:t -o out ragged
    [ "$status" -eq 1 ]
    says "ragged:3: has 3 fields where the header has 2"
    run tok-encode --split=csv:v -o out ragged
    [ "$status" -eq 1 ]
    says "its columns: t, u"
    printf 't\n"open\n' > quote
    run tok-encode --split=csv:t --skip-bad -o out quote
    [ "$status" -eq 1 ]
    says "quote:2: "
    [ ! -e out ]
    run tok-encode --split=csv:t --skip-bad -o out ragged
    [ "$status" -eq 0 ]
    says "1 bad records passed over; the first: ragged:3"
    tok-encode --decode out | cmp - <(printf '1\n4\n')
    no_leftovers
}

@test "ids as text" {
    run tok-encode --ids <(printf '\x01\n\n\x02')
    [ "$output" = $'13\n\n14' ]
    tok-encode text > t
    cmp <(tok-encode --ids text) <(tok-encode --decode --ids t)
}

@test "the tokenizer: default file, another one, none, a broken one" {
    tok-encode text > t
    tok-train -q --vocab=400 -o other.model text
    run tok-encode --decode -m other.model t
    [ "$status" -eq 1 ]
    says "t: was made with another tokenizer than other.model: name that one with -m"
    head -c 3000 tok.model > cut.model
    run tok-encode -m cut.model -o out text
    [ "$status" -eq 1 ]
    says "cut.model: "
    run tok-encode -m text -o out text
    [ "$status" -eq 1 ]
    says "is no SentencePiece model"
    rm tok.model
    run tok-encode -o out text
    [ "$status" -eq 1 ]
    says "--model"
    [ ! -e out ]
}

@test "a stream that was cut off is an error" {
    tok-encode text > t
    for n in 0 10 79 200 1000 $(($(stat -c %s t) - 1)); do
        head -c "$n" t > cut
        run tok-encode --decode -o back cut
        [ "$status" -eq 1 ]
        [ ! -e back ]
    done
    run tok-encode --decode text
    [ "$status" -eq 1 ]
    says "is no token stream"
}

@test "signals, full disks, closed pipes" {
    mkfifo feed
    tok-encode -o out < feed &
    pid=$!
    { cat text; for i in $(seq 100); do echo more; sleep 0.05; done; } > feed 2>/dev/null &
    sleep 0.3
    kill -TERM $pid
    status=0
    wait $pid || status=$?
    [ "$status" -eq 143 ]
    [ ! -e out ]
    run bash -c 'tok-encode text > /dev/full'
    [ "$status" -eq 1 ]
    says "cannot write"
    run bash -c 'for i in $(seq 200); do cat text; done | tok-encode | head -c 1; echo "${PIPESTATUS[1]}"'
    [[ $output == *141 ]]
    no_leftovers
}

@test "usage errors; a stream is not written to a terminal" {
    run tok-encode --split=sep: text
    [ "$status" -eq 2 ]
    run tok-encode -j -1 text
    [ "$status" -eq 2 ]
    run tok-encode no-such-file -o out
    [ "$status" -eq 1 ]
    says "no-such-file: cannot open"
    command -v script || skip "no script(1)"
    run script -qec "tok-encode text" /dev/null
    says "--force"
}

@test "a long line without a break" {
    head -c 3000000 /dev/zero | tr '\0' e > long
    tok-encode long | tok-encode --decode | cmp - long
}
