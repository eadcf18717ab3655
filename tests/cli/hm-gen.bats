#!/usr/bin/env bats
# hm-gen: records in and out, neighbours, options, states, the chat.

load helper

setup() {
    fixture
    printf '%s\n' 'The cat' '' 'Once upon a time' 'the dog ran' 'a' 'king and queen said' > prompts.txt
}

gen() {
    hm-gen -q -j1 --max-tokens=12 "$@"
}

# The value of a key of each JSON line; perl's own parser says whether the line is JSON.
json() {
    perl -MJSON::PP -ne '
        BEGIN { $key = shift @ARGV; $json = JSON::PP->new->utf8->canonical->allow_nonref }
        $v = $json->decode($_)->{$key};
        print ref $v ? $json->encode($v) : $v // "", "\n"' "$1"
}

@test "prompts on stdin, a completion a line" {
    run hm-gen < prompts.txt
    [ "$status" -eq 0 ]
    hm-gen -q < prompts.txt > out.txt
    [ "$(wc -l < out.txt)" -eq 6 ]
}

@test "neither neighbours nor the batch change a byte" {
    gen --batch=1 < prompts.txt > one
    for batch in 2 3 16; do
        gen --batch=$batch < prompts.txt | cmp - one
    done
    gen -j2 < prompts.txt | cmp - one
    gen --json --no-rates --batch=1 < prompts.txt > one
    gen --json --no-rates --batch=4 < prompts.txt | cmp - one
}

@test "a prompt with a seed of its own says the same alone and among others" {
    sed 's/.*/{"prompt": "&", "seed": 5, "id": "&"}/' prompts.txt > prompts.jsonl
    gen --jsonl --json --no-rates < prompts.jsonl | json ids > all
    while IFS= read -r line; do
        printf '%s\n' "$line" | gen --jsonl --json | json ids
    done < prompts.jsonl > alone
    cmp all alone
}

@test "the seed matters, and greedy takes none" {
    gen --json --seed=1 < prompts.txt | json ids > a
    gen --json --seed=2 < prompts.txt | json ids > b
    run cmp -s a b
    [ "$status" -eq 1 ]
    gen --json --seed=1 --greedy < prompts.txt | json ids > a
    gen --json --seed=2 --temperature=0 < prompts.txt | json ids > b
    gen --json --seed=3 --top-k=1 < prompts.txt | json ids > c
    cmp a b
    cmp a c
}

@test "escaped lines, NUL records and JSON hold the same text" {
    nul_id=$(printf '\0' | tok-encode --ids | cut -d' ' -f1)
    local opts=(--max-tokens=40 --temperature=3 --top-p=1 --logit-bias="$nul_id=-1e9")
    gen "${opts[@]}" < prompts.txt > lines
    tr '\n' '\0' < prompts.txt | gen "${opts[@]}" -0 > nul
    [ "$(tr -cd '\0' < nul | wc -c)" -eq 6 ]
    perl -pe 's/\n/\0/; s/\\(.)/$1 eq "n" ? "\n" : $1 eq "r" ? "\r" : $1/ge' lines | cmp - nul
    gen "${opts[@]}" --json < prompts.txt | json is_utf8 | grep -q .
}

@test "--echo puts the prompt in front, --escaped reads it back" {
    gen --echo < prompts.txt | cut -c1-3 > heads
    cut -c1-3 prompts.txt > want
    [ "$(sed -n 1p heads)" = "$(sed -n 1p want)" ]
    [ "$(sed -n 6p heads)" = "$(sed -n 6p want)" ]
    run gen --escaped --json --echo <<< 'a\nb\\c'
    [ "$(json prompt <<< "$output")" = $'a\nb\\c' ]
    run gen --json --echo <<< 'a\nb\\c'
    [ "$(json prompt <<< "$output")" = 'a\nb\\c' ]
}

@test "JSON: keys, counts, stop reasons" {
    echo '{"prompt": "The cat", "id": 7, "max_tokens": 3, "ignore_eos": true}' |
        gen --jsonl --json > out
    [ "$(json id < out)" = 7 ]
    [ "$(json number < out)" = 0 ]
    [ "$(json n_tokens < out)" = 3 ]
    [ "$(json stop < out)" = length ]
    [ "$(json ids < out | tr -cd , | wc -c)" -eq 2 ]
    [ "$(json logprobs < out | tr -cd , | wc -c)" -eq 2 ]
    grep -q '"read_tok_s"' out
    echo x | gen --json --no-rates > out
    run grep -c tok_s out
    [ "$output" = 0 ]
}

@test "a bias forces a token, and </s> ends a completion" {
    id=$(echo ' cat' | tok-encode --ids | cut -d' ' -f1)
    run gen --prompt=a --logit-bias="$id=1e6" --max-tokens=3
    [ "$output" = " cat cat cat" ]
    run gen --jsonl --json <<< "{\"prompt\": \"a\", \"logit_bias\": {\"2\": 1e6}}"
    [ "$(json stop <<< "$output")" = eos ]
    [ "$(json ids <<< "$output")" = "[2]" ]
    [ "$(json text <<< "$output")" = "" ]
    run gen --ignore-eos --json --logit-bias=2=1e5 --max-tokens=4 <<< a
    [[ $(json ids <<< "$output") != *'[2]'* ]]
    [ "$(json stop <<< "$output")" = length ]
}

