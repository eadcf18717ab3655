#!/bin/bash
# mutate: plants a fault in a copy of a kernel, builds the emulated backend with it, and demands that
# the op's test fails: says `not ok`, or dies. Before, each test has to pass with the kernels as they
# are, and its time is a measure for the others': one that hangs has seen nothing. `make check` runs
# this with the compiler's command in HM_EMU_CXX and the folder of the build in HM_BUILD.
#
# A sed command that changes nothing means that the place is gone: write it anew. With a word as
# argument, only mutants with that word in their name or test; with --places it is only looked
# whether all have their place, which tests/check/mutants.sh does in every `make test`.
. "$(dirname "$0")/../tap.sh"

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
jobs=${JOBS:-$(nproc)}

# All objects of the library but one.
objects() { find "$HM_BUILD/emu" -name '*.o' ! -path '*/self/*' ! -path "$1"; }

# link FOLDER LEFT_OUT OBJECT...: the library, and a place for test programs beside it
link() {
    mkdir -p "$1/tests/ops"
    $HM_EMU_CXX -shared -o "$1/libhm-emu.so" -x none "${@:3}" $(objects "$2") -lm -ldl
}

# try FOLDER TEST SECONDS: 0 passed, 1 failed or died, 2 not ended, 3 not even begun
try() {
    cp "$HM_BUILD/tests/ops/test_$2" "$1/tests/ops/"
    timeout "$3" "$1/tests/ops/test_$2" --device=emu 2>/dev/null |
        awk '/^not ok/ { code = 1; exit } /^Bail out/ { code = 3; exit } /^1\.\./ { ended = 1 }
            END { exit code ? code : !ended }'
    case ${PIPESTATUS[*]} in
    '0 0') return 0 ;;
    124*) return 2 ;;
    *3) return 3 ;;
    *) return 1 ;;
    esac
}

# whole TEST: with the kernels as they are it passes; its seconds go to $tmp/TEST.time
whole() {
    local folder=$tmp/whole-$1 before=$SECONDS
    link "$folder" '' || return
    try "$folder" "$1" 600 || return
    echo $((SECONDS - before)) >"$tmp/$1.time"
}

# planted N TEST FILE SED OBJECT: says in $tmp/N.verdict what came of it
planted() {
    local folder=$tmp/$1 test=$2 file=$3 edit=$4 object=$5 limit
    mkdir -p "$folder"
    cp -r kernels "$folder/kernels"
    sed -i "$edit" "$folder/kernels/$file"
    if cmp -s "kernels/$file" "$folder/kernels/$file"; then
        echo "the place is gone: $file: $edit"
        return
    fi
    # -w: a fault may leave a variable unused; quoted includes look beside the file first
    if ! $HM_EMU_CXX -w -I"$folder/kernels" -c -o "$folder/mutant.o" -x c++ "$folder/kernels/$object" 2>&1 ||
        ! link "$folder" "$HM_BUILD/emu/kernels/$object.o" "$folder/mutant.o" 2>&1; then
        echo 'it does not compile'
        return
    fi
    limit=$(($(cat "$tmp/$test.time" 2>/dev/null || echo 60) * 3 + 60))
    try "$folder" "$test" "$limit"
    case $? in
    0) echo 'not seen' ;;
    2) echo "not ended in $limit seconds" ;;
    3) echo 'the test gave up' ;;
    esac
    rm -rf "$folder"
}

# mutant NAME TEST FILE SED [OBJECT]: OBJECT is what is compiled where FILE is a header
only=${1:-} names=() specs=()
mutant() {
    [ "$only" = --places ] || [[ "$2 $1" == *"$only"* ]] || return
    names+=("test_$2 sees: $1")
    specs+=("$2" "$3" "$4" "${5:-$3}")
}

