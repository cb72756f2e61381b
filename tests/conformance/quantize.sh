#!/usr/bin/env bash
# Quantized files against the peer's: the same type for every tensor, decoding without a bit of difference, and weights that are no worse.
#   PEER_DIR   the peer's folder; without it nothing is tested
#   ARCHS_DIR  metadata of architectures: the mix of each is compared too
#   ALTISERVE_BIN, BUILD_DIR   the program, and the folder with its libraries
#   SAMPLE=1   fewer types and architectures;  ONLY=regex  file types whose name matches;  ARCH=regex  only the mixes of architectures that match
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
[ -n "${PEER_DIR:-}" ] && [ -x "$PEER_DIR/peer" ] || { echo "quantize: no peer (PEER_DIR): skipped"; exit 0; }
: "${ARCHS_DIR:=$root/../shared/archs}"
bin=${ALTISERVE_BIN:-$root/build/altiserve}
build=${BUILD_DIR:-$(dirname "$bin")}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ninja -C "$build" --quiet quant_tool || exit 1
tool=$build/tests/conformance/quant_tool
peer() { GGML_NO_BACKTRACE=1 "$PEER_DIR/peer" "$@" > "$work/log" 2>&1; }
failed=0 rows=0

shape=(--vocab none --n-vocab 512 --seed 3 --set embedding_length=u32:256 --set feed_forward_length=u32:512 --set attention.head_count=u32:8
  --set context_length=u32:256 --set attention.layer_norm_rms_epsilon=f32:1e-5)
peer random "$work/dense.gguf" --arch llama "${shape[@]}" --set block_count=u32:9 --set attention.head_count_kv=u32:4 || { echo "quantize: peer random failed"; exit 1; }
peer random "$work/gqa.gguf" --arch llama "${shape[@]}" --set block_count=u32:9 --set attention.head_count_kv=u32:2
peer random "$work/moe.gguf" --arch llama "${shape[@]}" --set block_count=u32:8 --set attention.head_count_kv=u32:4 --set expert_feed_forward_length=u32:256 --set expert_count=u32:8 --set expert_used_count=u32:2
# For the types that the peer takes half a minute a million weights for: as few as show the mix, and one layer.
small=("${shape[@]}" --set feed_forward_length=u32:256 --set attention.head_count_kv=u32:2)
peer random "$work/slow.gguf" --arch llama "${small[@]}" --set block_count=u32:8
peer random "$work/slowmoe.gguf" --arch llama "${small[@]}" --set block_count=u32:1 --set expert_feed_forward_length=u32:256 --set expert_count=u32:4 --set expert_used_count=u32:2
peer random "$work/layer.gguf" --arch llama "${small[@]}" --set block_count=u32:1
peer random "$work/falcon.gguf" --meta "$ARCHS_DIR/falcon-dense.gguf" --seed 3

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
  if QUANT_MIX=1 "$tool" "$work/$model.gguf" "$work/p.gguf" "$work/o.gguf" "$work/f.gguf" > "$work/out"; then echo "$model $type $*: holds"; else
    echo "$model $type $*: OUT"; failed=1
  fi
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
  "$tool" "$work/dense.gguf" "$work/p.gguf" "$work/o.gguf" "$work/f.gguf" > "$work/out" && echo "dense NVFP4: holds" || { echo "dense NVFP4: OUT"; failed=1; }
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
