#!/bin/bash
# toy-1 in the reference's hands: the share of the held-out questions that `peer generate` answers right.
# Needs PEER_DIR; TOY names the file, SAMPLE=1 asks every tenth question. Fails under 85 %.
set -uo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
toy=${TOY:-$top/tools/toy/toy-1.gguf}
if [ ! -x "${PEER_DIR:-}/peer" ]; then echo "toy_peer: skipped, PEER_DIR has no peer"; exit 0; fi
n=0 right=0
while IFS=$'\t' read -r question required; do
  [[ -z $question || $question == \#* ]] && continue
  n=$((n + 1))
  [[ -n ${SAMPLE:-} && $((n % 10)) != 0 ]] && continue
  asked=$((${asked:-0} + 1))
  prompt=$'<|im_start|>user\n'"$question"$'<|im_end|>\n<|im_start|>assistant\n'
  answer=$("$PEER_DIR/peer" generate "$toy" --text "$prompt" --n 120 --threads 1 </dev/null 2>/dev/null | tr '[:upper:]' '[:lower:]')
  ok=1
  IFS='|' read -ra parts <<<"$required"
  for part in "${parts[@]}"; do [[ $answer == *"$part"* ]] || ok=0; done
  if [ $ok = 1 ]; then right=$((right + 1)); else echo "  $question [$required] -> $answer"; fi
done <"$top/tests/toy/heldout.tsv"
echo "toy-1 by the peer: $right of ${asked:-0} held-out questions right"
[ "$((right * 100))" -ge "$((${asked:-0} * 85))" ]
