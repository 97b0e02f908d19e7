#!/usr/bin/env bash
# Exports checkpoints with tmax-ckpt and with llama.cpp's converter, followed by llama-quantize for the
# quantised types, with and without an importance matrix, and compares every key and byte; then lets llama.cpp load our files and compares its perplexity with transformers'.
#
# Usage: scripts/check-gguf-peer.sh [--golden] [CKPT...]      (default: fixtures/gguf/*)
#
#   PYTHON      a Python with torch, transformers, gguf, sentencepiece (default: python3)
#   LLAMA_CPP   llama.cpp's source with build/bin/llama-perplexity; fetched and built when unset
#   TMAX_CKPT   the binary to check (default: target/debug/tmax-ckpt, built here)
#   OUT         where the table goes (default: docs/gguf-peer.md)
#   --golden    also rewrite fixtures/gguf/golden.json, golden_quant.json and wide.json from the peer
set -euo pipefail
cd "$(dirname "$0")/.."

golden=
if [ "${1:-}" = --golden ]; then golden=1; shift; fi
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
. scripts/llama-cpp.sh
need_llama_cpp llama-perplexity llama-quantize
if [ -z "${TMAX_CKPT:-}" ]; then
  cargo build -q
  TMAX_CKPT=target/debug/tmax-ckpt
fi
if [ $# -eq 0 ]; then set -- fixtures/gguf/*/; fi

PYTHONPATH="$LLAMA_CPP/gguf-py" "$python" scripts/gguf/make_wide.py ${golden:+--configs fixtures/gguf/wide.json} \
  "$work/wide"
status=0
"$python" scripts/gguf/check_peer.py --bin "$TMAX_CKPT" --llama-cpp "$LLAMA_CPP" \
  --out "${OUT:-docs/gguf-peer.md}" --wide "$work/wide" --work "$work" "$@" || status=$?
if [ -n "$golden" ]; then
  rm -f "$work"/peer/*-auto.gguf "$work"/peer/{wide,deep}-*.gguf
  PYTHONPATH="$LLAMA_CPP/gguf-py" "$python" scripts/gguf/make_golden.py "$work/peer" fixtures/gguf/golden.json
  PYTHONPATH="$LLAMA_CPP/gguf-py" "$python" scripts/gguf/make_golden.py --quantized "$work/quantized-peer" \
    fixtures/gguf/golden_quant.json
fi
exit $status