# --- reductions ---
mutant 'block_sum: a barrier is missing' rmsnorm vec.cuh '/ block_sum(/,/^}/{/part\[/,/float sum/s/__syncthreads();//}' rmsnorm.cu
mutant 'xent: a barrier is missing where warps join' xent xent.cu '/ block_join(/,/^}/s/__syncthreads();//'
mutant 'xent: a row is read past its end' xent xent.cu '/struct row_again/,/ put(/s/i < V;/i <= V;/'
mutant 'gnorm: a barrier is missing between halves' gnorm gnorm.cu '/ block_sum_double(/,/^}/s/__syncthreads();//'
mutant 'gnorm: gradients are read past the last' gnorm gnorm.cu 's/min(begin + share, n)/begin + share/'
mutant 'gnorm: the last sum is left out of the verdict' gnorm gnorm.cu '/ k_verdict(/,/^}/s/i < n_parts;/i + 1 < n_parts;/'
mutant 'xent: a barrier is missing where losses are added' xent xent.cu '/ k_add_losses(/,/^}/s/__syncthreads();//'
mutant 'add_parts: a barrier is missing' conv1d rows.cuh '/k_add_parts(/,/^}/s/__syncthreads();//' conv1d_bwd.cu
mutant 'embed: the order of sums is that of the threads' embed embed.cu 's/ before += o.loose\[begin + i\] < m;/ before += begin + i < at;/'
mutant 'embed: rows past the last are written' embed embed.cu '/ k_embed_fwd(/,/^}/s/if (at.row + k < tiles.rows) {/if (true) {/'
mutant 'embed: the last token is not counted' embed embed.cu '/ k_embed_count(/,/^}/s/if (m < M)/if (m + 1 < M)/'
mutant 'embed: a barrier is missing in the scan of counts' embed embed.cu '/ k_embed_scan(/,/^}/s/__syncthreads();//'
mutant 'embed: an id takes the place of its neighbour' embed embed.cu '/ k_embed_scatter(/,/^}/s/, 1) - 1\] = m/, 1)] = m/'
mutant 'embed: a piece goes on into the next id' embed embed.cu '/ k_embed_sum(/,/^}/s/min(PIECE, end - at)/PIECE/'
mutant 'embed: a barrier is missing where pieces are joined' embed embed.cu '/ k_embed_join(/,/^}/s/__syncthreads();//'

# --- norms ---
mutant 'gatenorm: rows past the last are written' gatenorm norm.cuh '/ k_norm_fwd(/,/^}/s/if (!has_row)/if (false)/' gatenorm.cu
mutant 'rmsnorm: a barrier is missing where warps add dw' rmsnorm norm.cuh '/ write_part(/,/^}/s/__syncthreads();//' rmsnorm.cu
mutant 'gatenorm: the gradient of a row past the last is written' gatenorm norm.cuh '/ k_norm_bwd(/,/^}/s/has_row = m < end;/has_row = m <= end;/' gatenorm.cu
mutant 'rmsnorm: a long row is read past its end' rmsnorm norm_long.cuh '/ k_norm_fwd_long(/,/^}/s/d < o.D;/d <= o.D;/' rmsnorm.cu
mutant 'gatenorm: dw of long rows has a row twice' gatenorm norm_long.cuh '/ k_norm_dw_long(/,/^}/s/m < end; m++/m <= end; m++/' gatenorm.cu
mutant 'gatenorm: the gradient of a long row is written past its end' gatenorm norm_long.cuh '/ k_norm_bwd_long(/,/^}/s/d < o.D;/d <= o.D;/' gatenorm.cu

# --- element by element ---
mutant 'adamw: a step that is to be skipped is taken' adamw adamw.cu '/ k_adamw(/,/^}/s/ || ctl->skip)/)/'
mutant 'adamw: a copy is written past its end' adamw adamw.cu '/ store_copy(/,/^}/s/at + N <= run->n_copy/true/'
mutant 'cast: rows past the last are written' cast cast.cu '/ k_cast(/,/^}/s/if (at.row + k < tiles.rows) {/if (true) {/'
mutant 'resid: the mask of the first micro-batch stays' resid resid.cu 's/(uint64_t)ctl->micro \* (uint64_t)count/0 * (uint64_t)count/'
mutant 'rope: a quarter of the turn has the wrong sign' rope rope.cu 's/quarter >= 2 ? -b : b/quarter >= 3 ? -b : b/'
mutant 'swiglu: rows past the last are written' swiglu swiglu.cu '/ k_swiglu_fwd(/,/^}/s/if (at.row + k < tiles.rows) {/if (true) {/'
mutant 'swiglu: what is not wanted is written' swiglu swiglu.cu '/ k_swiglu_bwd(/,/^}/s/if (y.p)/if (true)/'