@test "stop strings: the text before, across tokens, by option and by prompt" {
    id=$(echo ' cat' | tok-encode --ids | cut -d' ' -f1)
    run gen --prompt=a --logit-bias="$id=1e6" --stop='t cat c'
    [ "$output" = " ca" ]
    run gen --jsonl --json --logit-bias="$id=1e6" <<< '{"prompt": "a", "stop": ["zz", "at ca"]}'
    [ "$(json text <<< "$output")" = " c" ]
    [ "$(json stop <<< "$output")" = stop ]
    [ "$(json stop_string <<< "$output")" = "at ca" ]
    run gen --prompt=a --stop=
    [ "$status" -eq 1 ]
    says "a stop string is empty"
}

@test "penalties keep tokens from coming again" {
    id=$(echo ' cat' | tok-encode --ids | cut -d' ' -f1)
    run gen --json --greedy --logit-bias="$id=1000" --presence-penalty=100 --frequency-penalty=100 <<< 'a cat'
    [[ $(json ids <<< "$output") != *"$id,$id,$id,$id,$id,$id,$id,$id,$id,$id,$id,$id"* ]]
    run gen --json --greedy --logit-bias="$id=1000" <<< 'a cat'
    [[ $(json ids <<< "$output") = *"$id,$id,$id,$id,$id,$id,$id,$id,$id,$id,$id,$id"* ]]
}

@test "--prompt prints raw text, the same streamed and at its end" {
    gen --prompt='The cat' --stream=never > a
    gen --prompt='The cat' --stream=always > b
    [ -s a ]
    head -c "$(wc -c < b)" a | cmp - b
    run gen --prompt='The cat' --stream=always --echo
    [[ $output = "The cat"* ]]
}

@test "mistakes in prompts are told with file and line" {
    printf '{"prompt": "a"}\n{"promt": "b"}\n' > bad.jsonl
    run gen --jsonl bad.jsonl
    [ "$status" -eq 1 ]
    says 'hm-gen: bad.jsonl:2: no "prompt"'
    for line in '{"prompt": "a", "temprature": 1}' '{"prompt": 1}' '[1]' '{' '' \
        '{"prompt": "a", "top_p": 2}' '{"prompt": "a", "seed": "x"}' '{"prompt": "\ud800"}' \
        '{"prompt": "a", "stop": [1]}' '{"prompt": "a", "logit_bias": {"99999999": 1}}' \
        '{"prompt": "a", "prompt": "b"}' '{"prompt": "a", "ignore_eos": 1}'; do
        run gen --jsonl <<< "$line"
        [ "$status" -eq 1 ]
        says 'hm-gen: -:1: '
    done
}

@test "a prompt that does not fit is told, the others are completed" {
    { head -c 3000 /dev/zero | tr '\0' x; echo; cat prompts.txt; } > long.txt
    run --separate-stderr hm-gen --max-tokens=2 --context=64 --json long.txt
    [ "$status" -eq 1 ]
    [ "$(wc -l <<< "$output")" -eq 7 ]
    [ "$(head -1 <<< "$output" | json stop)" = context ]
    [[ $stderr = *"warning: prompt 1 has "* ]]
}

@test "the model: from a folder, from a pipe, missing, none" {
    gen --prompt=a > want
    mkdir -p folder && cp model.safetensors folder/
    gen -m folder --prompt=a | cmp - want
    gen -m - --prompt=a < model.safetensors | cmp - want
    rm model.safetensors
    run gen --prompt=a
    [ "$status" -eq 1 ]
    says "model.safetensors: is not in the working directory: name it with --model FILE"
    head -c 1000 folder/model.safetensors > cut.safetensors
    run gen -m cut.safetensors --prompt=a
    [ "$status" -eq 1 ]
    says "cut.safetensors"
}

@test "what does not go together is a usage error" {
    for options in '--chat --json' '--prompt=a --jsonl' '--jsonl -0' '--json -0' '--system=x' \
        '--chat prompts.txt' '--chat --null' '--chat -o out.txt' \
        '--prompt=a prompts.txt' '--top-p=2' '--batch=0' '--top-k=x' \
        '--temperature=nan'; do
        run gen $options < /dev/null
        [ "$status" -eq 2 ]
    done
}

@test "a state saved and loaded goes on as if it had been read" {
    gen --prompt='Once upon a time the cat' --greedy > want
    gen --prompt='Once upon a' --state-save=s --max-tokens=0
    no_leftovers
    gen --prompt=' time the cat' --state-load=s --greedy | cmp - want
    printf ' time\n the cat\n' | gen --state-load=s > two
    [ "$(wc -l < two)" -eq 2 ]
    run gen --state-save=s2 < prompts.txt
    [ "$status" -eq 1 ]
    says "give one prompt"
}

