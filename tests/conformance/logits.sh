#!/usr/bin/env bash
# Logits against the peer: for every architecture of the table a small random model and one of other sizes, 1 to 700 tokens, the prompt in one
# piece, in chunks of 7, and batched with strangers. Prints a row each (model, architecture, type, worst NMSE); fails when one is out of bound.
# And the same models as a server runs them: turns with and without the prefix cache, clients at once in the least memory (serve_tool.c).
#   PEER_DIR   the peer's folder; without it nothing is tested
#   ARCHS_DIR  NAME-dense.gguf, NAME-moe.gguf: metadata of architectures (NAME.with: optional tensors)
#   BUILD_DIR  the build folder (default: the folder of ALTISERVE_BIN, else build)
#   PART=floats|quantized|served   one of the three parts
#   SAMPLE=1   a few rows;  ONLY=regex  rows whose name matches;  TYPE=regex  of quantized rows, file types that match;  ISA=ref|avx2|...  the tier that is held
# Bounds (float32 weights, NMSE of all logits): 1e-6; 1e-5 for experts and recurrent layers, and where the peer rounds GELU through half precision.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
[ -n "${PEER_DIR:-}" ] && [ -x "$PEER_DIR/peer" ] || { echo "logits: no peer (PEER_DIR): skipped"; exit 0; }
: "${ARCHS_DIR:=$root/../shared/archs}"
[ -d "$ARCHS_DIR" ] || { echo "logits: no folder of architectures (ARCHS_DIR): skipped"; exit 0; }
build=${BUILD_DIR:-$(dirname "${ALTISERVE_BIN:-$root/build/altiserve}")}
cache=${CONFORMANCE_CACHE:-${TMPDIR:-/tmp}/altiserve-conformance-$(id -u)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$cache"
export GGML_NO_BACKTRACE=1

cmake --build "$build" --target logits_tool serve_tool > "$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
tool=$build/tests/conformance/logits_tool

. "$here/peer.sh"

each() { # LAYERS NAME...: blk.N.NAME for each of them ("1 2 3", or % for all), joined by commas
  local layers=$1 i name out=""
  shift
  for i in $layers; do for name in "$@"; do out=$out,blk.$i.$name; done; done
  echo "${out#,}"
}

failed=0 rows=0 skipped="" refused="" part=${PART:-floats}
shared=blk.%.ffn_gate_shexp.weight,blk.%.ffn_up_shexp.weight,blk.%.ffn_down_shexp.weight
experts=blk.%.ffn_gate_inp.weight,blk.%.ffn_gate_exps.weight,blk.%.ffn_up_exps.weight,blk.%.ffn_down_exps.weight
served() { # NAME ARCHITECTURE MODEL
  local whole=
  case $2 in dream | llada | llada-moe | rnd1) whole=--whole ;; esac
  "$build/tests/conformance/serve_tool" "$3" $whole > "$work/out" 2> "$work/err"
  case $? in
    0) rows=$((rows + 1)); printf '%-28s %-16s served %-26s holds\n' "$1" "$2" "$(cat "$work/out")" ;;
    3) skipped="$skipped $1" ;;
    *) failed=1; printf '%-28s %-16s served %-26s DIFFERS\n' "$1" "$2" "$(tail -1 "$work/err")" ;;
  esac
  rm -f "$3"
}