# --- choosing a token ---
mutant 'sample: a barrier is missing where warps join' sample sample.cu '/ block_reduce(/,/^}/s/__syncthreads();//'
mutant 'sample: a barrier is missing in the first pass' sample sample.cu '/ k_tally(/,/^}/s/__syncthreads();//'
mutant 'sample: a row has the penalties of the first' sample sample.cu '/ k_sample(/,/^}/s/a.tables.recent + r \* a/a.tables.recent + 0 * a/'

# --- conv1d ---
mutant 'conv1d: a document is not reset' conv1d conv1d.cuh 's/return seg\[0\] != seg\[-1\];/return false;/' conv1d.cu
mutant 'conv1d: a barrier is missing where warps add up' conv1d conv1d_bwd.cu '/ write_sums(/,/^}/s/__syncthreads();//'
mutant 'conv1d: tokens before the row are read' conv1d conv1d.cuh '/ read_before(/,/^}/s/if (t >= 0)/if (t >= -1)/' conv1d.cu
mutant 'conv1d: a run is written past its end' conv1d conv1d.cu '/ k_conv1d_fwd(/,/^}/s/if (t + k < n)/if (true)/'
mutant 'conv1d: the gradient does not see the tokens behind a run' conv1d conv1d_bwd.cu 's/at.is_in ? n + KMAX - 1 : 0, n_read/n, n_read/'
mutant 'conv1d: the gradient reaches into another document' conv1d conv1d_bwd.cu 's/ && (begins & all & ~(all >> b)) == 0//'
mutant 'conv1d: a row takes the history of another slot' read conv1d.cuh '/ read_before(/,/^}/s/(int64_t)at.slot/(int64_t)at.b/' conv1d.cu
mutant 'conv1d: the history goes to another slot' read conv1d.cu '/ k_conv1d_keep(/,/^}/s/(int64_t)in.slot\[b\]/(int64_t)b/'
mutant 'conv1d_step: the history goes to another slot' conv1d mamba_step.cu '/ k_conv1d_step(/,/^}/s/shift(in, x, slots\[r\], c)/shift(in, x, r, c)/'

