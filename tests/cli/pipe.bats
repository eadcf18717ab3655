#!/usr/bin/env bats
# Text through tok-encode and shard by real pipes, and back; and what is left when one of them dies.

load helper

setup() {
    mkdir "$BATS_TEST_TMPDIR/work"
    cd "$BATS_TEST_TMPDIR/work"
    cat "$BATS_TEST_DIRNAME"/../../man/*.[157] >corpus.txt
    tok-train -q --vocab 400 -o tok.model corpus.txt
}

@test "cat corpus.txt | tok-encode | shard, word for word" {
    run bash -o pipefail -c 'cat corpus.txt | tok-encode | shard'
    [ "$status" -eq 0 ]
    says "shard: train: 1 shard"
    [ "$(shard --list train-00000.tok.zst | sed -n 2p | cut -d, -f4)" -eq "$(wc -c <corpus.txt)" ]
    [ "$(shard --list train-00000.tok.zst | sed -n 2p | cut -d, -f3)" -eq "$(wc -l <corpus.txt)" ]
    shard --cat train-00000.tok.zst | tok-encode --decode | cmp - corpus.txt
}

@test "every byte comes back through shards, whatever separates the documents" {
    head -c 20000 /dev/urandom >noise
    for split in line nul 'sep:\n.' whole; do
        for file in corpus.txt noise; do
            tok-encode --split "$split" "$file" | shard -q --size 1000 -o "$file.d"
            shard --cat "$file.d"/* | tok-encode --decode | cmp - "$file"
            [ "$(shard --list "$file.d"/* | awk -F, 'NR > 1 { n += $4 } END { print n }')" -eq "$(wc -c <"$file")" ]
        done
    done
}

@test "a split takes whole documents, and together they are the text" {
    tok-encode corpus.txt | shard -q --split valid=20% --size 2000
    shard --cat train-*.tok.zst | tok-encode --decode | sort >a
    shard --cat valid-*.tok.zst | tok-encode --decode | sort >b
    sort -m a b | cmp - <(sort corpus.txt)
    [ "$(wc -l <b)" -gt 50 ]
    [ -z "$(comm -12 <(sort -u a) <(sort -u b))" ]
}

@test "tok-encode killed in a pipe: shard says so, and nothing stands under a real name" {
    mkfifo text ids
    tok-encode <text >ids &
    encoder=$!
    shard --size 1000 <ids 2>said &
    sharder=$!
    exec 7>text
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12; do cat corpus.txt >&7; done
    sleep 0.3
    kill -KILL "$encoder"
    status=0
    wait "$sharder" || status=$?
    exec 7>&-
    [ "$status" -eq 1 ]
    output=$(cat said)
    says "shard: -: token stream "
    says "its producer "
    [ -z "$(find . -name '*.zst*')" ]
}

@test "tok-encode that fails at once: both say so" {
    mv tok.model elsewhere
    run bash -o pipefail -c 'cat corpus.txt | tok-encode | shard'
    [ "$status" -eq 1 ]
    says "tok-encode: tok.model: "
    says "--model"
    says "shard: -: token stream is empty: its producer failed before the first byte"
    [ -z "$(find . -name '*.zst*')" ]
}

@test "shard killed in a pipe: tok-encode ends by SIGPIPE, quietly" {
    for _ in 1 2 3 4 5 6 7 8 9 10; do cat corpus.txt; done >long.txt
    run bash -c "cat long.txt | tok-encode | head -c 10 >/dev/null; echo \${PIPESTATUS[1]}"
    [ "$output" = 141 ]
}
