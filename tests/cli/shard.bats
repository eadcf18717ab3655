#!/usr/bin/env bats
# shard over a packaged token stream of 611 ids in 60 documents, the last of them unterminated.

load helper

setup() {
    stream=$BATS_TEST_DIRNAME/../golden/stream-v1.tok
    golden=$BATS_TEST_DIRNAME/../golden/shard-v1.tok.zst
    mkdir "$BATS_TEST_TMPDIR/work"
    cd "$BATS_TEST_TMPDIR/work"
}

# A column of --list, summed over the files.
sum() {
    local column=$1
    shift
    shard --list "$@" | awk -F, -v name="$column" 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) c = i } NR > 1 { n += $c } END { print n }'
}

@test "a stream on stdin becomes a shard in the working directory" {
    run --separate-stderr shard <"$stream"
    [ "$status" -eq 0 ]
    [ -z "$output" ]
    [[ $stderr == "shard: train: 1 shard, 611 tokens in 60 documents, 941 B of text, "*" on disk" ]]
    [ "$(ls)" = train-00000.tok.zst ]
    shard --cat train-00000.tok.zst | cmp - "$stream"
}

@test "-q says nothing" {
    run shard -q <"$stream"
    [ "$status" -eq 0 ]
    [ -z "$output" ]
}

@test "same stream, same bytes" {
    shard -q -o a --size 100 --split valid=20% "$stream"
    shard -q -o b --size 100 --split valid=20% - <"$stream"
    diff -r a b
}

@test "shards and streams of version 1 are read" {
    shard --verify "$golden"
    shard --cat "$golden" | cmp - "$stream"
}

@test "sizes and splits lose nothing" {
    shard -q -o out --size 100 --split valid=20%,test=5% "$stream"
    [ "$(ls out/train-* | wc -l)" -gt 2 ]
    [ -f out/valid-00000.tok.zst ]
    [ -f out/test-00000.tok.zst ]
    [ "$(sum tokens out/*)" -eq 611 ]
    [ "$(sum documents out/*)" -eq 60 ]
    [ "$(sum text_bytes out/*)" -eq 941 ]
    [ "$(sum tokens out/valid-*)" -lt 250 ]
}

