#!/bin/bash
# layout: the rules of the house that a program can check: sizes, names, who may include whom, no
# printing or state in lib.
. "$(dirname "$0")/../tap.sh"

if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    files=$(git ls-files --cached --others --exclude-standard | while read -r f; do [ -f "$f" ] && echo "$f"; done)
else
    files=$(find . -path ./build -prune -o -type f -print | sed 's,^\./,,')
fi
pick() { grep -E "$1" <<<"$files"; }

ok_none 'no source file has more than 800 lines' \
    "$(pick '\.(c|h|cpp|cu|sh|mk|bats)$|^Makefile$' | xargs wc -l | awk '$2 != "total" && $1 > 800')"
ok_none 'README.md has fewer than 200 lines' "$([ ! -f README.md ] || awk 'END { if (NR >= 200) print NR }' README.md)"

# Headers of lib from the bottom to the top: a file includes only what stands in its own line or
# above, and within a line there are no circles.
order='ground:   both err buf rng io json threads
data:     utf8 spm words merges vocab bpe encode split table records stream shard_format shard shard_write shard_scan shard_set corpus batch
numbers:  dtype tensor arena quant st_hash safetensors gguf
backend:  dev ops verdict
model:    config config_json params acts state state_file model flops forward backward loss read step
learn:    optim sched schedule train_opts train_meta ckpt train_ckpt run_dir run_log train_run train settings
use:      roofline trace trace_cost trace_ops trace_step dry bench eval score question tasks sampler stops prompts completion generate chat hf'
layers=$(awk '{ for (i = 2; i <= NF; i++) print NR, $i }' <<<"$order")
layer_of() { awk -v n="$1" '$2 == n { print $1 }' <<<"$layers"; }
local_includes() { sed -nE 's/^#include "([a-z0-9_]+)\.h".*/\1/p' "$1"; }

unknown= above= edges=
for f in $(pick '^lib/[a-z0-9_]+\.(c|h|cpp)$'); do
    name=$(basename "$f" | sed 's/\..*//')
    mine=$(layer_of "$name")
    [ -n "$mine" ] || { unknown+="$f "; continue; }
    for other in $(local_includes "$f"); do
        theirs=$(layer_of "$other")
        [ -n "$theirs" ] || { unknown+="$other.h (in $f) "; continue; }
        [ "$theirs" -le "$mine" ] || above+="$f includes $other.h"$'\n'
        [[ $f != *.h ]] || [ "$other" = "$name" ] || edges+="$name $other"$'\n'
    done
done
ok_none 'every module of lib stands in the order of tests/check/layout.sh' "$unknown"
ok_none 'a file of lib includes only headers that stand above it' "$above"
ok_none 'the headers of lib make no circle' "$(tsort <<<"$edges" 2>&1 >/dev/null)"

outside=
for f in $(pick '^lib/cpu/'); do
    for other in $(local_includes "$f"); do
        [ -f "lib/cpu/$other.h" ] && continue
        theirs=$(layer_of "$other")
        [ -n "$theirs" ] && [ "$theirs" -le "$(layer_of ops)" ] || outside+="$f includes $other.h"$'\n'
    done
done
ok_none 'lib/cpu includes itself, backend and what stands above' "$outside"
ok_none 'lib names no backend' "$(pick '^lib/[^/]*$' | xargs grep -nE '^#include "(cpu|cuda)')"

# Comments are cut before looking for calls.
bare() { perl -0777 -pe 's{/\*.*?\*/}{ my $c = $&; $c =~ s/[^\n]//g; $c }gse; s{//[^\n]*}{}g' "$1"; }
calls=
for f in $(pick '^lib/.*\.(c|h|cpp)$'); do
    calls+="$(bare "$f" | grep -nE '(^|[^a-z_])(printf|puts|putchar|perror|exit|_exit|abort|signal|sigaction)[ ]*\(|\b(stdout|stderr)\b|std::c(out|err)' | sed "s,^,$f:,")"$'\n'
done
# Asserts are for the contract between an op and its caller, and so for lib/cpu alone.
calls+=$(pick '^lib/[^/]*$' | xargs grep -nE '(^|[^_])assert\(')
ok_none 'lib does not print, exit or handle signals' "$(sed '/^$/d' <<<"$calls")"
ok_none 'nothing is left to do' \
    "$(pick '\.(c|h|cpp|cu|sh|mk|bats|[1-9])$|^Makefile$' | grep -vxF tests/check/layout.sh | xargs grep -nwE 'TODO|FIXME|XXX|HACK')"
ok_none 'no path of somebody'"'"'s machine is in a file' \
    "$(pick '\.(c|h|cpp|cu|sh|mk|bats|md|[1-9])$|^Makefile$' | grep -vxF tests/check/layout.sh | xargs grep -nE '(^|[^a-z.])/(work|home|root)/|\.\./shared')"

# Ops' files carry the op's name, tools' the tool's; X.c and X.h belong together.
ok_none 'base names are unique' \
    "$(pick '\.(c|h|cpp|cu)$' | grep -vE '^(tests/ref|kernels|lib/cpu)/|^bin/shard\.c$' | sed -E 's,\.[a-z]+$,,' | sort -u | sed 's,.*/,,' | sort | uniq -d)"
ok_none 'tests and scripts can be run' \
    "$(for f in $(pick '^(tests/(cli|check)/.*\.(bats|sh)|pipelines/.*\.sh|\.ci/run)$'); do [ -x "$f" ] || echo "$f"; done)"
ok_none 'no built file is committed' "$(git ls-files -ci --exclude-standard 2>/dev/null)"

lib=${HM_BUILD:-build/last}/libhm.a
if [ -f "$lib" ]; then
    ok_none 'what the library shows begins with hm_' \
        "$(readelf -sW "$lib" | awk '$5 == "GLOBAL" && $6 == "DEFAULT" && $7 != "UND" && $8 !~ /^(hm_|_Z|__asan|__odr_asan)/ { print $8 }' | sort -u)"
    ok_none 'the library has no global mutable state' \
        "$(objdump -t "$lib" | awk -F '\t' '
            NF == 2 { n = split($1, left, " "); section = left[n]; split($2, right, " ") }
            NF == 2 && left[n - 1] != "d" && section ~ /^\.t?(data|bss)/ && section !~ /^\.data\.rel\.ro/ {
                print section, right[2], right[3] }' | grep -vE ' (\.LC|_ZGV|DW\.ref|__odr_asan|__asan)')"
else
    skip 'symbols of the library' 'it is not built'
fi
done_testing