# row NAME BASE BOUND [peer random's options...]: makes the model, runs every list (LISTS: their lengths) and way, prints the worst.
# SALT: of the lists, where two experts of one token are as good as equal to the router and rounding decides: a list without such a token. Each was
# shown: the last chosen and the first left out exchanged in that token alone gives the peer's logits.
# N_VOCAB: tokens, 128 unless the architecture has some of its own; lists take the first 128.
# OPTIONAL=1: sizes that the peer may refuse for this architecture.
row() {
  local name=$1 base=$2 bound=$3 lists="${LISTS:-1 7 40 200 700}" model n args=() held=() worst code
  local arch=${base%-dense}
  [ "$arch" = "$base" ] && arch=${base%-moe}
  shift 3
  [ -n "${ONLY:-}" ] && ! [[ $name =~ $ONLY ]] && return
  [ "$part" = served ] && [ -n "${OPTIONAL:-}" ] && return
  model=$cache/$part-$name.gguf
  if [ -n "${META:-}" ]; then args=(--meta "$META" --set context_length=u32:1024)
  elif [ -f "$ARCHS_DIR/$base.gguf" ]; then args=(--meta "$ARCHS_DIR/$base.gguf" --set context_length=u32:1024); else args=(--arch "$base" --vocab none --n-vocab "${N_VOCAB:-128}"); fi
  [ -f "$ARCHS_DIR/$base.with" ] && args+=(--with "$(cat "$ARCHS_DIR/$base.with")")
  { "$PEER_DIR/peer" random "$model" --seed 3 "${args[@]}" "$@" > "$work/log" 2>&1; } 2> /dev/null || {
    if [ -n "${OPTIONAL:-}" ]; then refused="$refused $name"; else echo "$name: peer random failed: $(tail -1 "$work/log")"; failed=1; fi
    return
  }
  if [ "$part" = served ]; then served "$name" "$arch" "$model"; return; fi
  [ -n "${SAMPLE:-}" ] && lists="7 100"
  for n in $lists; do
    held+=(--tokens "$(tokens "$n" 128 $((n + ${SALT:-17})))" "$work/$n.f32")
    { peer_logits "$model" "${held[-2]}" "${held[-1]}" > "$work/log"; } 2> /dev/null || {
      if [ -n "${OPTIONAL:-}" ]; then refused="$refused $name"; return; fi
      echo "$name: the peer failed on $n tokens: $(tail -1 "$work/log")"; failed=1; return
    }
  done
  "$tool" "$model" ${ISA:+--isa "$ISA"} --ways "${held[@]}" > "$work/ways" 2> "$work/err"
  code=$?
  rm -f "$model"
  if [ $code = 3 ]; then skipped="$skipped $name"; echo "$(printf '%-28s %-16s' "$name" "$arch") out: $(sed 's/^unsupported: //' "$work/err")"; return; fi
  [ $code = 0 ] || { echo "$name: $(tail -1 "$work/err")"; failed=1; return; }
  rows=$((rows + 1))
  worst=$(awk -v b="$bound" '$1 + 0 != $1 { $1 = "inf" } NR == 1 || $1 > w + 0 || $1 == "inf" { w = $1; at = " at " $2 " tokens, " $3; if (w == "inf") exit } END { print w, (w == "inf" || w > b + 0) ? "OUT OF BOUND" at : "holds" }' "$work/ways")
  printf '%-28s %-16s F32 %-10s %s (%s)\n' "$name" "$arch" "${worst%% *}" "${worst#* }" "$bound"
  [ "${worst#* }" = holds ] || failed=1
}

if [ -n "${SAMPLE:-}" ]; then
  bases="llama-dense llama-moe lfm2-dense mamba-dense mamba2-dense qwen3next-moe qwen2-dense qwen3-dense qwen3moe-moe mistral3-dense gemma2-dense gemma3-dense phi3-dense gpt2-dense gpt-oss-moe"
