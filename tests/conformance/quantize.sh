#!/usr/bin/env bash
# Quantized files against the peer's: the same type for every tensor, decoding without a bit of difference, and weights and logits that are no worse.
#   PEER_DIR   the peer's folder; without it nothing is tested
#   ARCHS_DIR  metadata of architectures: the mix of each is compared too
#   ALTISERVE_BIN, BUILD_DIR   the program, and the folder with its libraries
#   SAMPLE=1   fewer types and architectures;  ONLY=regex  file types whose name matches;  ARCH=regex  only the mixes of architectures that match
# Logits: of both files decoded to float32, computed by the peer (so neither program's activations play a part), against those of the float32 model; NMSE
# over all lists of tokens together, ours relative to that of the peer's file. 1 exactly where the bits are equal, below where ours is the better encoder.
# Bound: BOUND, which is 1 and three times what the figure varies by (0.8 % from one random model to another) where two encoders are in truth as good but
# round otherwise; the weights' own NMSE has no such spread and is held to a thousandth. It varies as little because the models are llama with the
# stream's scales of granite: the embedding 1, what a layer adds a third of what it would be. Of plain random llamas, whose layers add more than there
# is and whose attention averages all tokens to nearly one, a list's figure varies by 6 to 17 %, and of a type below three bits nothing is left. Every
# expert is used: where a router chooses, the logits' error is of the tokens that it sends elsewhere, as good as by chance.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
[ -n "${PEER_DIR:-}" ] && [ -x "$PEER_DIR/peer" ] || { echo "quantize: no peer (PEER_DIR): skipped"; exit 0; }
: "${ARCHS_DIR:=$root/../shared/archs}"
. "$here/peer.sh"
BOUND=1.025 VOCAB=512
bin=${ALTISERVE_BIN:-$root/build/altiserve}
build=${BUILD_DIR:-$(dirname "$bin")}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ninja -C "$build" --quiet quant_tool || exit 1
tool=$build/tests/conformance/quant_tool
peer() { GGML_NO_BACKTRACE=1 "$PEER_DIR/peer" "$@" > "$work/log" 2>&1; }
failed=0 rows=0

arch=(--set embedding_scale=f32:10 --set residual_scale=f32:0.35 --set logit_scale=f32:1)
dense=(--arch granite "${arch[@]}") moe=(--arch granitemoe "${arch[@]}")
shape=(--vocab none --n-vocab $VOCAB --seed "${SEED:-3}" --set embedding_length=u32:256 --set feed_forward_length=u32:512 --set attention.head_count=u32:8
  --set context_length=u32:256 --set attention.layer_norm_rms_epsilon=f32:1e-5 --set attention.scale=f32:0.17677669)
peer random "$work/dense.gguf" "${dense[@]}" "${shape[@]}" --set block_count=u32:9 --set attention.head_count_kv=u32:4 || { echo "quantize: peer random failed"; exit 1; }
peer random "$work/gqa.gguf" "${dense[@]}" "${shape[@]}" --set block_count=u32:9 --set attention.head_count_kv=u32:2
peer random "$work/moe.gguf" "${moe[@]}" "${shape[@]}" --set block_count=u32:8 --set attention.head_count_kv=u32:4 --set expert_feed_forward_length=u32:256 --set expert_count=u32:8 --set expert_used_count=u32:8
# For the types that the peer takes half a minute a million weights for: as few as show the mix, and one layer.
small=("${shape[@]}" --set feed_forward_length=u32:256 --set attention.head_count_kv=u32:2)
peer random "$work/slow.gguf" "${dense[@]}" "${small[@]}" --set block_count=u32:8
peer random "$work/slowmoe.gguf" "${moe[@]}" "${small[@]}" --set block_count=u32:1 --set expert_feed_forward_length=u32:256 --set expert_count=u32:4 --set expert_used_count=u32:4
peer random "$work/layer.gguf" "${dense[@]}" "${small[@]}" --set block_count=u32:1
peer random "$work/falcon.gguf" --meta "$ARCHS_DIR/falcon-dense.gguf" --seed 3

ids=()
for i in 1 2 3 4; do ids+=("$(tokens 120 $VOCAB $((i * 101)))"); done
[ -n "${SAMPLE:-}" ] && ids=("${ids[@]:0:2}")
answers() { # MODEL OUT.f32: the peer's logits of every list
  local list
  : > "$2"
  for list in "${ids[@]}"; do peer_logits "$1" "$list" "$work/list.f32" > "$work/log" && cat "$work/list.f32" >> "$2" || return 1; done
}

# logits MODEL: prints how far those of p.gguf (f.gguf: decoded) and of o.gguf are from the model's; fails when ours are out of bound.
logits() {
  local exact=$work/$1.f32 theirs ours
  [ -s "$exact" ] || answers "$work/$1.gguf" "$exact" || { tail -1 "$work/log"; return 1; }
  peer quantize "$work/o.gguf" "$work/g.gguf" F32 && answers "$work/f.gguf" "$work/theirs.f32" && answers "$work/g.gguf" "$work/ours.f32" || { tail -1 "$work/log"; return 1; }
  theirs=$(nmse "$work/theirs.f32" "$exact" $VOCAB) ours=$(nmse "$work/ours.f32" "$exact" $VOCAB)
  awk -v p="${theirs:-nan}" -v o="${ours:-nan}" -v b=$BOUND 'BEGIN { bad = !(o == o + 0 && p > 0 && o <= b * p)
    printf "  logits  NMSE peer %s ours %s (%.3f)%s\n", p, o, (p > 0 ? o / p : 0), bad ? "  OUT" : ""; exit bad }'
}

