#!/usr/bin/env bash
# Times export gguf against llama.cpp's converter, in turn, whole processes.
#
#   scripts/bench-gguf.sh CKPT OUT_DIR [RUNS]
#
#   PYTHON     a Python with torch, transformers, gguf, sentencepiece (default: python3)
#   LLAMA_CPP  llama.cpp's source (see check-gguf-peer.sh)
#   TMAX_CKPT  the binary (default: target/release/tmax-ckpt)
#
# CKPT: scripts/make_bench_checkpoint.py makes one with the shapes of Qwen3.5-2B. Ours flushes and
# reads back before the file gets its name; the converter does neither.
set -euo pipefail
cd "$(dirname "$0")/.."
ckpt=$(readlink -f "$1") runs=${3:-3}
mkdir -p "$2"
out=$(readlink -f "$2")
bin=$(readlink -f "${TMAX_CKPT:-target/release/tmax-ckpt}")
convert="${PYTHON:-python3} scripts/gguf/convert_with_peer.py $LLAMA_CPP qwen35 $ckpt"
trap 'rm -f "$out/peer.gguf" "$out/ours.gguf"' EXIT

for type in bf16 q8_0; do
  echo
  scripts/bench_rounds.py --runs "$runs" --warm 6 \
    --before "rm -f $out/*.gguf; sync; cat $ckpt/*.safetensors >/dev/null" \
    "convert_hf_to_gguf.py --outtype $type=$convert --outtype $type --outfile $out/peer.gguf" \
    "tmax-ckpt export gguf --outtype $type=$bin export gguf $ckpt --outtype $type -o $out/ours.gguf -q"
done
