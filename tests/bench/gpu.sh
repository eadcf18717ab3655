#!/bin/bash
# gpu: how fast hm is on the GPU of this machine, as BENCH.md tells it. Runs hm-bench for each row of
# the table below and prints a line of CSV for it: id, what, rate in tokens a second, bytes of
# memory that the program took, date, GPU, driver. PEERS.csv (id,rate,bytes) is what another program
# reached in the same hour on the same GPU; gpu.sh cannot know which, so the file says it in a line
# of comment.
#
#   gpu.sh run [ID...]                       > gpu.csv     on the machine with the GPU; hm-bench in PATH
#   gpu.sh report gpu.csv PEERS.csv          > BENCH.md    anywhere
set -euo pipefail

rows() {
    cat <<'END'
train-base|training base, B=32 T=1024|--what=train --preset=base --batch=32
train-100m|training 100m, B=32 T=1024|--what=train --preset=100m --batch=32
train-base-t|training base as tttttttt, B=32 T=1024|--what=train --preset=base --pattern=tttttttt --batch=32
train-base-4096|training base, B=8 T=4096|--what=train --preset=base --batch=8 --context=4096
train-base-32768|training base, B=1 T=32768|--what=train --preset=base --batch=1 --context=32768
decode-base-1|decoding base, 1 row, depth 1024|--what=decode --preset=base --rows=1 --depth=1024
decode-base-32|decoding base, 32 rows, depth 1024|--what=decode --preset=base --rows=32 --depth=1024
decode-base-256|decoding base, 256 rows, depth 1024|--what=decode --preset=base --rows=256 --depth=1024
decode-base-deep|decoding base, 1 row, depth 32768|--what=decode --preset=base --rows=1 --depth=32768
decode-100m-1|decoding 100m, 1 row, depth 1024|--what=decode --preset=100m --rows=1 --depth=1024
prefill-base|prefill base, 8 prompts of 1024|--what=prefill --preset=base --rows=8 --prompt=1024
END
}

# The rate of hm-bench's only phase, and the memory that it planned.
measure() {
    hm-bench --device=cuda --format=csv "$@" |
        awk -F, '$1 == "run" && $4 == "memory" { bytes = $6 } $1 == "phase" { rate = $10 } END { printf "%.0f,%.0f", rate, bytes }'
}

run() {
    local id what args gpu
    gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -n 1 | sed 's/, /,/')
    echo 'id,what,tokens_s,bytes,date,gpu,driver'
    while IFS='|' read -r id what args; do
        if [ $# -gt 0 ] && [[ " $* " != *" $id "* ]]; then
            continue
        fi
        # shellcheck disable=SC2086
        echo "$id,\"$what\",$(measure $args < /dev/null),$(date +%F),$gpu"
    done < <(rows)
}

report() {
    local file
    for file in "$@"; do
        [ -r "$file" ] || { echo "gpu.sh: $file: cannot be read: check the name" >&2 && exit 1; }
    done
    awk -F, -v OFS=, '
        function count(n) { return n >= 1e6 ? sprintf("%.2f M", n / 1e6) : n >= 1e3 ? sprintf("%.1f K", n / 1e3) : sprintf("%.0f", n) }
        function gib(n) { return n > 0 ? sprintf("%.2f GiB", n / 2 ^ 30) : "" }
        FNR == 1 { file++ }
        file == 1 && /^#/ { peer = substr($0, 3); next }
        file == 1 && FNR > 1 { rate[$1] = $2; bytes[$1] = $3; next }
        file == 2 && FNR == 1 { next }
        file == 2 {
            what = $0; sub(/^[^"]*"/, "", what); sub(/".*/, "", what)
            rest = $0; sub(/^.*",/, "", rest); split(rest, f, ",")
            if (!n++) {
                printf "# How fast hm is\n\n%s, driver %s, %s.\n", f[4], f[5], f[3]
                printf "hm: `tests/bench/gpu.sh run`; the peer, on the same GPU in the same hour: %s.\n\n", peer
                print "| | hm, tokens/s | peer, tokens/s | ratio | hm, memory | peer, memory |\n|---|---|---|---|---|---|"
            }
            printf "| %s | %s | %s | %s | %s | %s |\n", what, count(f[1]), $1 in rate ? count(rate[$1]) : "",
                $1 in rate ? sprintf("%.2f", f[1] / rate[$1]) : "", gib(f[2]), gib(bytes[$1])
        }' "$2" "$1"
}

case ${1-} in
run) shift && run "$@" ;;
report) shift && report "${1:?gpu.csv}" "${2:?PEERS.csv}" ;;
*) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
esac