# one MODEL TYPE [options for both...]
one() {
  local model=$1 type=$2
  shift 2
  rows=$((rows + 1))
  if ! peer quantize "$work/$model.gguf" "$work/p.gguf" "$type" "$@"; then
    echo "$model $type $*: the peer refuses: $(tail -1 "$work/log")"
    return
  fi
  peer quantize "$work/p.gguf" "$work/f.gguf" F32
  "$bin" quantize "$work/$model.gguf" "$work/o.gguf" "$type" "$@" > "$work/log" 2>&1 || { echo "$model $type $*: $(tail -1 "$work/log")"; failed=1; return; }
  local held=holds
  QUANT_MIX=1 "$tool" "$work/$model.gguf" "$work/p.gguf" "$work/o.gguf" "$work/f.gguf" > "$work/out" || held=OUT
  case ${SAMPLE:+sample-}$model in
    falcon | sample-falcon | sample-gqa | sample-moe) ;; # of falcon the mix is compared, a sample's others are as dense is
    *) logits "$model" >> "$work/out" || held=OUT ;;
  esac
  echo "$model $type $*: $held"
  [ $held = holds ] || failed=1
  cat "$work/out"
}

all="F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q2_K_S Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M IQ3_XXS IQ3_XS IQ3_S IQ3_M IQ4_NL IQ4_XS TQ1_0 TQ2_0 MXFP4_MOE Q1_0 Q2_0"
[ -n "${SAMPLE:-}" ] && all="Q4_0 Q8_0 Q2_K Q4_K_M IQ2_XXS IQ4_XS TQ2_0 MXFP4_MOE"
[ -n "${ARCH:-}" ] && all=
for type in $all; do
  [ -n "${ONLY:-}" ] && ! [[ $type =~ $ONLY ]] && continue
  case $type in
    IQ1* | IQ2* | IQ3_XXS | IQ3_XS)
      one slow "$type" --imatrix uniform
      [ -z "${SAMPLE:-}" ] && one slowmoe "$type" --imatrix uniform
      ;;
    *)
      one dense "$type" --imatrix uniform
      [ "$type" = Q2_K_S ] || one dense "$type"
      one gqa "$type" --imatrix uniform
      one moe "$type" --imatrix uniform
      ;;
  esac
  case $type in Q*_K*|IQ4*) one falcon "$type" ;; esac
  [ -z "${SAMPLE:-}" ] && one layer "$type" --pure --imatrix uniform
done

# NVFP4: the peer has no file of its own; every matrix as that type.
if [ -z "${ONLY:-}${ARCH:-}" ] && peer quantize "$work/dense.gguf" "$work/p.gguf" Q4_0 --tensors nvfp4; then
  peer quantize "$work/p.gguf" "$work/f.gguf" F32
  "$bin" quantize "$work/dense.gguf" "$work/o.gguf" NVFP4 --pure > "$work/log" 2>&1 || { tail -1 "$work/log"; failed=1; }
  rows=$((rows + 1))
  { "$tool" "$work/dense.gguf" "$work/p.gguf" "$work/o.gguf" "$work/f.gguf" && logits dense; } > "$work/out" && echo "dense NVFP4: holds" || { echo "dense NVFP4: OUT"; failed=1; }
  cat "$work/out"
fi

# The mix of every architecture.
n=0
for meta in "$ARCHS_DIR"/*.gguf; do
  [ -n "${ONLY:-}" ] && break
  n=$((n + 1))
  [ -n "${SAMPLE:-}" ] && [ $((n % 20)) != 1 ] && continue
  name=$(basename "$meta" .gguf)
  [ -n "${ARCH:-}" ] && ! [[ $name =~ $ARCH ]] && continue
  with=()
  [ -f "$ARCHS_DIR/$name.with" ] && with=(--with "$(cat "$ARCHS_DIR/$name.with")")
  peer random "$work/a.gguf" --meta "$meta" --seed 3 "${with[@]}" || { echo "$name: peer random failed: $(tail -1 "$work/log")"; failed=1; continue; }
  for type in Q4_K_M Q2_K IQ4_XS; do
    peer quantize "$work/a.gguf" "$work/p.gguf" $type || { echo "$name $type: the peer refuses: $(tail -1 "$work/log")"; continue; }
    rows=$((rows + 1))
    "$bin" quantize "$work/a.gguf" "$work/o.gguf" $type > "$work/log" 2>&1 && QUANT_MIX=1 "$tool" "$work/a.gguf" "$work/p.gguf" "$work/o.gguf" > "$work/out" ||
      { echo "$name $type: OUT"; grep -h "peer's is\|OUT" "$work/out" "$work/log"; failed=1; }
  done
done
echo "quantize: $rows rows, $([ $failed = 0 ] && echo all hold || echo some are out)"
exit $failed
