#!/bin/bash
# compare: two CSV files of hm-bench beside each other: the time of each phase and part (with -o: op)
# before and after, and how many times as fast it became. Runs on a noisy machine should be taken in
# turns: before, after, before, after; several files of a side may be given, of which the fastest
# counts.
#
#   compare.sh [-o] BEFORE[,BEFORE...] AFTER[,AFTER...]
set -euo pipefail

kinds='^(phase|part)$'
if [ "${1-}" = -o ]; then
    kinds='^(phase|part|op)$'
    shift
fi
if [ $# -ne 2 ]; then
    echo 'usage: compare.sh [-o] BEFORE.csv[,...] AFTER.csv[,...]' >&2
    exit 2
fi
IFS=, read -ra before <<<"$1"
IFS=, read -ra after <<<"$2"
for file in "${before[@]}" "${after[@]}"; do
    head -n 1 "$file" | grep -q '^kind,phase,part,name,shape,value,calls,tokens,time_us,' || {
        echo "compare.sh: $file: is no CSV of hm-bench" >&2
        exit 1
    }
done

awk -F, -v kinds="$kinds" -v n_before="${#before[@]}" '
    FNR == 1 { file++; next }
    $1 !~ kinds { next }
    {
        key = $2 " " ($3 ? $3 " " : "") ($4 ? $4 " " : "") $5
        side = file > n_before
        if (!side && !(key in seen)) { seen[key] = 1; order[++n] = key }
        if (!((side, key) in time) || $9 < time[side, key]) time[side, key] = $9
    }
    END {
        for (i = 1; i <= n; i++) {
            key = order[i]
            if (!((1, key) in time)) { printf "%-56s %12.1f us only before\n", key, time[0, key]; continue }
            printf "%-56s %12.1f us %12.1f us %7.2f x\n", key, time[0, key], time[1, key],
                time[0, key] / time[1, key]
        }
        for (k in time) {
            split(k, part, SUBSEP)
            if (part[1] == 1 && !((0, part[2]) in time)) printf "%-56s only after\n", part[2]
        }
    }' "${before[@]}" "${after[@]}"