else
  bases=$(cd "$ARCHS_DIR" && ls ./*.gguf | sed 's,^\./,,; s,\.gguf$,,')
fi
[ "$part" = quantized ] && bases=
printf '%-28s %-16s %-3s %-10s\n' model architecture type "worst NMSE"
for base in $bases; do
  [ "$base" = refact-moe ] && continue # the peer leaves the experts out
  case $base in
    *-moe) bound=1e-5 ;;
    lfm2* | mamba* | jamba* | falcon-h1* | granitehybrid* | nemotron_h* | qwen35* | plamo2*) bound=1e-5 ;; # recurrent
    bloom* | falcon* | gemma* | gpt2* | gptneox* | mpt* | phi2* | starcoder* | codeshell* | plamo3* | grok*) bound=1e-5 ;; # GELU
    *) bound=1e-6 ;;
  esac
  extra=()
  case $base in # what the peer takes for optional; where kimi-linear's and hy_v3's shared expert is missing it adds the input
    kimi-linear*) extra=(--with blk.1.ffn_gate_shexp.weight,blk.1.ffn_up_shexp.weight,blk.1.ffn_down_shexp.weight) ;;
    mimo2*) extra=(--with "$experts") ;;
    hy_v3*) extra=(--with "$experts,$shared") ;;
  esac
  row "$base" "$base" "$bound" "${extra[@]}"
  # Other sizes: six heads of 32 on two of keys, widths that no vector divides. The fused projection of two has as many of keys as of queries.
  kv=2
  case $base in cogvlm* | qwen-dense) kv=6 ;; esac
  [ -z "${SAMPLE:-}" ] && OPTIONAL=1 LISTS="3 33 131" row "$base-odd" "$base" "$bound" "${extra[@]}" --set embedding_length=u32:192 --set attention.head_count=u32:6 --set attention.head_count_kv=u32:$kv \
    --set attention.key_length=u32:32 --set attention.value_length=u32:32 --set rope.dimension_count=u32:32 \
    --set attention.key_length_swa=u32:32 --set attention.value_length_swa=u32:32 --set rope.dimension_count_swa=u32:32 --set feed_forward_length=u32:327 --set expert_feed_forward_length=u32:91
done
if [ -z "${SAMPLE:-}" ] && [ "$part" != quantized ]; then # shapes and scalings that the plain files do not have
  heads="--set attention.head_count=u32:8 --set attention.head_count_kv=u32:2 --set attention.key_length=u32:32 --set attention.value_length=u32:32 --set rope.dimension_count=u32:32"
  yarn="--set rope.scaling.type=str:yarn --set rope.scaling.factor=f32:4 --set rope.scaling.original_context_length=u32:64"
  stray="--set rope.scaling.yarn_beta_fast=f32:8 --set rope.scaling.yarn_beta_slow=f32:3 --set rope.scaling.yarn_ext_factor=f32:0.5 --set rope.scaling.yarn_attn_factor=f32:0.7" # of which most architectures read none
  many="--set expert_count=u32:8 --set expert_used_count=u32:3"
  # shellcheck disable=SC2086
  {
    row llama-grouped llama-dense 1e-6 $heads
    row llama-linear llama-dense 1e-6 --set rope.scaling.type=str:linear --set rope.scaling.factor=f32:4
    row llama-yarn llama-dense 1e-6 $yarn $stray
    row llama-freqs llama-dense 1e-6 --with rope_freqs.weight
    row llama-longrope llama-dense 1e-5 --set rope.scaling.type=str:longrope --set rope.scaling.original_context_length=u32:64 --with rope_factors_long.weight,rope_factors_short.weight # random factors make large angles
    row llama-experts llama-moe 1e-5 $many
    row qwen2-biases qwen2-dense 1e-6 $heads --with blk.%.attn_q.bias,blk.%.attn_k.bias,blk.%.attn_v.bias
    row mistral3-yarn mistral3-dense 1e-6 $yarn $stray --set rope.scaling.yarn_log_multiplier=f32:1
    row minicpm-scales minicpm-dense 1e-6 --set logit_scale=f32:2.5
    row granite-scales granite-dense 1e-6 --set logit_scale=f32:2.5 --set embedding_scale=f32:3 --set attention.scale=f32:0.05
    row gptneox-parallel gptneox-dense 1e-5 --set use_parallel_residual=bool:true
    row gpt-oss-yarn gpt-oss-moe 1e-5 $yarn $many
    row gemma3-linear gemma3-dense 1e-5 --set rope.scaling.type=str:linear --set rope.scaling.factor=f32:8 --set rope.freq_base=f32:1000000
    row qwen3moe-experts qwen3moe-moe 1e-5 $many
    row deepseek-experts deepseek-moe 1e-5 $many
    row dots1-scales dots1-moe 1e-5 $many --set expert_weights_norm=bool:true --set expert_weights_scale=f32:2.5
    row bailingmoe2-groups bailingmoe2-moe 1e-5 $many --set expert_group_count=u32:4 --set expert_group_used_count=u32:2 --set expert_weights_norm=bool:true
    groups="--set expert_count=u32:8 --set expert_used_count=u32:3 --set expert_group_count=u32:4 --set expert_group_used_count=u32:2"
    for base in llama qwen2moe qwen3moe grok dbrx gpt-oss; do LISTS="1 7 200" row "$base-groups" "$base-moe" 1e-5 $groups; done
    row stablelm-norms stablelm-dense 1e-6 --with blk.%.attn_q_norm.weight,blk.%.attn_k_norm.weight,blk.%.ffn_norm.weight,blk.%.ffn_norm.bias,blk.%.attn_q.bias,blk.%.attn_k.bias,blk.%.attn_v.bias
    row falcon-two-norms falcon-dense 1e-5 --with blk.%.attn_norm_2.weight,blk.%.attn_norm_2.bias --set attention.head_count_kv=u32:1
    LISTS="1 7 40" row baichuan-7b baichuan-dense 1e-6 --set block_count=u32:32
    LISTS="1 7 40" row baichuan-13b baichuan-dense 1e-6 --set block_count=u32:40
    row smollm3-unrotated smollm3-dense 1e-6 --set block_count=u32:5
    LISTS="1 7 40" row command-r-plus command-r-dense 1e-6 --set block_count=u32:64 --set logit_scale=f32:0.0625
    LISTS="1 7 40" row exaone4-32b exaone4-dense 1e-6 --set block_count=u32:64 --set attention.sliding_window=u32:32
    LISTS="1 7 40" row gemma2-27b gemma2-dense 1e-5 --set block_count=u32:46 --set attention.sliding_window_pattern=u32:2
    row chatglm-partial chatglm-dense 1e-6 --set rope.dimension_count=u32:64 --with blk.%.attn_q.bias,blk.%.attn_k.bias,blk.%.attn_v.bias
    row olmo2-yarn olmo2-dense 1e-6 --set block_count=u32:4 --set attention.sliding_window_pattern=u32:4 $yarn
    row deepseek2-heads deepseek2-moe 1e-5 $many --set attention.head_count=u32:4 --set embedding_length=u32:512
    row grok-yarn grok-moe 1e-5 $yarn $stray
    row glm-dsa-yarn glm-dsa-moe 1e-5 $yarn $stray --set rope.scaling.yarn_log_multiplier=f32:0.0707
    LISTS="1 7 200" row deepseek32-yarn deepseek32-moe 1e-5 $yarn $stray --set rope.scaling.yarn_log_multiplier=f32:0.0707 --set attention.indexer.top_k=u32:256
    row deepseek2-yarn deepseek2-moe 1e-5 $stray --set attention.head_count=u32:4 --set rope.scaling.type=str:yarn --set rope.scaling.factor=f32:40 --set rope.scaling.original_context_length=u32:32 --set rope.scaling.yarn_log_multiplier=f32:0.0707
    row deepseek2-plain deepseek2-moe 1e-5 --set attention.head_count=u32:4 --set attention.head_count_kv=u32:4 --set attention.key_length=u32:192 --set attention.value_length=u32:128 --set attention.key_length_mla=u32:0 --set attention.value_length_mla=u32:0 --set attention.kv_lora_rank=u32:256
    # GLM-4.7-Flash is told by its layers and its vocabulary; the key of the gate is not there
    N_VOCAB=154880 LISTS="1 7 40" row deepseek2-flash deepseek2 1e-5 --set context_length=u32:256 --set embedding_length=u32:64 --set block_count=u32:47 --set feed_forward_length=u32:96 --set attention.head_count=u32:2 \
      --set attention.head_count_kv=u32:1 --set attention.layer_norm_rms_epsilon=f32:1e-5 --set leading_dense_block_count=u32:1 $many --set expert_shared_count=u32:1 --set expert_feed_forward_length=u32:32 --set attention.q_lora_rank=u32:32 \
      --set attention.kv_lora_rank=u32:32 --set attention.key_length=u32:40 --set attention.value_length=u32:32 --set attention.key_length_mla=u32:24 --set attention.value_length_mla=u32:16 --set rope.dimension_count=u32:8 \
      --set expert_weights_scale=f32:1.8 --set expert_weights_norm=bool:true
    row mistral4-yarn mistral4-moe 1e-5 $stray --set rope.scaling.type=str:yarn --set rope.scaling.factor=f32:16 --set rope.scaling.original_context_length=u32:32 --set rope.scaling.yarn_log_multiplier=f32:1.0
    row mistral3-temperature mistral3-dense 1e-6 --set attention.temperature_scale=f32:0.3 --set rope.scaling.original_context_length=u32:16
    row cohere2moe-stacked cohere2moe-moe 1e-5 $many --with blk.1.ffn_gate_up_exps.weight
    small="--set context_length=u32:256 --set embedding_length=u32:256 --set block_count=u32:2 --set feed_forward_length=u32:384 --set attention.head_count=u32:4 --set attention.head_count_kv=u32:4
      --set attention.layer_norm_rms_epsilon=f32:1e-6"
    row plm plm 1e-6 $small --set attention.key_length=u32:96 --set attention.value_length=u32:64 --set attention.kv_lora_rank=u32:128 --set rope.dimension_count=u32:32
    row bitnet bitnet 1e-6 $small
    chameleon="$small --with blk.%.attn_q_norm.bias,blk.%.attn_k_norm.bias"
    N_VOCAB=8320 row chameleon chameleon 1e-6 $chameleon --set swin_norm=bool:false
    N_VOCAB=8320 row chameleon-swin chameleon 1e-6 $chameleon --set swin_norm=bool:true --set attention.head_count_kv=u32:2
    row llama-factors llama-dense 1e-6 --with blk.%.attn_q.scale,blk.%.attn_k.scale,blk.%.attn_v.scale,blk.%.attn_output.scale,blk.%.ffn_gate.scale,blk.%.ffn_up.scale,blk.%.ffn_down.scale
    gemma4="--set context_length=u32:256 --set embedding_length=u32:256 --set feed_forward_length=u32:384 --set attention.head_count=u32:4 --set attention.head_count_kv=u32:2 --set attention.layer_norm_rms_epsilon=f32:1e-6
      --set attention.key_length=u32:64 --set attention.value_length=u32:64 --set attention.key_length_swa=u32:32 --set attention.value_length_swa=u32:32 --set attention.sliding_window=u32:16 --set rope.freq_base=f32:1000000
      --set rope.freq_base_swa=f32:10000 --set rope.dimension_count=u32:64 --set rope.dimension_count_swa=u32:32"
    row gemma4 gemma4 1e-5 $gemma4 --set block_count=u32:4 --set attention.sliding_window_pattern=bools:true,true,true,false --set attention.shared_kv_layers=u32:0 --set embedding_length_per_layer_input=u32:0
    row gemma4-shared gemma4 1e-5 $gemma4 --set block_count=u32:6 --set attention.sliding_window_pattern=bools:true,true,false,true,true,false --set attention.shared_kv_layers=u32:3 --set embedding_length_per_layer_input=u32:32 --with blk.%.attn_v.weight
    # recurrent layers: several heads a key head, experts, windows, norms; and keys that other architectures read and theirs do not
    scale="--set attention.scale=f32:0.3" scales="--set attention.scale=f32:0.3 --set expert_weights_scale=f32:2.5"
    row lfm2-unwindowed lfm2-dense 1e-5 --set attention.sliding_window=u32:0
    # 17: token 680, 0.52103 and 0.52102, where angles of float32 positions differ by as much
    SALT=18 row lfm2moe-experts lfm2moe-moe 1e-5 $many --set attention.sliding_window=u32:8
    row mamba-norms mamba-dense 1e-5 --set ssm.dt_b_c_rms=bool:true --set ssm.state_size=u32:16
    row mamba2-heads mamba2-dense 1e-5 --set ssm.time_step_rank=u32:8 --set ssm.state_size=u32:16
    row jamba-experts jamba-dense 1e-5 $many --with blk.1.ffn_gate_inp.weight
    row falcon-h1-grouped falcon-h1-dense 1e-5 $scale --set attention.head_count=u32:4 --set attention.head_count_kv=u32:2 --set ssm.time_step_rank=u32:8 --set attention.key_length=u32:64 --set attention.value_length=u32:64 --set rope.dimension_count=u32:64
    row granitehybrid-rotated granitehybrid-dense 1e-5 $many --set rope.scaling.finetuned=bool:true --set logit_scale=f32:2.5 --set attention.scale=f32:0.05 --set embedding_scale=f32:3
    row nemotron_h-scale nemotron_h-dense 1e-5 $scale
    row nemotron_h-experts nemotron_h_moe-dense 1e-5 $many $scale --set expert_feed_forward_length=u32:64 --set expert_shared_feed_forward_length=u32:96 --set expert_shared_count=u32:1 --set expert_weights_norm=bool:true --set expert_weights_scale=f32:2.5
    delta="--set ssm.time_step_rank=u32:4 --set ssm.group_count=u32:2 --set ssm.inner_size=u32:512"
    row qwen3next-heads qwen3next-moe 1e-5 $many $scales $delta
    row qwen35-heads qwen35-dense 1e-5 $scale $delta
    row qwen35moe-grouped qwen35moe-moe 1e-5 $many $scales $delta --set attention.head_count=u32:4 --set attention.head_count_kv=u32:2
    row plamo2-heads plamo2-dense 1e-5 --set ssm.time_step_rank=u32:8 --set ssm.state_size=u32:16
    row minimax-01-heads minimax-01-moe 1e-5 $many $scales --set residual_scale=f32:0.3 --set attention.head_count=u32:4 --set attention.head_count_kv=u32:2 --set rope.dimension_count=u32:64
    row kimi-linear-heads kimi-linear-moe 1e-5 $many --set expert_weights_scale=f32:2.5 --set attention.head_count=u32:4 --with blk.1.ffn_gate_shexp.weight,blk.1.ffn_up_shexp.weight,blk.1.ffn_down_shexp.weight
    # 17: token 445 of layer 1, 0.1249979 and 0.1249977, and token 265 of layer 3, 2e-8 apart; the peer's GELU moves the stream by 6e-4 of itself
    SALT=18 row gemma4-experts gemma4 1e-5 $gemma4 --set block_count=u32:4 --set attention.sliding_window_pattern=bools:true,true,true,false --set attention.shared_kv_layers=u32:0 --set embedding_length_per_layer_input=u32:0 $many --set expert_feed_forward_length=u32:96 \
      --with blk.%.attn_v.weight,blk.%.ffn_gate_inp.weight,blk.%.ffn_down_exps.scale
    row qwen3moe-factors qwen3moe-moe 1e-5 $many --with blk.%.ffn_gate_exps.scale,blk.%.ffn_up_exps.scale,blk.%.ffn_down_exps.scale
    heads_swa="$heads --set attention.key_length_swa=u32:32 --set attention.value_length_swa=u32:32 --set rope.dimension_count_swa=u32:32"
    row laguna-heads laguna-moe 1e-5 $many $heads_swa --set block_count=u32:5 --set attention.sliding_window_pattern=bools:false,true,true,true,false --set rope.dimension_count=u32:16 --set expert_weights_norm=bool:true \
      --set expert_weights_scale=f32:2.5 --set rope.freq_base=f32:500000 $yarn
    row maple-limit maple-moe 1e-5 $many $heads_swa --set swiglu_clamp_exp=f32:0.05
    row mimo2-values mimo2-moe 1e-5 $many $heads_swa --set attention.value_length=u32:24 --set attention.value_length_swa=u32:24 --set attention.value_scale=f32:0.7 --with $experts,blk.%.attn_sinks.weight,blk.%.exp_probs_b.bias
    row hy_v3-experts hy_v3-moe 1e-5 $many --set expert_weights_norm=bool:true --set expert_weights_scale=f32:2.5 --with $experts,$shared,blk.%.exp_probs_b
    row grovemoe-shared grovemoe-moe 1e-5 $many --set experts_per_group=u32:2 --set expert_group_scale=f32:0.7 --set expert_chunk_feed_forward_length=u32:96
    row hrm_text-layers hrm_text-dense 1e-6 --set block_count=u32:18 --set hrm.layers_per_stack=u32:3 --set hrm.l_cycles=u32:2 --set embedding_scale=f32:3
    LISTS="1 7 40 200" row deepseek32-heads deepseek32-moe 1e-5 $many --set attention.head_count=u32:4 --set embedding_length=u32:512 --set attention.indexer.top_k=u32:256
    row glm-dsa-heads glm-dsa-moe 1e-5 $many --set attention.head_count=u32:4 --set expert_weights_norm=bool:true --set expert_weights_scale=f32:2.5
    row minimax-m3-grouped minimax-m3-moe 1e-5 $many $heads_swa --set rope.dimension_count=u32:16 --set expert_weights_norm=bool:true --set expert_weights_scale=f32:2
    row talkie-grouped talkie-dense 1e-6 $heads --set logit_scale=f32:0.3
    row llama4-experts llama4-moe 1e-5 --set expert_count=u32:8 --set expert_used_count=u32:1
    LISTS="1 7 40" row llama4-maverick llama4-moe 1e-5 --set expert_count=u32:128 --set expert_used_count=u32:1
    row step35-limits step35 1e-5 $small $many --set attention.head_count_kv=u32:2 --set attention.key_length=u32:64 --set attention.value_length=u32:64 --set expert_feed_forward_length=u32:96 --set expert_shared_feed_forward_length=u32:64 \
      --set block_count=u32:4 --set attention.sliding_window=u32:16 --set attention.sliding_window_pattern=bools:false,true,true,true --set rope.freq_base_swa=f32:10000 --set swiglu_clamp_exp=f32:0.3 --set swiglu_clamp_shexp=f32:0.2 \
      --set expert_weights_norm=bool:true --set expert_weights_scale=f32:2.5 --with blk.%.attn_gate.weight,rope_freqs.weight,blk.0.ffn_gate.weight,blk.0.ffn_up.weight,blk.0.ffn_down.weight,$(each '1 2 3' ffn_gate_inp.weight ffn_gate_exps.weight ffn_up_exps.weight ffn_down_exps.weight ffn_gate_shexp.weight ffn_up_shexp.weight ffn_down_shexp.weight)
    # numbers of the activation that the peer cannot be given by name: written into the metadata of a name as long
    python3 - "$ARCHS_DIR/smollm3-dense.gguf" "$work/apertus.gguf" <<'EOF'
import re, struct, sys
data = open(sys.argv[1], "rb").read().replace(b"smollm3", b"apertus")
for key, pair in ((b"xielu.alpha_p", (0.4, -0.2)), (b"xielu.alpha_n", (0.3, 0.9)), (b"xielu.beta", (0.5, 0.3)), (b"xielu.eps", (-1e-6, -1e-3))):
    data = re.sub(key + b"(.{8})" + struct.pack("<Q", 512) + b".{2048}", lambda m: key + m.group(1) + struct.pack("<Q2f", 2, *pair), data, flags=re.S)
open(sys.argv[2], "wb").write(data)
EOF
    META=$work/apertus.gguf row apertus apertus 1e-6
    gemma3n="$small --set block_count=u32:4 --set attention.head_count_kv=u32:2 --set attention.key_length=u32:64 --set attention.value_length=u32:64 --set attention.sliding_window=u32:16 --set rope.freq_base=f32:1000000"
    row gemma3n gemma3n 1e-5 $gemma3n
    # An epsilon that keeps the norms from making much of the peer's rounding of GELU, which else doubles every other layer: at 1e-6, 25 layers are 5.0e-3
    # off, 9e-5 where ours reads the same half-precision table, and our tiers are 7e-8 apart.
    row gemma3n-shared gemma3n 1e-5 $gemma3n --set block_count=u32:22 --set attention.layer_norm_rms_epsilon=f32:1
    LISTS="700" row gemma3n-long gemma3n 1e-5 $gemma3n --set block_count=u32:11 --set context_length=u32:1024 --set attention.layer_norm_rms_epsilon=f32:0.1
    # RWKV, and time mixes of its kind in other models
    rwkv="--set context_length=u32:1024 --set embedding_length=u32:256 --set block_count=u32:3 --set feed_forward_length=u32:384 --set attention.layer_norm_epsilon=f32:1e-5 --set wkv.head_size=u32:64 --set attention.head_count=u32:0 --set token_shift_count=u32:2"
    extra="--set time_mix_extra_dim=u32:32 --set time_decay_extra_dim=u32:48"
    ranks="--set attention.decay_lora_rank=u32:32 --set attention.iclr_lora_rank=u32:24 --set attention.value_residual_mix_lora_rank=u32:16 --set attention.gate_lora_rank=u32:48"
    LISTS="1 7 40 200 700" row rwkv6 rwkv6 1e-5 $rwkv $extra --set rescale_every_n_layers=u32:2 --with blk.%.time_mix_lerp_fused.weight
    row rwkv6-separate rwkv6 1e-5 $rwkv $extra --set wkv.head_size=u32:32 --with $(each % time_mix_lerp_w.weight time_mix_lerp_k.weight time_mix_lerp_v.weight time_mix_lerp_r.weight time_mix_lerp_g.weight)
    LISTS="1 7 40 200 700" row rwkv7 rwkv7 1e-5 $rwkv $ranks
    row rwkv6qwen2 rwkv6qwen2 1e-5 $small $extra --set wkv.head_size=u32:64 --set token_shift_count=u32:1 --set attention.head_count_kv=u32:2 --with blk.%.time_mix_key.bias,blk.%.time_mix_value.bias,blk.%.time_mix_receptance.bias
    row arwkv7 arwkv7 1e-5 $small $ranks --set wkv.head_size=u32:64 --set token_shift_count=u32:1 --with $(each % time_mix_g1.weight time_mix_g2.weight time_mix_ln.weight time_mix_ln.bias)
    row kimi-k3-banks kimi-k3-moe 1e-5 $many --set block_count=u32:5 --set attn_res.block_size=u32:2 --set attention.head_count=u32s:2,0,0,2,0 --set attention.head_count_kv=u32s:1,0,0,1,0 --set expert_latent_length=u32:64 --set expert_weights_norm=bool:true --set expert_weights_scale=f32:2.5 --with blk.%.ffn_routed_norm.weight
    row hy_v4-streams hy_v4-moe 1e-5 $many --set hyper_connection.count=u32:3 --set hyper_connection.epsilon=f32:0.01 --set hyper_connection.magnitude=f32:1.5 --set attention.head_count=u32:2 --set swiglu_clamp_exp=f32:0.3 --set expert_weights_scale=f32:2.5
    row dots3note-windows dots3note-moe 1e-5 $many --set attention.head_count=u32:2 --set attention.kv_lora_rank_swa=u32:256 --set attention.key_length_mla_swa=u32:160 --set attention.value_length_mla_swa=u32:96 \
      --set attention.key_length_swa=u32:320 --set attention.value_length_swa=u32:256 --set attention.sliding_window=u32:20 --set rope.freq_base_swa=f32:50000 --set expert_weights_scale=f32:2.5
    row bailingmoe3-limits bailingmoe3-moe 1e-5 $many --set swiglu_clamp_exp=f32:0.3 --set swiglu_clamp_shexp=f32:0.2 --set expert_weights_norm=bool:true --set expert_weights_scale=f32:2.5
  }
fi
# A folder with the peer's libraries of which those for processors are AVX2's alone: its tiles abort on some shapes.
plain_peer() {
  local from f
  if [ ! -d "$work/plain" ]; then
    mkdir "$work/plain"
    from=$(dirname "$(find "$PEER_DIR" -name libggml-cpu-haswell.so | head -1)")
    for f in "$from"/*; do
      case ${f##*/} in libggml-cpu-haswell.so) ;; libggml-cpu-*) continue ;; esac
      ln -s "$f" "$work/plain/"
    done
  fi
  echo "$work/plain"
}
# quantized NAME BASE TYPES...: the exact answer is the peer's on the file decoded to F32; altiserve's NMSE to it, median of five token seeds,
# is at most 1.1 times the peer's own on the quantized file, or 1e-4. 200 tokens a list: in recurrent layers a rounding moves every later token, and a list of 40 says little.
quantized() {
  local name=$1 base=$2 type model seed seeds=5 ids ours theirs made with=()
  shift 2
  [ -n "${ONLY:-}" ] && ! [[ $name =~ $ONLY ]] && return
  model=$cache/$name.gguf
  [ -f "$ARCHS_DIR/$base.with" ] && with=(--with "$(cat "$ARCHS_DIR/$base.with")")
  "$PEER_DIR/peer" random "$model" --meta "$ARCHS_DIR/$base.gguf" --seed 3 "${with[@]}" > "$work/log" 2>&1 || { echo "$name: peer random failed"; failed=1; return; }
  for type in "$@"; do
    [ -n "${TYPE:-}" ] && ! [[ $type =~ $TYPE ]] && continue
    made=("$type" --imatrix uniform)
    [ "$type" = NVFP4 ] && made=(Q4_0 --tensors nvfp4) # the peer has no file type of it
    "$PEER_DIR/peer" quantize "$model" "$work/q.gguf" "${made[@]}" > "$work/log" 2>&1 && "$PEER_DIR/peer" quantize "$work/q.gguf" "$work/f.gguf" F32 > "$work/log" 2>&1 \
      || { echo "$name $type: the peer cannot make it: $(tail -1 "$work/log")"; continue; }
    : > "$work/pairs"
    for seed in $(seq "$seeds"); do
      ids=$(tokens 200 128 $((seed * 101)))
      peer_logits "$work/f.gguf" "$ids" "$work/exact.f32" > /dev/null
      { peer_logits "$work/q.gguf" "$ids" "$work/theirs.f32" > /dev/null; } 2> /dev/null || PEER_BACKENDS=$(plain_peer) peer_logits "$work/q.gguf" "$ids" "$work/theirs.f32" > /dev/null \
        || { echo "$name $type: the peer fails on it"; failed=1; break; }
      ours=$("$tool" "$work/q.gguf" ${ISA:+--isa "$ISA"} --tokens "$ids" "$work/exact.f32" 2> "$work/err") || { echo "$name $type: $(tail -1 "$work/err")"; failed=1; break; }
      theirs=$(nmse "$work/theirs.f32" "$work/exact.f32" 128)
      echo "${ours%% *} $theirs" >> "$work/pairs"
    done
    [ "$(wc -l < "$work/pairs")" = "$seeds" ] || continue
    ours=$(cut -d' ' -f1 "$work/pairs" | sort -g | sed -n $(((seeds + 1) / 2))p)
    theirs=$(cut -d' ' -f2 "$work/pairs" | sort -g | sed -n $(((seeds + 1) / 2))p)
    rows=$((rows + 1))
    if awk -v a="$ours" -v b="$theirs" 'BEGIN { exit !(a == a + 0 && (a <= 1.1 * b || a <= 1e-4)) }'; then
      printf '%-28s %-16s %-10s holds (the peer %s)\n' "$name" "$type" "$ours" "$theirs"
    else
      printf '%-28s %-16s %-10s OUT OF BOUND (the peer %s)\n' "$name" "$type" "$ours" "$theirs"
      failed=1
    fi
  done
}
if [ "$part" != quantized ] && [ -n "${PART:-}" ]; then :
elif [ -n "${SAMPLE:-}" ]; then
  quantized quant-llama llama-dense Q8_0 Q4_K_M
  quantized quant-jamba jamba-dense Q8_0
else
  quantized quant-llama llama-dense F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q2_K_S Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K IQ2_XXS IQ2_XS IQ2_S IQ2_M IQ3_XXS IQ3_XS IQ3_S IQ3_M IQ1_S IQ1_M IQ4_NL IQ4_XS TQ1_0 TQ2_0 Q1_0 Q2_0 NVFP4
  quantized quant-moe qwen3moe-moe Q8_0 Q4_K_M MXFP4_MOE
  for base in gemma3-dense deepseek2-moe gpt-oss-moe; do quantized "quant-$base" "$base" Q8_0 Q4_K_M; done
  for base in mamba-dense mamba2-dense jamba-dense falcon-h1-dense granitehybrid-dense nemotron_h-dense lfm2-dense qwen35-dense qwen3next-moe plamo2-dense minimax-01-moe; do
    quantized "quant-$base" "$base" Q8_0 Q4_K_M
  done
fi
[ -n "$refused" ] && echo "sizes that the peer refuses:$refused"
echo "logits: $rows rows held$([ "$part" = served ] || echo " to the peer"); not built: $(echo $skipped | wc -w)"
exit $failed
