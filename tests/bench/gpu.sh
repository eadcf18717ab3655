#!/bin/bash
# gpu: how fast hm is on the GPU of this machine, as BENCH.md tells it. Runs hm-bench for each row of
# the table below and prints a line of CSV for it: id, what, rate in tokens a second, bytes of
# memory that the program took, date, GPU, driver. An ID is that of a row, or its first word for all
# such. Rows depth-DEPTH-ROWS-MODEL, decoding of the hybrid and of its transformer twins, of which mha
# has a KV head for each head, are run where asked for, take some 4 minutes and 70 GB, and make tables
# of their own. ops prints a line for each op of a row instead: what the roofline of the same run
# predicts for a call, and what it took. PEERS.csv (id,rate,bytes) is what another program reached, best
# in the same hour on the same GPU; gpu.sh cannot know which nor when, so the file says it in a line of
# comment. One in ops.csv goes beside its table.
#
#   gpu.sh run [ID...]                       > gpu.csv     on the machine with the GPU; hm-bench in PATH
#   gpu.sh ops [ID...]                       > ops.csv     the same; default: train-base and prefill-base
#   gpu.sh report gpu.csv PEERS.csv [ops.csv] > BENCH.md   anywhere
#
# DEVICE=cpu in the environment tries it without a GPU.
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
    local depth n model pattern
    for depth in 1024 4096 16384 65536 131072; do
        for n in 1 8 32; do
            for model in mmtmtmtm tttttttt mha; do
                pattern=${model/mha/tttttttt --kv-heads=8}
                echo "depth-$depth-$n-$model|decoding base as $model, rows $n, depth $depth|--what=decode --preset=base --pattern=$pattern --rows=$n --depth=$depth --time=0.1"
            done
        done
    done
}

bench() {
    hm-bench --device="${DEVICE:-cuda}" --format=csv "$@" < /dev/null
}

# The rate of hm-bench's only phase, and the memory that it planned.
measure() {
    bench "$@" |
        awk -F, '$1 == "run" && $4 == "memory" { bytes = $6 } $1 == "phase" { rate = $10 } END { printf "%.0f,%.0f", rate, bytes }'
}

# part, op, shape, calls, predicted and measured time of a call in us, share of the pass in percent
measure_ops() {
    bench "$@" | awk -F, -v OFS=, '$1 == "op" && $9 > 0 { print $3, $4, $5, $7, sprintf("%.2f", $9 * $17 / 100), sprintf("%.2f", $9), $18 }'
}