@test "a set can be cut anew through a pipe" {
    shard -q -o small --size 50 "$stream"
    [ "$(ls small | wc -l)" -gt 5 ]
    shard --cat small/* | shard -q -o large
    shard -q -o whole "$stream"
    diff -r large whole
}

@test "zstd and plain tools read a shard" {
    shard -q -o out --size 100 "$stream"
    zstd -qt out/*
    [ "$(zstd -dc out/* | wc -c)" -eq 1222 ]
    [ "$(zstd -dc "$golden" | od -A n -t u2 -N 12 | xargs)" = "4 5 8 13 20 29" ]
    [ "$(shard --cat --format=llmc "$golden" | wc -c)" -eq $((1024 + 1222)) ]
    [ "$(shard --cat --format=llmc "$golden" | od -A n -t u4 -N 16 | xargs)" = "20240520 1 611 0" ]
    cmp <(shard --cat --format=llmc "$golden" | tail -c +1025) <(zstd -dc "$golden")
}

@test "--cat -o writes a file, --list and --verify read a pipe" {
    shard --cat -o again.tok "$golden"
    cmp again.tok "$stream"
    no_leftovers
    cat "$golden" | shard --verify
    run bash -c "cat '$golden' | shard --list"
    [ "$status" -eq 0 ]
    [ "${lines[0]}" = "file,tokens,documents,text_bytes,size_bytes,bytes_per_token,frames,width,vocab,tokenizer,separator" ]
    [ "${lines[1]}" = "-,611,60,941,1370,2.242,1,2,300,1122334455667788,line" ]
}

@test "--list quotes file names that need it" {
    cp "$golden" 'a,"b".tok.zst'
    run shard --list 'a,"b".tok.zst'
    [ "$status" -eq 0 ]
    [[ ${lines[1]} == '"a,""b"".tok.zst",611,'* ]]
}

@test "a stream that was cut off leaves nothing, and what stood there stays" {
    shard -q "$stream"
    cp train-00000.tok.zst before
    for n in 0 50 300 700 1626 1665; do
        run shard --size 50 --split valid=50% < <(head -c "$n" "$stream")
        [ "$status" -eq 1 ]
        [[ $output == "shard: -: "*"producer"* || $n == 50 ]]
        cmp train-00000.tok.zst before
        [ "$(ls | wc -l)" -eq 2 ]
    done
    says "without an end record"
}

@test "a producer killed in a pipe leaves nothing" {
    run bash -c "{ head -c 700 '$stream'; kill -9 \$BASHPID; } | shard --size 50"
    [ "$status" -eq 1 ]
    says "shard: -: token stream ends without an end record"
    says "its producer was stopped"
    [ -z "$(ls)" ]
}

@test "SIGTERM ends it by the signal, with nothing left" {
    mkfifo pipe
    shard --size 50 <pipe &
    pid=$!
    exec 7>pipe
    head -c 700 "$stream" >&7
    sleep 0.3
    kill -TERM "$pid"
    tail -c +701 "$stream" >&7
    exec 7>&-
    status=0
    wait "$pid" || status=$?
    [ "$status" -eq 143 ]
    [ "$(ls)" = pipe ]
}

@test "a set replaces a longer one whole" {
    shard -q --size 50 "$stream"
    [ "$(ls | wc -l)" -gt 5 ]
    shard -q "$stream"
    [ "$(ls)" = train-00000.tok.zst ]
}

@test "a full disk and a read-only folder: status 1, nothing under a real name" {
    run shard --cat -o /dev/full "$golden"
    [ "$status" -eq 1 ]
    says "No space left on device"
    run bash -c "shard --cat '$golden' >/dev/full"
    [ "$status" -eq 1 ]
    says "No space left on device"
    run shard -o /proc/none "$stream"
    [ "$status" -eq 1 ]
    says "shard: /proc/none: cannot make the folder"
    run shard -o /dev/null "$stream"
    [ "$status" -eq 1 ]
}

@test "--verify goes on after a damaged shard and fails in the end" {
    cp "$golden" good.tok.zst
    cp "$golden" bad.tok.zst
    printf x | dd of=bad.tok.zst bs=1 seek=700 conv=notrunc status=none
    run shard --verify bad.tok.zst good.tok.zst missing.tok.zst
    [ "$status" -eq 1 ]
    says "shard: bad.tok.zst: "
    says "shard: good.tok.zst: whole"
    says "shard: missing.tok.zst: cannot open"
    run shard --cat good.tok.zst bad.tok.zst -o out.tok
    [ "$status" -eq 1 ]
    says "shard: bad.tok.zst: "
    [ ! -e out.tok ]
    no_leftovers
}

@test "wrong input is named" {
    run shard <<<"some text that is long enough to be taken for the header of a token stream, or not"
    [ "$status" -eq 1 ]
    says "shard: -: is no token stream of hm: give what tok-encode writes"
    run shard "$golden"
    [ "$status" -eq 1 ]
    says "is no token stream of hm"
    run shard --verify "$stream"
    [ "$status" -eq 1 ]
    says "is no shard of hm: give a file that shard wrote"
}

@test "wrong command lines: status 2" {
    run shard --split valid <"$stream"
    [ "$status" -eq 2 ]
    says "split 'valid' has no share: write it as NAME=PERCENT%"
    run shard --name a/b "$stream"
    [ "$status" -eq 2 ]
    run shard --list --cat "$golden"
    [ "$status" -eq 2 ]
    run shard "$stream" "$stream"
    [ "$status" -eq 2 ]
    run shard --level 20 "$stream"
    [ "$status" -eq 2 ]
    [ -z "$(ls)" ]
}
