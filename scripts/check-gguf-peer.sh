#!/usr/bin/env bash
# Exports checkpoints with tmax-ckpt and with llama.cpp's converter and compares every key and byte;
# then lets llama.cpp load our files and compares its perplexity with transformers'.
#
# Usage: scripts/check-gguf-peer.sh [--golden] [CKPT...]      (default: fixtures/gguf/*)
#
#   PYTHON      a Python with torch, transformers, gguf, sentencepiece (default: python3)
#   LLAMA_CPP   llama.cpp's source with build/bin/llama-perplexity; fetched and built when unset
#   TMAX_CKPT   the binary to check (default: target/debug/tmax-ckpt, built here)
#   OUT         where the table goes (default: docs/gguf-peer.md)
#   --golden    also rewrite fixtures/gguf/golden.json from the converter's files
set -euo pipefail
cd "$(dirname "$0")/.."

golden=
if [ "${1:-}" = --golden ]; then golden=1; shift; fi
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The sources inside the sdist are llama.cpp at 0c1e57098. Its .git file points nowhere, which
# sends ninja into a loop; instructions of the build machine must not be guessed (GGML_NATIVE).
build_llama_cpp() {
  local dir=target/llama.cpp
  if [ ! -x $dir/build/bin/llama-perplexity ]; then
    "$python" -m pip download --no-deps --no-binary llama-cpp-python --dest target llama-cpp-python==0.3.36
    mkdir -p $dir
    tar xzf target/llama_cpp_python-0.3.36.tar.gz --strip-components=3 -C $dir \
      llama_cpp_python-0.3.36/vendor/llama.cpp
    rm -f $dir/.git
    cmake -S $dir -B $dir/build -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=OFF \
      -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_UI=OFF \
      -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_NUMBER=0 \
      -DLLAMA_BUILD_COMMIT=0c1e57098
    cmake --build $dir/build --target llama-perplexity llama-quantize
  fi
  LLAMA_CPP=$dir
}

[ -n "${LLAMA_CPP:-}" ] || build_llama_cpp
if [ -z "${TMAX_CKPT:-}" ]; then
  cargo build -q
  TMAX_CKPT=target/debug/tmax-ckpt
fi
if [ $# -eq 0 ]; then set -- fixtures/gguf/*/; fi

status=0
"$python" scripts/gguf/check_peer.py --bin "$TMAX_CKPT" --llama-cpp "$LLAMA_CPP" \
  --out "${OUT:-docs/gguf-peer.md}" --work "$work" "$@" || status=$?
if [ -n "$golden" ]; then
  rm -f "$work"/peer/*-auto.gguf
  PYTHONPATH="$LLAMA_CPP/gguf-py" "$python" scripts/gguf/make_golden.py "$work/peer" fixtures/gguf/golden.json
fi
exit $status