run() {
    local what=$1 id name args gpu
    shift
    gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -n 1 | sed 's/, /,/') || gpu=none,
    if [ "$what" = run ]; then
        echo 'id,what,tokens_s,bytes,date,gpu,driver'
    else
        echo 'id,what,part,op,shape,calls,predicted_us,measured_us,share_pct,date,gpu,driver'
        [ $# -gt 0 ] || set -- train-base prefill-base
    fi
    while IFS='|' read -r id name args; do
        if [ $# -gt 0 ] && [[ " $* " != *" $id "* && " $* " != *" ${id%%-*} "* ]]; then
            continue
        elif [ $# -eq 0 ] && [[ $id == depth-* ]]; then
            continue
        fi
        # shellcheck disable=SC2086
        if [ "$what" = run ]; then
            echo "$id,\"$name\",$(measure $args),$(date +%F),$gpu"
        else
            measure_ops ${args/--what=/--what=ops,} | sed "s|^|$id,\"$name\",|; s|\$|,$(date +%F),$gpu|"
        fi
    done < <(rows)
}

# Awk functions of both tables: a line's name in quotes, and what follows it.
quoted='
    function name_of(line) { sub(/^[^"]*"/, "", line); sub(/".*/, "", line); return line }
    function rest_of(line) { sub(/^.*",/, "", line); return line }'

report_rates() {
    awk -F, -v OFS=, "$quoted"'
        function count(n) { return n >= 1e6 ? sprintf("%.2f M", n / 1e6) : n >= 1e4 ? sprintf("%.1f K", n / 1e3) : n >= 1e3 ? sprintf("%.2f K", n / 1e3) : sprintf("%.0f", n) }
        function gib(n) { return n > 0 ? sprintf("%.2f GiB", n / 2 ^ 30) : "" }
        FNR == 1 { file++ }
        file == 1 && /^#/ { peer = substr($0, 3); next }
        file == 1 && FNR > 1 { rate[$1] = $2; bytes[$1] = $3; next }
        file == 2 && FNR == 1 { next }
        $1 ~ /^depth-/ {
            split($1, at, "-"); split(rest_of($0), f, ",")
            speed[at[2], at[3], at[4]] = f[1]
            if (!(at[2] in depths)) depths[at[2]] = order[++n_depths] = at[2]
            next
        }
        file == 2 {
            split(rest_of($0), f, ",")
            if (!n++) {
                printf "# How fast hm is\n\n%s, driver %s, %s.\n", f[4], f[5], f[3]
                printf "hm: `tests/bench/gpu.sh run`; the peer, %s.\n\n", peer
                print "| | hm, tokens/s | peer, tokens/s | ratio | hm, memory | peer, memory |\n|---|---|---|---|---|---|"
            }
            printf "| %s | %s | %s | %s | %s | %s |\n", name_of($0), count(f[1]), $1 in rate ? count(rate[$1]) : "",
                $1 in rate ? sprintf("%.2f", f[1] / rate[$1]) : "", gib(f[2]), gib(bytes[$1])
        }
        function by_depth(model, what,    i, rows, h, t, line) {
            print "\nDecoding, tokens/s: base, its transformer twin (tttttttt, " what "), and the hybrid over it.\n"
            print "| depth | 1 row | twin | ratio | 8 rows | twin | ratio | 32 rows | twin | ratio |\n|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
            for (i = 1; i <= n_depths; i++) {
                line = "| " order[i]
                for (rows = 1; rows <= 32; rows = rows == 1 ? 8 : rows * 4) {
                    h = speed[order[i], rows, "mmtmtmtm"]; t = speed[order[i], rows, model]
                    line = line " | " count(h) " | " count(t) " | " (t > 0 ? sprintf("%.2f", h / t) : "")
                }
                print line " |"
            }
        }
        END {
            if (n_depths) {
                by_depth("tttttttt", "the same grouped-query cache")
                by_depth("mha", "a KV head for each head")
            }
        }' "$2" "$1"
}

# A table a row: its ops, the one that takes most first; those below one percent as one.
report_ops() {
    awk -F, "$quoted"'
        /^#/ { note = substr($0, 2); next }
        $1 != "id" {
            split(rest_of($0), f, ",")
            if (!($1 in name)) { name[$1] = name_of($0); ids[++n_ids] = $1 }
            line = sprintf("| %s | %s | %s | %d | %.1f | %.1f | %.0f %% | %.1f %% |", f[1], f[2], f[3], f[4], f[5], f[6], 100 * f[5] / f[6], f[7])
            floor[$1] += f[4] * f[5]; took[$1] += f[4] * f[6]
            if (f[7] < 1) { n_small[$1]++; small_floor[$1] += f[4] * f[5]; small[$1] += f[4] * f[6]; small_pct[$1] += f[7]; next }
            at = ++n[$1]; lines[$1, at] = line; cost[$1, at] = f[4] * f[6]
            for (; at > 1 && cost[$1, at] > cost[$1, at - 1]; at--) {
                t = lines[$1, at]; lines[$1, at] = lines[$1, at - 1]; lines[$1, at - 1] = t
                t = cost[$1, at]; cost[$1, at] = cost[$1, at - 1]; cost[$1, at - 1] = t
            }
        }
        END {
            for (i = 1; i <= n_ids; i++) {
                id = ids[i]
                printf "\n## %s: predicted against measured\n\n", name[id]
                if (i == 1) print "`tests/bench/gpu.sh ops`: a call'"'"'s bytes and FLOPs at the rates of memory and products that were\nmeasured in the same run, and its time." note "\n"
                print "| part | op | sizes | calls | predicted, us | measured, us | reached | of the pass |\n|---|---|---|--:|--:|--:|--:|--:|"
                for (k = 1; k <= n[id]; k++) print lines[id, k]
                if (n_small[id]) printf "| | %d others | | | %.1f in all | %.1f in all | %.0f %% | %.1f %% |\n", n_small[id], small_floor[id], small[id], 100 * small_floor[id] / small[id], small_pct[id]
                printf "| | **all** | | | %.1f in all | %.1f in all | %.0f %% | |\n", floor[id], took[id], 100 * floor[id] / took[id]
            }
        }' "$1"
}

report() {
    local file
    for file in "$@"; do
        [ -r "$file" ] || { echo "gpu.sh: $file: cannot be read: check the name" >&2 && exit 1; }
    done
    report_rates "$1" "$2"
    [ $# -lt 3 ] || report_ops "$3"
}

case ${1-} in
run | ops) run "$@" ;;
report) shift && report "${1:?gpu.csv}" "${2:?PEERS.csv}" ${3+"$3"} ;;
*) sed -n '2,15s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
esac
