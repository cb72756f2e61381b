#!/usr/bin/env bash
# `altiserve run`: what is said is answered; what is not UTF-8 is an error with status 1, wherever it came from, and never an empty conversation.
set -euo pipefail
bin=${ALTISERVE_BIN:?}
bad=$(printf 'caf\351')
fail() { echo "$*"; exit 1; }

[ -n "$("$bin" run toy-1 'Hello!' --n 4 --temp 0)" ] || fail "no answer to an argument"
[ -n "$(printf 'Gr\303\274\303\237e!' | "$bin" run toy-1 --n 4 --temp 0)" ] || fail "no answer to what was piped in"

# What is piped in comes behind the prompt, in one message, where it is asked for; a loop's input is not taken otherwise.
both=$(printf 'a model?' | "$bin" run toy-1 'How do I' - --n 12 --temp 0)
[ "$both" = "$("$bin" run toy-1 $'How do I\n\na model?' --n 12 --temp 0 < /dev/null)" ] || fail "a pipe beside a prompt: $both"
[ "$both" != "$("$bin" run toy-1 'How do I' --n 12 --temp 0 < /dev/null)" ] || fail "the answer does not depend on what was piped in"

left=$(printf 'one\ntwo\n' | while read -r line; do "$bin" run toy-1 "$line" --n 2 > /dev/null; echo "$line"; done)
[ "$left" = $'one\ntwo' ] || fail "a loop over lines saw $left"

refuses() { # what it says on stderr, then the command
  local want=$1 said status=0
  shift
  said=$("$@" 2>&1 > /dev/null) || status=$?
  [ "$status" = 1 ] || fail "$want: status $status, not 1"
  [[ $said == *"$want"* ]] || fail "it said \"$said\", not \"$want\""
}
refuses 'the message is not UTF-8 text' "$bin" run toy-1 "$bad" --n 4
refuses 'the message is not UTF-8 text' bash -c 'printf "caf\351" | "$1" run toy-1 --n 4' - "$bin"
refuses 'the system prompt is not UTF-8 text' "$bin" run toy-1 'Hello!' --system "$bad" --n 4
said=$("$bin" run toy-1 Hello there --n 4 2>&1) && fail 'two words were taken'
[[ $said == *'behind the prompt may stand -'* ]] || fail "it said \"$said\""
echo 'run: arguments, pipes and what is not UTF-8'
