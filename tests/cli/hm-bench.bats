#!/usr/bin/env bats
# hm-bench: form, columns, sums and errors. No time is asserted: machines are shared.

load helper

small=(--width=32 --mlp=48 --pattern=mt --context=32 --state=16 --chunk=16 --vocab=300 --batch=2
    --time=0.01 --repeat=2 --stream=1Mi --depth=0,16 --rows=1,3 -j2)

setup() {
    cd "$BATS_TEST_TMPDIR"
}

bench() {
    hm-bench -q "${small[@]}" "$@"
}

@test "the whole run: every record has all columns, every phase is there" {
    TMPDIR=$PWD bench > out 2> said
    [ ! -s said ]
    [ "$(ls)" = "$(printf 'out\nsaid')" ]
    [ "$(head -n 1 out)" = "kind,phase,part,name,shape,value,calls,tokens,time_us,rate_tok_s,flop,byte,flop_a_token,byte_a_token,gflop_s,gb_s,roofline_pct,share_pct" ]
    [ "$(sed 's/"[^"]*"//g' out | awk -F, '{ print NF }' | sort -u)" = 18 ]
    [ "$(awk -F, '$1 == "run" { print $4 }' out | tr '\n' ' ')" = "version config device dtype recompute memory seed " ]
    [ "$(awk -F, '$1 == "roof" { print $4 }' out | tr '\n' ' ')" = "memory_read product_f32 " ]
    [ "$(awk -F, '$1 == "phase" { print $2 " " $5 }' out | sed 's/ bytes.*//')" = "train B=2 T=32
prefill R=1 T=32
prefill R=3 T=32
decode R=1 depth=0
decode R=1 depth=16
decode R=3 depth=0
decode R=3 depth=16
encode
decode_text
load B=2 T=32" ]
    awk -F, '$1 == "phase" && !($8 > 0 && $9 > 0 && $10 > 0 && $12 > 0) { exit 1 }' out
    awk -F, '$1 == "phase" && $2 ~ /^(train|prefill|decode)$/ && !($11 > 0 && $17 > 0) { exit 1 }' out
}

@test "parts make up the step, and ops the parts" {
    bench --what=train,ops > out
    [ "$(awk -F, '$1 == "part" { print $3 }' out | tr '\n' ' ')" = "loader forward head backward optimizer " ]
    awk -F, '
        $1 == "part" { part += $18; op_of[$3] = 0; share[$3] = $18 }
        $1 == "op" { op += $18; op_of[$3] += $18 }
        END {
            for (p in op_of) if (op_of[p] > share[p] * 1.3 + 1) exit 1
            exit !(part > 70 && part < 130 && op > 20 && op < 130)
        }' out
}

@test "figures agree with each other" {
    bench --what=train,decode,ops > out
    awk -F, '
        function near(a, b) { return a > b * 0.999 && a < b * 1.001 }
        $1 == "roof" && $4 == "memory_read" { memory = $16 }
        $1 == "roof" && $4 == "product_f32" { product = $15 }
        $1 == "op" && $9 > 0 && $11 > 0 {
            if (!near($15, $11 / $9 / 1e3) || !near($16, $12 / $9 / 1e3)) exit 1
            least = $12 / memory / 1e3
            if ($11 / product / 1e3 > least) least = $11 / product / 1e3
            if (!near($17, 100 * least / $9)) exit 1
            n++
        }
        $1 == "part" { pass = $9 / $18 }
        $1 == "op" && $2 == "train" && !near($7 * $9 / $18, pass) { exit 1 }
        $1 == "phase" { if (!near($10, $8 / $9 * 1e6) || !near($13, $11 / $8) || !near($14, $12 / $8)) exit 1 }
        END { exit !(n > 20) }' out
}

@test "a phase's FLOPs are those of hm-train --plan" {
    bench --what=train > out
    hm-train -q --preset=tiny --width=32 --mlp=48 --pattern=mt --context=32 --state=16 --chunk=16 \
        --vocab=300 --batch=2 -j2 --plan > plan
    want=$(awk -F, '/train/ && /flop/ { for (i = 1; i <= NF; i++) if ($i ~ /^[0-9.e+]+$/) { print $i; exit } }' plan)
    awk -F, -v want="$want" '$1 == "phase" { exit !(want > 0 && $13 > want * 0.999 && $13 < want * 1.001) }' out
}

@test "only what was asked for" {
    bench --what=decode --rows=2 --depth=5 > out
    [ "$(awk -F, '$1 != "run" && $1 != "roof" && $1 != "kind"' out | wc -l)" = 1 ]
    grep -q '^phase,decode,,,R=2 depth=5,,1,2,' out
    bench --what=load > out
    run ! grep -q '^roof' out
    bench --what=prefill --rows=2 --prompt=7,300 > out
    [ "$(awk -F, '$1 == "phase" { print $5 " " $8 }' out | tr '\n' ',')" = "R=2 T=7 14,R=2 T=300 600," ]
}

@test "recomputing costs what it should, bf16 has a roof of its own" {
    bench --what=train --recompute=block --pattern=mtm > again
    bench --what=train --pattern=mtm > once
    flop() { awk -F, '$1 == "phase" { print $11 }' "$1"; }
    awk -v a="$(flop again)" -v b="$(flop once)" 'BEGIN { exit !(a > b * 1.05 && a < b * 1.34) }'
    bench --what=train,ops --dtype=bf16 > out
    grep -q '^roof,,,product_bf16' out
    grep -q '^run,,,dtype,,bf16' out
    bytes() { awk -F, '$1 == "op" && $4 == "adamw" { print $12 }' "$1"; }
    bench --what=train,ops > f32
    [ "$(bytes out)" -gt "$(bytes f32)" ] # it writes what products read, too
}

@test "text and tokenizer from files, a checkpoint, tables" {
    yes 'some words of a file' | head -n 500 > text
    bench --what=encode --text=text > out
    grep -q '^phase,encode,,,bytes=10500 ' out
    golden=$BATS_TEST_DIRNAME/../golden/hf-nope-tied.safetensors
    hm-bench -q -m "$golden" --what=decode --rows=1 --depth=3 --time=0.01 --stream=1Mi > out
    grep -q '^run,,,config,,mtmm D=64 F=160 V=320 ' out
    bench --what=train,ops --format=table > out
    grep -q '^roofline  *[0-9.]* GB/s' out
    grep -q '^train B=2 T=32: ' out
    grep -Eq '^    linear_fwd  *M=64 n=96 k=32  ' out
}

@test "mistakes" {
    for wrong in --what=nothing --what= --what=ops --rows=0 --rows=1,x --depth=-1 --depth= --prompt=0 \
        --time=0 --repeat=0 --repeat=65; do
        run --separate-stderr bench "$wrong"
        [ "$status" -eq 2 ]
        [ -z "$output" ]
        [[ ${stderr_lines[0]} == "hm-bench: "* ]]
    done
    run bench --what=load -
    [ "$status" -eq 2 ]
    run --separate-stderr bench none.tok.zst
    [ "$status" -eq 1 ]
    [ -z "$output" ]
    [[ $stderr == "hm-bench: none.tok.zst: cannot open: No such file"* ]]
    run bench --what=encode --text=none.txt
    [ "$status" -eq 1 ]
    says "hm-bench: none.txt: "
    run bench --what=train --preset=350m --batch=4096 --context=65536
    [ "$status" -eq 1 ]
    says "of memory"
    run bash -c "hm-bench ${small[*]} --what=load > /dev/full"
    [ "$status" -eq 1 ]
    says "No space left"
}

@test "compare.sh sets two runs beside each other" {
    bench --what=decode --rows=1 --depth=0 > a.csv
    bench --what=decode --rows=1 --depth=0 > b.csv
    run "$BATS_TEST_DIRNAME/../bench/compare.sh" a.csv b.csv,a.csv
    [ "$status" -eq 0 ]
    [[ ${lines[0]} == "decode R=1 depth=0 "*" us "*" us "*" x" ]]
    run "$BATS_TEST_DIRNAME/../bench/compare.sh" a.csv /dev/null
    [ "$status" -eq 1 ]
}

@test "a GPU that is not there is predicted from its published rates" {
    run hm-bench --preset=tiny --predict=h100 --what=train,decode,load,ops --format=csv
    [ "$status" -eq 0 ]
    # 4 x 256 rows of 128 in bf16 and the norm's weights: the least time that a call takes
    [[ $output == *'op,train,forward,rmsnorm_fwd,M=1024 D=128,'*',1.5,'* ]]
    # 1.1M parameters at 28 bytes, and 2 for what products read, and 3350 GB/s
    [[ $output == *'op,train,optimizer,adamw,n='*',9.8'* ]]
    [[ $output != *'host,'* ]]
    run hm-bench --predict=voodoo2
    [ "$status" -eq 2 ]
    says "'voodoo2' is not known: use rtx4060"
}
