#!/bin/bash
# ptxas: what the assembler said of every kernel when libhm-cuda.so was built: registers, shared
# memory, spills. No kernel spills on sm_89 and sm_90, save those of may_spill and f32 instances of
# kernels with matrix products, which exist for exactness and call theirs. The table of the last
# accepted build is ptxas.csv, a row a kernel and GPU, the greatest figures of its instances; `make
# cuda && tests/check/ptxas.sh --accept` writes it anew.
. "$(dirname "$0")/../tap.sh"

# Kernels that keep a few words on the stack, bytes stored and loaded, with a blank around each:
# k_ssd_fwd's largest instances (8 on sm_89, 44 at most on sm_90); on sm_90 k_ssd_fwd_wg (24: where
# a warp's part of a state lies, loaded once a kept chunk) and k_ssd_walk_wg (8).
may_spill=' k_ssd_fwd k_ssd_fwd_wg k_ssd_walk_wg '
archs='sm_89 sm_90'

# kernel,arch,instances,registers,smem_bytes,spill_bytes from the logs beside the objects
table() {
    echo 'kernel,arch,instances,registers,smem_bytes,spill_bytes'
    cat "$@" | c++filt | awk -v archs=" $archs " '
        /Compiling entry function/ {
            match($0, /k_[a-z0-9_]+/); name = substr($0, RSTART, RLENGTH)
            match($0, /sm_[0-9]+/); arch = substr($0, RSTART, RLENGTH)
            is_entry = index(archs, " " arch " ") > 0; key = name "," arch; spill = 0
            is_exact = /(tile|shape)<float/ || /k_(ssd|attn|linear)_[a-z_]*<float/
            if (is_entry) n[key]++
        }
        /bytes spill stores/ { spill = is_exact ? 0 : $5 + $9 }
        /Used [0-9]+ registers/ && is_entry {
            match($0, /Used [0-9]+/); regs = substr($0, RSTART + 5, RLENGTH - 5) + 0
            smem = match($0, /[0-9]+ bytes smem/) ? substr($0, RSTART, RLENGTH) + 0 : 0
            if (regs > most_regs[key]) most_regs[key] = regs
            if (smem > most_smem[key]) most_smem[key] = smem
            if (spill > most_spill[key]) most_spill[key] = spill
            is_entry = 0
        }
        END { for (key in n) print key "," n[key] "," most_regs[key] + 0 "," most_smem[key] + 0 "," most_spill[key] + 0 }
    ' | LC_ALL=C sort
}

library=$(readlink -f "${HM_BUILD:-build/last}/libhm-cuda.so" 2>/dev/null)
logs=("${library%/*}"/kernels/*.log)
if [ ! -e "$library" ] || [ ! -e "${logs[0]}" ]; then
    skip 'no kernel spills' 'libhm-cuda.so is not built'
    done_testing
    exit
fi

now=$(table "${logs[@]}")
kept=tests/check/ptxas.csv
if [ "${1:-}" = --accept ]; then
    echo "$now" > "$kept"
    exit
fi

ok_none 'ptxas was heard' "$([ "$(wc -l <<<"$now")" -gt 1 ] || echo "no kernel for $archs in ${library%/*}/kernels/*.log")"
ok_none 'no kernel spills' \
    "$(awk -F, -v may="$may_spill" 'NR > 1 && $6 > 0 && index(may, " " $1 " ") == 0 { print $1 " on " $2 ": " $6 " bytes" }' <<<"$now")"
# Another compiler, other figures: told, but no failure.
if [ -f "$kept" ]; then
    diff "$kept" <(echo "$now") | sed -n 's/^[<>]/# &/p'
fi
done_testing
