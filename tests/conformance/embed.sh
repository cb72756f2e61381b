#!/usr/bin/env bash
# Embeddings and scores against the peer: for every architecture of encoders, every way of pooling, and decoders that embed, a small random model;
# `altiserve embed --raw` beside `peer embed --raw` on token lists of several lengths, and on texts. Prints a row each (model, worst NMSE); fails when one is out of bound.
#   PEER_DIR   the peer's folder; without it nothing is tested
#   ARCHS_DIR  NAME-dense.gguf: metadata of architectures
#   ALTISERVE_BIN, SAMPLE=1 (a few rows), ONLY=regex
# Bounds (float32 weights): 1e-6, and 1e-5 where the peer rounds GELU through half precision. A score is one number: its squared error is
# held to the bound times max(1, score^2).
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
[ -n "${PEER_DIR:-}" ] && [ -x "$PEER_DIR/peer" ] || { echo "embed: no peer (PEER_DIR): skipped"; exit 0; }
: "${ARCHS_DIR:=$root/../shared/archs}"
bin=${ALTISERVE_BIN:-$root/build/altiserve}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export GGML_NO_BACKTRACE=1
vocabs=$PEER_DIR/data/models

. "$here/peer.sh"

failed=0 rows=0
# held NAME ARCH VOCABULARY BOUND SCORES: runs the model that is there; SCORES: how many of the peer's numbers are scores (0: an embedding).
held() {
  local name=$1 arch=$2 vocab=$3 bound=$4 scores=$5 worst=0 value n lists="1 7 33 200" input
  [ -n "${SAMPLE:-}" ] && lists="7 100"
  for n in $lists text; do
    if [ "$n" = text ]; then
      [ "$vocab" -gt 1000 ] || continue # its tokenizer is of ids alone
      input=(--text "Dense vectors, 42 of them: naïve café?  [SEP] done")
    else input=(--tokens "$(tokens "$n" "$vocab" $((n + 17)))"); fi
    "$PEER_DIR/peer" embed "$work/m.gguf" "${input[@]}" --raw --kv-f32 --no-flash --threads 1 > "$work/ref" 2> "$work/log" || { echo "$name: the peer failed: $(tail -1 "$work/log")"; failed=1; return; }
    "$bin" embed "$work/m.gguf" "${input[@]}" --raw --kv-type f32 --threads 2 > "$work/ours" 2> "$work/log" || { echo "$name: $(tail -1 "$work/log")"; failed=1; return; }
    value=$(awk -v k="$scores" 'NR == FNR { n = NF; for (i = 1; i <= NF; i++) a[i] = $i; next }
      { if (n != (k ? k : NF)) { print "inf"; exit } for (i = 1; i <= n; i++) { d += (a[i] - $i) ^ 2; s += $i ^ 2 } if (k && s < 1) s = 1; print d / s }' "$work/ours" "$work/ref")
    worst=$(awk -v a="$worst" -v b="${value:-nan}" 'BEGIN { print (b == b + 0 && b <= a + 0) ? a : b }')
  done
  rows=$((rows + 1))
  if awk -v v="$worst" -v b="$bound" 'BEGIN { exit !(v == v + 0 && v <= b) }'; then printf '%-26s %-16s embed %-12s holds (%s)\n' "$name" "$arch" "$worst" "$bound"
  else
    printf '%-26s %-16s embed %-12s OUT OF BOUND (%s)\n' "$name" "$arch" "$worst" "$bound"
    failed=1
  fi
}

sizes="--set context_length=u32:512 --set embedding_length=u32:128 --set block_count=u32:2 --set feed_forward_length=u32:256 --set attention.head_count=u32:4 --set attention.head_count_kv=u32:4
  --set attention.layer_norm_epsilon=f32:1e-6 --set attention.layer_norm_rms_epsilon=f32:1e-6 --set attention.causal=bool:false --set rope.freq_base=f32:10000"
# encoder NAME ARCH BOUND SCORES [peer random's options...]
encoder() {
  local name=$1 arch=$2 bound=$3 scores=$4 vocab=bert-bge n=30000
  shift 4
  [ -n "${ONLY:-}" ] && ! [[ $name =~ $ONLY ]] && return
  case $arch in gemma-embedding | llama-embed) vocab=llama-spm ;; nomic-bert-moe) vocab=nomic-bert-moe ;; esac
  # shellcheck disable=SC2086
  "$PEER_DIR/peer" random "$work/m.gguf" --arch "$arch" --vocab "$vocabs/ggml-vocab-$vocab.gguf" --seed 5 $sizes "$@" > "$work/log" 2>&1 || { echo "$name: peer random failed: $(tail -1 "$work/log")"; failed=1; return; }
  held "$name" "$arch" "$n" "$bound" "$scores"
}
# decoder NAME ARCH BOUND SCORES [peer random's options...]
decoder() {
  local name=$1 base=$2 bound=$3 scores=$4
  shift 4
  [ -n "${ONLY:-}" ] && ! [[ $name =~ $ONLY ]] && return
  [ -f "$ARCHS_DIR/$base.gguf" ] || { echo "$name: no $base.gguf in ARCHS_DIR: skipped"; return; }
  "$PEER_DIR/peer" random "$work/m.gguf" --meta "$ARCHS_DIR/$base.gguf" --seed 5 "$@" > "$work/log" 2>&1 || { echo "$name: peer random failed: $(tail -1 "$work/log")"; failed=1; return; }
  held "$name" "${base%-dense}" 128 "$bound" "$scores"
}

