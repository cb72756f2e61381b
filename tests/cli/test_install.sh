#!/usr/bin/env bash
# What `make install` does: the program and its documents lie under DESTDIR and PREFIX and nowhere else, and the program runs from there.
set -euo pipefail
bin=${ALTISERVE_BIN:?}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
fail() { echo "$*"; exit 1; }

DESTDIR=$root/image cmake --install "$(dirname "$bin")" --prefix /opt/altiserve > "$root/log"
there=$root/image/opt/altiserve
doc=$there/share/doc/altiserve
cd /
[ "$("$there/bin/altiserve" --version)" = "$("$bin" --version)" ] || fail 'the installed program says another version'
[ -n "$("$there/bin/altiserve" run toy-1 'Hello!' --n 2 --temp 0)" ] || fail 'the installed program does not run'
for file in README.md LICENSE; do cmp "$SOURCE_DIR/$file" "$doc/$file"; done
for path in $(grep -o '`\(docs\|deploy\)/[^ `]*`' "$SOURCE_DIR/README.md" | tr -d '`'); do
  [ -e "$doc/$path" ] || fail "the README speaks of $path, which is not installed"
done
stray=$(find "$root/image" -type f ! -path "$there/bin/altiserve" ! -path "$doc/*")
[ -z "$stray" ] || fail "also installed: $stray"
echo 'install: the program and its documents'
