# Sourced by the scripts that hold logits to the peer's. Wants PEER_DIR.

tokens() { # COUNT VOCAB SEED: ids by a generator of its own, the same everywhere
  awk -v n="$1" -v v="$2" -v s="$3" 'BEGIN { for (i = 0; i < n; i++) { s = (s * 1103515 + 12345) % 2147483; printf "%d ", s % v } }'
}

peer_logits() { # MODEL IDS OUT.f32: the peer's answer with keys and values in float32; exact where the weights are float32. A crash prints nothing but its own words.
  { "$PEER_DIR/peer" logits "$1" --tokens "$2" --kv-f32 --no-flash --threads 1 --ubatch 1024 --out "$3"; } 2>&1
}

nmse() { # LOGITS.f32 EXACT.f32 VOCAB
  "$PEER_DIR/peer" compare "$1" "$2" --n-vocab "$3" | sed -n 's/.*"nmse": *\([^,]*\),.*/\1/p'
}
