#!/bin/bash
# Makes toy-1 again from the texts in this folder: builds the tool, trains, exports tools/toy/toy-1.gguf and prints the scores.
# Under an hour on two cores. TOY_STEPS shortens it for a try; TOY_OUT writes elsewhere.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
build=${TOY_BUILD:-$top/build-toy}
out=${TOY_OUT:-$here/toy-1.gguf}
tests=$top/tests/toy
cmake -S "$top" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release >/dev/null
ninja -C "$build" toy >/dev/null || { echo "make toy needs OpenBLAS and OpenMP (Debian: libopenblas-dev)" >&2; exit 1; }
toy=$build/tools/toy/toy
export OPENBLAS_NUM_THREADS=1 # the shards of a batch are what runs side by side
"$toy" check
"$toy" train "$here/facts.txt" "$build/toy-1" --seed 1 --steps "${TOY_STEPS:-6100}" \
  --held "$tests/heldout.tsv" --held "$tests/dev.tsv" --dev "$tests/dev.tsv"
"$toy" export "$build/toy-1" "$out"
"$toy" score "$build/toy-1" "$tests/heldout.tsv"
ls -l "$out"
