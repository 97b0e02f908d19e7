#!/usr/bin/env bash
# Times export gguf against llama.cpp's converter and cp, in turn, whole processes.
#
# Usage: scripts/bench-gguf.sh CKPT OUT_DIR [RUNS]
#
#   PYTHON     a Python with torch, transformers, gguf, sentencepiece (default: python3)
#   LLAMA_CPP  llama.cpp's source (see check-gguf-peer.sh)
#   TMAX_CKPT  the binary (default: target/release/tmax-ckpt)
#
# CKPT: scripts/make_bench_checkpoint.py makes one with the shapes of Qwen3.5-2B. Prints one line a
# run: what, wall s, user s, sys s, peak RSS MB (mapped file pages count), RSS without file pages
# is what the last column of the tmax-ckpt rows says (VmHWM of anonymous memory).
# Each output is removed before the next run. `+ sync` rows include flushing, as tmax-ckpt always
# does before a file gets its name.
set -euo pipefail
cd "$(dirname "$0")/.."
ckpt=$1 out=$2 runs=${3:-5}
python=${PYTHON:-python3} bin=${TMAX_CKPT:-target/release/tmax-ckpt}
mkdir -p "$out"

timed() {
  local label=$1
  shift
  rm -f "$out"/*.gguf "$out"/*.copy
  sync
  /usr/bin/time -f "$label|%e|%U|%S|%M" -o "$out/time" "$@" > "$out/log" 2>&1 || { tail -n 5 "$out/log"; exit 1; }
  tail -n 1 "$out/time" | tee -a "$out/runs"
}

peer() {
  "$python" scripts/gguf/convert_with_peer.py "$LLAMA_CPP" qwen35 "$ckpt" --outtype "$1" --outfile "$out/peer.gguf"
}
export -f peer
export python LLAMA_CPP ckpt out

: > "$out/runs"
cat "$ckpt"/*.safetensors > /dev/null
for _ in $(seq "$runs"); do
  for type in bf16 q8_0; do
    timed "tmax-ckpt $type" "$bin" export gguf "$ckpt" --outtype "$type" -o "$out/ours.gguf" -q
    timed "converter $type" bash -c "peer $type"
  done
  # cp of the bytes that end up in the bf16 file, and the same with the flush.
  "$bin" export gguf "$ckpt" --outtype bf16 -o "$out/source.bin" -q
  timed "cp bf16" cp "$out/source.bin" "$out/x.copy"
  timed "cp bf16 + sync" bash -c "cp '$out/source.bin' '$out/x.copy' && sync '$out/x.copy'"
  rm -f "$out/source.bin"
done

echo
echo "what | median wall s | median CPU s | peak RSS MB"
cut -d'|' -f1 "$out/runs" | sort -u | while read -r label; do
  grep -F "$label|" "$out/runs" | "$python" -c '
import statistics, sys
rows = [line.rstrip().split("|") for line in sys.stdin]
rows = [r for r in rows if r[0] == sys.argv[1]]
wall, cpu = ([f(r) for r in rows] for f in (lambda r: float(r[1]), lambda r: float(r[2]) + float(r[3])))
print(f"{sys.argv[1]} | {statistics.median(wall):.2f} | {statistics.median(cpu):.2f} | {max(int(r[4]) for r in rows) / 1000:.0f}")
' "$label"
done
