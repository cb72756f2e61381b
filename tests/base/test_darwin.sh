#!/usr/bin/env bash
# The files of macOS compile: against declarations of what they use (tests/base/darwin), since no such system is at hand. It says nothing of what they do.
# Each must also be for macOS alone and define what its Linux twin defines.
set -euo pipefail
cd "${SOURCE_DIR:?}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
flags="-std=c17 -D_GNU_SOURCE -Wall -Wextra -Wmissing-prototypes -Werror -Isrc"
symbols() { nm --defined-only "$1" | awk '$2 ~ /[TDB]/ {print $3}' | sort; }
n=0
for file in src/*/*_darwin.c; do
  twin=${file%_darwin.c}_linux.c
  [ -f "$twin" ] || { echo "$file has no twin for Linux"; exit 1; }
  ${CC:-cc} $flags -Itests/base/darwin -U__linux__ -D__APPLE__ -c "$file" -o "$work/darwin.o"
  ${CC:-cc} $flags -c "$twin" -o "$work/linux.o"
  symbols "$work/darwin.o" > "$work/a"; symbols "$work/linux.o" > "$work/b"
  diff "$work/a" "$work/b" || { echo "$file and $twin define different functions"; exit 1; }
  ${CC:-cc} $flags -c "$file" -o "$work/other.o" && [ -z "$(symbols "$work/other.o")" ] || { echo "$file defines something on Linux"; exit 1; }
  n=$((n + 1))
done
[ "$n" -ge 3 ] || { echo "only $n files of macOS"; exit 1; }
echo "darwin: $n files compile"