# --- the scan ---
mutant 'ssd forward: a document is not reset within a chunk' ssd ssd_fwd.cu 's/ && steps->doc\[u + k\] == steps->doc\[tt\]//'
mutant 'ssd forward: a document is not reset between chunks' ssd ssd.cuh 's/doc == 0 ? ssd_exp(cum, T{}) : 0.0f/ssd_exp(cum, T{})/' ssd_fwd.cu
mutant 'ssd states: a document is not reset' ssd ssd.cuh 's/doc_last == 0 ? ssd_exp(last, T{}) : 0.0f/ssd_exp(last, T{})/' ssd_states.cu
mutant 'ssd forward: later tokens are seen' ssd ssd_fwd.cu 's/const bool ok = u + k <= tt \&\&/const bool ok =/'
mutant 'ssd forward: a barrier is missing before M is read' ssd ssd_fwd.cu '/before_chunk<S>(y/,/has_next/s/__syncthreads();//'
mutant 'ssd forward: a chunk is used before it has come' ssd ssd_fwd.cu '/ k_ssd_fwd(/,/^}/s/copy_wait<0>();//'
mutant 'ssd forward: tokens past the last are read' ssd ssd.cuh 's/at.len - t0, n_cols, in.is_wide/S::Q, n_cols, in.is_wide/' ssd_fwd.cu
mutant 'ssd forward: a state is kept a chunk too soon' ssd ssd_fwd.cu 's/(t0 & (out.chunk - 1)) == 0/(t1 \& (out.chunk - 1)) == 0/'
mutant 'ssd states: the state is kept after the chunk, not before' ssd ssd_states.cu 's/(((IS_REVERSE ? t0 + S::Q : t0) & (out.chunk - 1)) == 0/((t0 \& (out.chunk - 1)) == 0/'
mutant 'ssd states: a span does not fade' read ssd_states.cu '/ k_ssd_chain(/,/^}/s/s = decay \* s + end;/s = s + end;/'
mutant 'ssd states: a barrier is missing' ssd ssd_states.cu '/ k_ssd_walk(/,/^}/s/__syncthreads();//'
mutant 'ssd forward, Hopper: a document is not reset within a chunk' ssd ssd_fwd_sm90.cu 's/(u >= start) & //'
mutant 'ssd forward, Hopper: later tokens are seen' ssd ssd_fwd_sm90.cu 's/(!IS_NEAR | (u <= t))/true/'
mutant 'ssd forward, Hopper: a chunk is used before it has come' ssd ssd_fwd_sm90.cu '/ k_ssd_fwd_wg(/,/^}/s/copy_wait<0>();//'
mutant 'ssd forward, Hopper: a barrier is missing where a chunk begins' ssd ssd_fwd_sm90.cu '/ k_ssd_fwd_wg(/,/^}/s/__syncthreads();$//'
mutant 'ssd forward, Hopper: a barrier is missing before C goes' ssd ssd_fwd_sm90.cu 's,__syncthreads(); /\* M is there; C is free.*,wg_sync(1 + group);,'
mutant 'ssd forward, Hopper: a barrier is missing before M goes' ssd ssd_fwd_sm90.cu 's,wg_sync(1 + group); /\* M has been read.*,,'
mutant 'ssd forward, Hopper: a barrier is missing before y leaves' ssd ssd_fwd_sm90.cu '/ store_y(/,/^}/s/wg_sync(1 + group);//'
mutant 'ssd forward, Hopper: y is used before its product is done' ssd ssd_fwd_sm90.cu '/ within_chunk(/,/^}/s/wg_wait<0>();//'
mutant 'ssd forward, Hopper: tokens past the last are written' ssd ssd_fwd_sm90.cu 's/if (first + i \* by < n_rows)/if (n_rows > 0)/'
mutant 'ssd forward, Hopper: a state is kept a chunk too soon' ssd ssd_fwd_sm90.cu 's/(t0 & (out.chunk - 1)) == 0/((t0 + Q) \& (out.chunk - 1)) == 0/'
mutant 'ssd forward, Hopper: a document is not reset between chunks' ssd ssd_sm90.cuh 's/(even & upto) | (odd & own) ? 0.0f : exp2_fast(cum\[i\])/exp2_fast(cum[i])/' ssd_fwd_sm90.cu
mutant 'ssd states, Hopper: a span does not fade' read ssd_walk_sm90.cu 's/w.decay\[group\] \*= step->through;/;/'
mutant 'ssd states, Hopper: a document is not reset' ssd ssd_sm90.cuh 's/edges ? 0.0f : exp2_fast(end)/exp2_fast(end)/' ssd_walk_sm90.cu
mutant 'ssd states, Hopper: a barrier is missing' ssd ssd_walk_sm90.cu '/ k_ssd_walk_wg(/,/^}/s/__syncthreads();//'
mutant 'ssd states, Hopper: a chunk is used before it has come' ssd ssd_walk_sm90.cu '/ k_ssd_walk_wg(/,/^}/s/copy_wait<STAGES - 2>/copy_wait<STAGES - 1>/'
mutant 'ssd states, Hopper: the state is kept after the chunk, not before' ssd ssd_walk_sm90.cu 's/IS_REVERSE ? t0 + Q : t0) &/IS_REVERSE ? t0 : t0 + Q) \&/'
mutant 'ssd backward: a barrier is missing before the state is free' ssd ssd_bwd.cu 's,__syncthreads(); /\* D\, x and tokens.*,,'
mutant 'ssd backward: a barrier is missing before dy is read' ssd ssd_bwd.cu 's,__syncthreads(); /\* dy is there.*,,'
mutant 'ssd backward: a document is not reset within a chunk' ssd ssd_grad.cuh 's/s <= t && s >= w->start\[t\] ?/s <= t ?/' ssd_bwd.cu
mutant 'ssd backward: a document is not reset between chunks' ssd ssd_grad.cuh 's/t < w->n_live ? exp2_fast(cum\[i\]) : 0.0f/exp2_fast(cum[i])/' ssd_bwd.cu
mutant 'ssd backward: tokens past the last are read' ssd ssd_bwd.cu 's/^\( *\)n, o.P - slice \* S::PS, o.is_wide);/\1S::QT, o.P - slice * S::PS, o.is_wide);/'
mutant 'ssd backward: the last chunk is left out of the parameters' ssd ssd_bwd.cu '/ k_ssd_grad_params(/,/^}/s/i < n_chunks;/i + 1 < n_chunks;/'
mutant 'ssd backward, Hopper: a document is not reset within a chunk' ssd ssd_grad_pairs.cuh 's/ & (s >= (i ? start.y : start.x));/;/' ssd_grad_sm90.cu
mutant 'ssd backward, Hopper: later tokens are seen' ssd ssd_grad_pairs.cuh 's/(s <= t + i) & //' ssd_grad_sm90.cu
mutant 'ssd backward, Hopper: B is used before it has come' ssd ssd_grad_sm90.cu '/ k_ssd_grad_wg(/,/^}/s/copied();//'
mutant 'ssd backward, Hopper: tokens are used before they have come' ssd ssd_grad_sm90.cu '/ go_through_t(/,/D_THERE/{0,/copied<1>/s/copied<1>();/copied<3>();/}'
mutant 'ssd backward, Hopper: S is used before it has come' ssd ssd_grad_sm90.cu '/PULLS_KEPT/,/S_THERE/s/copied<1>();/copied<2>();/'
mutant 'ssd backward, Hopper: D is used before it has come' ssd ssd_grad_sm90.cu '/fetch_channels(w, w.at, i + 1/,/D_THERE/s/copied<1>();/copied<2>();/'
mutant 'ssd backward, Hopper: S takes the place of D too early' ssd ssd_grad_sm90.cu '/D_THERE/,/D_FREE/{s/const float through/if (i + 1 < at.heads) fetch_state(d, w.at.S, i + 1); &/}'
mutant 'ssd backward, Hopper: two units have one place' ssd ssd_grad_pairs.cuh 's/32, {2, 3}, skip/32, {1, 3}, skip/' ssd_grad_sm90.cu
mutant 'ssd backward, Hopper: the last token has no pulls' ssd ssd_grad_sm90.cu 's/keep_pulls(w.at.sums + (i - 1) \* QT, w, at.n);/{ keep_pulls(w.at.sums + (i - 1) * QT, w, at.n - 1); }/'
mutant 'ssd backward, Hopper: a sum is used before its product is done' ssd ssd_grad_sm90.cu '/ grad_c(/,/^}/s/wg_wait<0>();//'
mutant 'ssd backward, Hopper: tokens past the last are written' ssd ssd_grad_wg.cuh 's/t\[i\] < n);/true);/' ssd_grad_sm90.cu

