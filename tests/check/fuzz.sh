#!/bin/bash
# fuzz: each libFuzzer target of build/fuzz for HM_FUZZ_SECONDS (2), from the seeds of
# tests/fuzz/seeds/NAME and from files that the tools make. What breaks it is left in
# build/fuzz-finds.
. "$(dirname "$0")/../tap.sh"
seconds=${HM_FUZZ_SECONDS:-2}

if [ ! -e build/fuzz ]; then
    skip 'fuzz targets' 'not built: make fuzzers'
    done_testing
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p build/fuzz-finds "$scratch/made"
tests/fixture.sh "$scratch/made" >/dev/null 2>&1 || echo '# no fixture: only the seeds of the repository'

# Files of the fixture that are what the target reads.
made_for() {
    case $1 in
    stream) echo stream.tok ;;
    shard) echo '*.tok.zst' ;;
    safetensors) echo model.safetensors ;;
    tokmodel) echo tok.model ;;
    config) echo run/config.json ;;
    csv) echo questions.csv ;;
    jsonl | prompt) echo prompts.jsonl ;;
    state) echo a.state ;;
    *) echo prompts.txt ;;
    esac
}

for target in build/fuzz/*; do
    name=$(basename "$target" | sed 's/^fuzz_//')
    mkdir -p "$scratch/$name" "$scratch/$name.seeds"
    cp tests/fuzz/seeds/"$name"/* "$scratch/$name.seeds/" 2>/dev/null
    for seed in $scratch/made/$(made_for "$name"); do
        [ -f "$seed" ] && cp "$seed" "$scratch/$name.seeds/made-$(basename "$seed")"
    done
    said=$("$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -seed=1 -print_final_stats=1 \
        -artifact_prefix="build/fuzz-finds/$name-" "$scratch/$name" "$scratch/$name.seeds" 2>&1)
    ok $? "$name: $(awk '/number_of_executed_units/ { print $2 }' <<<"$said") inputs" "$(grep -vE '^#[0-9]|^INFO' <<<"$said" | head -n 30)"
done
done_testing
