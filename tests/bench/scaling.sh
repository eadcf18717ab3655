#!/bin/bash
# scaling: one benchmark on each instruction set that this machine has, and on 1, 2, 4... threads;
# a table of tokens a second. What stands after -- goes to hm-bench, which is found on PATH.
#
#   scaling.sh [THREADS...] [-- OPTION...]
set -euo pipefail

threads=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    threads+=("$1")
    shift
done
[ $# -eq 0 ] || shift
if [ ${#threads[@]} -eq 0 ]; then
    for ((n = 1; n <= $(nproc); n *= 2)); do threads+=("$n"); done
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
printf '%-8s %7s  %-12s %-24s %12s %8s\n' isa threads phase shape tok/s '% roof'
for isa in base avx2 avx512; do
    for n in "${threads[@]}"; do
        hm-bench --device="cpu:$isa" -j "$n" --what=train,prefill,decode "$@" \
            >"$scratch/csv" 2>"$scratch/said" || {
            printf '%-8s %s\n' "$isa" "$(head -n 1 "$scratch/said")"
            continue 2
        }
        awk -F, -v isa="$isa" -v n="$n" '$1 == "phase" {
            printf "%-8s %7d  %-12s %-24s %12.0f %8.1f\n", isa, n, $2, $5, $10, $17 }' "$scratch/csv"
    done
done