# --- attention ---
mutant 'attention: a document is not reset' attn attn.cu 's/w.first\[m\]\[half\] = seg ? .*;/w.first[m][half] = 0;/'
mutant 'attention: the last key of a row is not seen' attn attn.cuh 's/j > last + m \* 16 + i \/ 2 \* 8)/j >= last + m * 16 + i \/ 2 * 8)/' attn.cu
mutant 'attention: later keys are seen' attn attn.cuh 's/ || j > last + m \* 16 + i \/ 2 \* 8)/)/' attn.cu
mutant 'attention: a barrier is missing before keys are used' attn attn.cu '/ k_attn_fwd(/,/^}/{/for (int j0/,/^    }/s/__syncthreads();//}'
mutant 'attention: keys are used before they have come' attn attn.cu '/ k_attn_fwd(/,/^}/{/for (int j0/,/^    }/s/copy_wait<0>();//}'
mutant 'attention: keys past the last are read' attn attn.cuh 's/const bool ok = row0 + r < n_rows && c < P;/const bool ok = c < P;/' attn.cu
mutant 'attention backward: a document is not reset' attn attn_bwd.cu 's/\] = seg ? attn_doc_end(.*;/] = n;/'
mutant 'attention backward: earlier queries are seen' attn attn_bwd.cuh 's/i < row0 + row || //' attn_bwd.cu
mutant 'attention backward: a barrier is missing in dq' attn attn_bwd.cu '/ k_attn_dq(/,/^}/{/for (int j0/,/^    }/s/__syncthreads();//}'
mutant 'attention backward: a barrier is missing in dk and dv' attn attn_bwd.cu '/ k_attn_dkv(/,/^}/{/^    do {/,/^    }/s/__syncthreads();//}'
mutant 'attention backward, Hopper: a document is not reset' attn attn_bwd_sm90.cu 's/\] = seg ? attn_doc_end(.*;/] = n;/'
mutant 'attention backward, Hopper: a barrier is missing in dq' attn attn_bwd_sm90.cu '/ k_attn_dq_wg(/,/^}/{/for (int j0/,/^    }/s/__syncthreads();//}'
mutant 'attention backward, Hopper: a barrier is missing in dk and dv' attn attn_bwd_sm90.cu '/ k_attn_dkv_wg(/,/^}/{/for (const int h_end/,/^    }/s/__syncthreads();//}'
mutant 'attention backward, Hopper: weights before their product is done' attn attn_bwd_sm90.cu '/ k_attn_dq_wg(/,/^}/s/wg_wait<1>/wg_wait<2>/'
mutant 'attention backward, Hopper: both warpgroups take the first rows' attn attn_bwd_sm90.cu 's/wg_abt(d, a, group \* 64/wg_abt(d, a, 0/'