@test "another model's state, or a damaged one, is refused" {
    gen --prompt='Once' --state-save=s --max-tokens=0
    hm-train -q -j1 --init-from=model.safetensors --max-steps=1 --batch=1 -o other train-*.tok.zst
    run gen -m other --state-load=s --prompt=a
    [ "$status" -eq 1 ]
    says "s: "
    says "another model"
    head -c 500 s > cut
    run gen --state-load=cut --prompt=a
    [ "$status" -eq 1 ]
    perl -pe 'BEGIN { undef $/ } substr($_, -5, 1) ^= "\x01"' s > flipped
    run gen --state-load=flipped --prompt=a
    [ "$status" -eq 1 ]
}

@test "chat through a pipe: turns, undo, settings, save and load" {
    printf 'the cat\nthe dog\n' | gen --chat > two
    [ "$(wc -l < two)" -ge 2 ]
    printf 'the cat\nthe dog\n/undo\nthe dog\n' | gen --chat > undone
    { cat two; tail -n +2 two; } > want
    printf 'the cat\n' | gen --chat > one
    tail -c +"$(($(wc -c < one) + 1))" two > second
    cat two second | cmp - undone
    printf 'the cat\n/save s\n' | gen --chat | cmp - one
    printf '/load s\nthe dog\n' | gen --chat | cmp - second
    printf 'the cat\n' | gen --chat --state-save=s2 | cmp - one
    printf 'the dog\n' | gen --chat --state-load=s2 | cmp - second
    printf 'x\n/reset\nthe cat\n' | gen --chat | tail -c "$(wc -c < one)" | cmp - one
}

@test "chat: what is read is counted once" {
    printf 'the cat\nthe dog\nthe king\n' | hm-gen -j1 -v --chat --max-tokens=4 2> said > /dev/null
    read -r n_read n_all < <(sed -nE 's/.* ([0-9]+) tokens read, ([0-9]+) in the conversation/\1 \2/p' said)
    [ "$n_read" -gt 20 ]
    [ "$n_read" -lt "$n_all" ]
}

@test "chat: several lines, slashes, commands that are none" {
    printf 'one\\\ntwo\n' | gen --chat > a
    printf '"""one\ntwo"""\n' | gen --chat > b
    printf '"""\none\ntwo\n"""\n' | gen --chat --chat-format=plain > c
    printf '"""one\ntwo"""\n' | gen --chat --chat-format=plain > d
    cmp a b
    [ -s c ] && [ -s d ]
    printf '//x\n' | gen --chat > /dev/null
    run gen --chat <<< '/nonsense'
    [ "$status" -eq 1 ]
    says "there is no command /nonsense"
    run gen --chat <<< '/set top_p 7'
    [ "$status" -eq 1 ]
    run gen --chat <<< '/load nowhere'
    [ "$status" -eq 1 ]
    says "nowhere: cannot open"
    run gen --chat <<< '/help'
    says "/undo"
}

@test "chat on a terminal: lines are edited, Ctrl-C stops the answer, Ctrl-D ends" {
    command -v script > /dev/null || skip "no script(1)"
    # Waits until the terminal has shown so many of it.
    shown() {
        for _ in $(seq 100); do
            [ "$(tr '\r' '\n' < typescript | grep -ac -- "$2")" -ge "$1" ] && return
            sleep 0.1
        done
    }
    typed() {
        shown 1 '^> '
        printf 'the cag\177t\n'
        shown 2 '^> '
        printf 'half a li\003'
        shown 3 '^> '
        printf '/set max_tokens 100000000\n/set\n'
        shown 1 'max_tokens 100000000$'
        printf 'go on\n'
        shown 1 'go on'
        sleep 1 # of an answer that has no end
        printf '\003'
        shown 1 stopped
        printf '/undo\n'
        shown 1 '/undo'
        printf '\004'
    }
    : > typescript
    typed | TERM=vt100 timeout 60 script -qefc \
        'exec hm-gen -j1 --chat --ignore-eos --logit-bias=7=-1e9 --max-tokens=5 --context=30000' typescript > /dev/null
    grep -q 'stopped' typescript
    grep -q 'max_tokens 100000000' typescript
    ! grep -q 'no command' typescript
}

@test "a closed pipe is quiet, a full disk is told" {
    yes a | head -2000 > many.txt
    set +e
    hm-gen -q --max-tokens=1 < many.txt 2> said | head -1 > /dev/null
    set -e
    [ ! -s said ]
    run --separate-stderr bash -c 'hm-gen -q --max-tokens=1 < prompts.txt > /dev/full'
    [ "$status" -eq 1 ]
    [[ $stderr = *"No space left"* ]]
}

@test "SIGINT ends it by the signal, and what was written stands" {
    yes a | head -100000 > many.txt
    hm-gen -q -j1 --batch=2 --max-tokens=4 < many.txt > out &
    pid=$!
    for _ in $(seq 50); do
        [ -s out ] && break
        sleep 0.1
    done
    kill -INT $pid
    run wait $pid
    [ "$status" -eq 130 ] || [ "$status" -eq 0 ] || wait $pid || [ $? -eq 130 ]
    [ "$(wc -l < out)" -lt 100000 ]
}