none="--set pooling_type=u32:0" mean="--set pooling_type=u32:1" cls="--set pooling_type=u32:2" last="--set pooling_type=u32:3" rank="--set pooling_type=u32:4"
modern="--set attention.sliding_window=u32:32 --set attention.sliding_window_pattern=u32:3 --set rope.freq_base_swa=f32:10000 --set block_count=u32:6"
gemma="--set block_count=u32:6 --set attention.head_count_kv=u32:2 --set attention.key_length=u32:32 --set attention.value_length=u32:32 --set attention.sliding_window=u32:16"
head=cls.weight,cls.bias,cls.output.weight,cls.output.bias
printf '%-26s %-16s %-5s %-12s\n' model architecture "" "worst NMSE"
# shellcheck disable=SC2086
{
  encoder bert bert 1e-5 0 $mean
  encoder modern-bert modern-bert 1e-5 0 $modern $cls --set rope.freq_base=f32:160000
  encoder bert-rank bert 1e-5 1 $rank --with $head
  decoder qwen3-last qwen3-dense 1e-6 0 $last
  if [ -z "${SAMPLE:-}" ]; then
    encoder bert-none bert 1e-5 0 $none
    encoder bert-cls bert 1e-5 0 $cls
    encoder bert-last bert 1e-5 0 $last
    encoder bert-unsaid bert 1e-5 0
    encoder bert-biases bert 1e-5 0 $mean --with token_types.weight,blk.%.attn_q.bias,blk.%.attn_k.bias,blk.%.attn_v.bias,blk.%.attn_output.bias,blk.%.ffn_up.bias,blk.%.ffn_down.bias
    encoder bert-fused bert 1e-5 0 $mean --with token_types.weight,blk.%.attn_qkv.weight,blk.%.attn_qkv.bias
    encoder bert-one-matrix bert 1e-5 1 $rank --with cls.output.weight,cls.output.bias
    encoder nomic-bert nomic-bert 1e-6 0 $mean --with token_types.weight
    encoder nomic-bert-moe nomic-bert-moe 1e-5 0 $mean --set expert_count=u32:4 --set expert_used_count=u32:2 --set moe_every_n_layers=u32:2
    encoder jina-bert-v2 jina-bert-v2 1e-5 0 $mean
    encoder jina-bert-v2-norms jina-bert-v2 1e-5 0 $mean --with blk.%.attn_q_norm.weight,blk.%.attn_q_norm.bias,blk.%.attn_k_norm.weight,blk.%.attn_k_norm.bias,blk.%.attn_norm_2.weight,blk.%.attn_norm_2.bias,blk.%.ffn_gate.weight
    encoder jina-bert-v2-heads jina-bert-v2 1e-5 0 $mean --set attention.head_count=u32:6 --set attention.head_count_kv=u32:6 --set embedding_length=u32:192 # slopes past a power of two
    encoder jina-bert-v2-rank jina-bert-v2 1e-5 1 $rank --with cls.weight,cls.bias
    encoder jina-bert-v3 jina-bert-v3 1e-5 0 $mean
    encoder modern-bert-full modern-bert 1e-5 0 $cls
    encoder modern-bert-mean modern-bert 1e-5 0 $modern $mean
    encoder modern-bert-rank modern-bert 1e-5 1 $modern $rank --with $head,cls.norm.weight
    encoder neo-bert neo-bert 1e-6 0 $cls
    encoder eurobert eurobert 1e-6 0 $mean
    encoder gemma-embedding gemma-embedding 1e-5 0 $gemma $mean
    encoder gemma-embedding-dense gemma-embedding 1e-5 0 $gemma $mean --set dense_2_feat_in=u32:128 --set dense_2_feat_out=u32:256 --set dense_3_feat_in=u32:256 --set dense_3_feat_out=u32:128 --with dense_2.weight,dense_3.weight
    encoder llama-embed llama-embed 1e-6 0 $mean
    decoder llama-unsaid llama-dense 1e-6 0
    decoder llama-mean llama-dense 1e-6 0 $mean
    decoder qwen3-mean qwen3-dense 1e-6 0 $mean
    decoder qwen3-cls qwen3-dense 1e-6 0 $cls
    decoder qwen3-none qwen3-dense 1e-6 0 $none
    decoder qwen3-rank qwen3-dense 1e-6 1 $rank --with cls.output.weight
    decoder gemma3-mean gemma3-dense 1e-5 0 $mean
  fi
}
# At unit length, as without --raw.
if [ -z "${ONLY:-}" ]; then
  # shellcheck disable=SC2086
  "$PEER_DIR/peer" random "$work/m.gguf" --arch nomic-bert --vocab "$vocabs/ggml-vocab-bert-bge.gguf" $sizes $mean > "$work/log" 2>&1
  "$PEER_DIR/peer" embed "$work/m.gguf" --text "unit length" --threads 1 > "$work/ref" 2> "$work/log" && "$bin" embed "$work/m.gguf" --text "unit length" --threads 1 > "$work/ours" \
    && awk 'NR == FNR { for (i = 1; i <= NF; i++) a[i] = $i; next } { for (i = 1; i <= NF; i++) { d += (a[i] - $i) ^ 2; s += $i ^ 2 } exit !(NF && d <= 1e-6 && s > 0.999 && s < 1.001) }' "$work/ours" "$work/ref" \
    || { echo "embed: at unit length it differs"; failed=1; }
fi
echo "embed: $rows rows held to the peer"
exit $failed