# --- decode ---
mutant 'attn_step: a barrier is missing where warps join' attn attn_step.cu '/ k_attn_step(/,/^}/s/__syncthreads();//'
mutant 'attn_step: the cache is read past the position' attn attn_step.cuh '/ share_of(/,/^}/s/min((which + 1) \* each, pos + 1)/(which + 1) * each/' attn_step.cu
mutant 'attn_step: a key of no position has weight' attn attn_step.cuh '/ take_tile(/,/^}/s/ < end ? x \* scale : LOWEST/ < end + TILE ? x * scale : LOWEST/' attn_step.cu
mutant 'attn_step: the part of a block is left out' attn attn_step.cu '/ k_attn_join(/,/^}/s/in.n_blocks - first/in.n_blocks - 1 - first/'
mutant 'attn_step: the parts of a warp are left out' attn attn_step.cu '/ k_attn_join(/,/^}/s/(n_warps, /(n_warps - 1, /'
mutant 'attn_step: a barrier is missing where parts are joined' attn attn_step.cu '/ k_attn_join(/,/^}/s/__syncthreads();//'
mutant 'attn_step: the cache of another slot is read' attn attn_step.cu 's/row0 = (int64_t)in.slot\[r\] \* in.S;/row0 = (int64_t)r * in.S;/'
mutant 'attn_step: the new key goes to the place before' attn attn_step.cu 's/in.kcache.p\[(row0 + pos) \*/in.kcache.p[(row0 + (pos ? pos - 1 : 0)) */'
mutant 'attn_read: new keys do not go behind the old ones' read attn.cu '/ k_attn_store(/,/^}/s/ + rows.pos\[row\];/;/'
mutant 'attn_step, a block a KV head: a barrier is missing where warps join' attn attn_rows.cu '/ k_attn_rows(/,/^}/s/__syncthreads();//'
mutant 'attn_step, a block a KV head: keys are used before they have come' attn attn_rows.cu '/ k_attn_rows(/,/^}/s/copy_wait<L::STAGES - 1>();/copy_wait<L::STAGES>();/'
mutant 'attn_step, a block a KV head: a share too few is joined' attn attn_rows.cu 's/join<JOINED>(n_shares,/join<JOINED>(n_shares - 1,/'
mutant 'attn_step, a block a KV head: the cache of another slot is read' attn attn_rows.cu 's/row0 = (int64_t)in.slot\[r\] \* in.S;/row0 = (int64_t)r * in.S;/'
mutant 'attn_step, a block a KV head: the new key goes to the place before' attn attn_rows.cu 's/in.kcache.p\[(row0 + pos) \*/in.kcache.p[(row0 + (pos ? pos - 1 : 0)) */'
mutant 'linear_step: a barrier is missing before segments are added' linear linear_step.cu '/ k_linear_step(/,/^}/s/__syncthreads();//'
mutant 'linear_step: rows past the last are read' linear linear_step.cu 's/r < x.R ? x.k - at : 0/x.k - at/'
mutant 'linear_step: columns past the last are written' linear linear_step.cu 's/if (n0 + col < y.n)/if (true)/'
mutant 'linear_tile: a barrier is missing before a stage is used' linear linear_tile.cu '/copy_wait<STAGES - 2>();/,/next == n_tiles/s/__syncthreads();/;/'
mutant 'linear_tile: a stage is overwritten while it is read' linear linear_tile.cu 's/const int to = now > 0 ? now - 1 : STAGES - 1;/const int to = now;/'
mutant 'linear_tile: a stage is used before it has come' linear linear_tile.cu 's/copy_wait<STAGES - 2>();/copy_wait<STAGES>();/'
mutant 'linear_tile: a row of x takes the place of another' linear linear_tile.cuh 's/kept = is_second ? x.w\[i + 2\] : x.w\[i\];/kept = x.w[i];/' linear_tile.cu
mutant 'linear_split: sums take the place of tiles in use' linear linear_split.cu '/grid_release();/,/float \*sums/s/__syncthreads();//'
mutant 'linear_split: a barrier is missing before segments are added' linear linear_split.cu '/leave_sums(sums/,/all = {0/s/__syncthreads();//'
mutant 'linear_split: a stage is used before it has come' linear linear_split.cu 's/copy_wait<STAGES - 1>();/copy_wait<STAGES>();/'
mutant 'mamba_step: a barrier is missing before y is read' mamba_step mamba_step.cu '/advance_any(sums/,/FUSED/s/__syncthreads();//'
mutant 'mamba_step: rows of another block are advanced' mamba_step mamba_step.cu '/ advance_rows(/,/^}/s/if (p + i < end)$/if (true)/'
mutant 'mamba_step: the state of another slot is advanced' mamba_step mamba_step.cu 's/in.state + ((int64_t)slot \* E/in.state + ((int64_t)r * E/'
mutant 'ssd_step: the state is not kept' ssd mamba_step.cu '/ advance_rows(/,/^}/s/store(to + i/if (false) store(to + i/'
mutant 'mamba_step: the history is shifted before all have read it' mamba_step mamba_step.cu '/ fill_token(/,/^}/{/if (i < n_e)$/{N;s/if (i < n_e)\(.*shift(\)/if (true)\1/}}'
mutant 'mamba_step: the history of B and C goes to another slot' mamba_step mamba_step.cu '/ k_mamba_join(/,/^}/s/shift(conv, window_of(conv, r, slot, c), slot, c)/shift(conv, window_of(conv, r, slot, c), r, c)/'
mutant 'mamba_step: a barrier is missing in the norm' mamba_step vec.cuh '/ block_sum(/,/^}/{/part\[/,/float sum/s/__syncthreads();//}' mamba_step.cu
mutant 'mamba_step, few blocks a row: a barrier is missing before the token is used' mamba_step mamba_flow.cu '/ fill_row(/,/^}/s/__syncthreads();//'
mutant 'mamba_step, few blocks a row: a barrier is missing before y is read' mamba_step mamba_flow.cu '/__threadfence/,/fmaf/s/__syncthreads();//'
mutant 'mamba_step, few blocks a row: the state is used before it has come' mamba_step mamba_flow.cu 's/copy_wait<STAGES - 1>();/copy_wait<STAGES>();/'
mutant 'mamba_step, few blocks a row: the ring is filled before it is read' mamba_step mamba_flow.cu 's/p + STAGES \* S::STEP, n_e/p + (STAGES - 1) * S::STEP, n_e/'

