#!/usr/bin/env bats
# With DATA=DIR (make test DATA=DIR): every file of DIR and DIR/nasty through tok-encode and back,
# byte for byte; its CSV and JSONL files, good and bad. Of a large file the first 8 MB are taken.

load helper

setup_file() {
    [ -n "$DATA" ] || return 0
    cd "$BATS_FILE_TMPDIR"
    for file in "$DATA"/*.zst "$DATA"/nasty/*; do show "$file" | head -c 300000; done > all
    tok-train -q --vocab=8000 --coverage=0.98 all
}

setup() {
    [ -n "$DATA" ] || skip "no DATA"
    cd "$BATS_FILE_TMPDIR"
}

show() {
    case $1 in
    *.zst) zstd -dc "$1" 2>/dev/null || true ;;
    *) cat "$1" ;;
    esac
}

@test "every byte of every file comes back" {
    for file in "$DATA"/* "$DATA"/nasty/*; do
        [ -f "$file" ] || continue
        show "$file" | head -c 8000000 > text || true
        for split in line whole; do
            tok-encode --split=$split text | tok-encode --decode | cmp - text || {
                echo "$file, $split" >&2
                return 1
            }
        done
    done
}

@test "every CSV with an id column reads to its end" {
    for file in "$DATA"/*.csv.zst; do
        rows=$(show "$file" | tok-encode --split=csv:id --ids | wc -l)
        [ "$rows" -ge 100 ]
        echo "$(basename "$file"): $rows" >&2
    done
}

@test "the nasty CSV files: the valid ones whole, the others with file and line" {
    cd "$DATA/nasty" || skip "no nasty"
    [ -f csv-ok-quoted.csv ] || skip "other data"
    enc() { tok-encode -m "$BATS_FILE_TMPDIR/tok.model" --split="csv:$1" --ids "$2"; }
    [ "$(enc text csv-ok-quoted.csv | wc -l)" -eq 6 ]
    [ "$(enc text csv-lf.csv | wc -l)" -eq 3 ]
    [ "$(enc id csv-bom.csv | wc -l)" -eq 1 ]
    [ "$(enc text csv-formula.csv | wc -l)" -eq 3 ]
    [ "$(enc text csv-huge-field.csv | wc -l)" -eq 1 ]
    run enc text csv-ragged.csv
    [ "$status" -eq 1 ]
    says "csv-ragged.csv:2: has 2 fields"
    run enc text csv-dup-header.csv
    [ "$status" -eq 1 ]
    says "twice"
    run enc text csv-no-header.csv
    [ "$status" -eq 1 ]
    says "has no column 'text'"
    run enc text csv-tab.tsv
    [ "$status" -eq 1 ]
    cp csv-ok-quoted.csv "$BATS_TEST_TMPDIR/c"
    tok-encode -m "$BATS_FILE_TMPDIR/tok.model" --split=csv:text csv-ok-quoted.csv |
        tok-encode -m "$BATS_FILE_TMPDIR/tok.model" --decode --split=nul > "$BATS_TEST_TMPDIR/back"
    printf 'plain, with a comma\0two\r\nlines\n\nin one field\0he said "hi" and left\0\0\0 leading and trailing \0' |
        cmp - "$BATS_TEST_TMPDIR/back"
}

@test "the nasty JSON lines: errors with file and line, the good ones counted" {
    cd "$DATA/nasty" || skip "no nasty"
    [ -f jsonl-nasty.jsonl ] || skip "other data"
    run tok-encode -m "$BATS_FILE_TMPDIR/tok.model" --split=jsonl:text --ids jsonl-nasty.jsonl
    [ "$status" -eq 1 ]
    says "jsonl-nasty.jsonl:3: "
    run --separate-stderr tok-encode -m "$BATS_FILE_TMPDIR/tok.model" --split=jsonl:text --ids \
        --skip-bad jsonl-nasty.jsonl
    [ "$status" -eq 0 ]
    [ "${#lines[@]}" -eq 3 ]
    [[ $stderr == *"8 bad records"* ]]
}