# --- recorded work ---
mutant 'graphs: another key is replayed' dev graph.cu 's/if (g->key == key)/if (g->key + 1 == key || g->key == key)/'

if [ "$only" = --places ]; then
    gone=
    for i in "${!names[@]}"; do
        file=kernels/${specs[i * 4 + 1]}
        sed "${specs[i * 4 + 2]}" "$file" | cmp -s "$file" - && gone+="$file: ${names[$i]}"$'\n'
    done
    ok_none "each of ${#names[@]} faults has its place in the kernels" "$gone"
    done_testing
fi

tests=$(printf '%s\n' "${specs[@]}" | awk 'NR % 4 == 1' | sort -u)
run() {
    local i n=0
    for test in $tests; do
        whole "$test" >"$tmp/$test.log" 2>&1 &
        n=$((n + 1)); [ "$n" -lt "$jobs" ] || { wait -n; n=$((n - 1)); }
    done
    wait
    n=0
    for i in "${!names[@]}"; do
        planted "$i" "${specs[@]:i * 4:4}" >"$tmp/$i.verdict" &
        n=$((n + 1)); [ "$n" -lt "$jobs" ] || { wait -n; n=$((n - 1)); }
    done
    wait
}
run
for test in $tests; do
    ok_none "test_$test passes with the kernels as they are" "$([ -s "$tmp/$test.time" ] || echo "it does not"; cat "$tmp/$test.log")"
done
for i in "${!names[@]}"; do
    ok_none "${names[$i]}" "$(cat "$tmp/$i.verdict")"
done
done_testing
