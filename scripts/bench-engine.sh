#!/usr/bin/env bash
# Prefill and decode speed of the CPU engine beside llama.cpp's, same weights in Q8_0, same threads.
# Prints a Markdown table. Run it on an idle machine.
#
#   scripts/bench-engine.sh
#
#   LLAMA_CPP   llama.cpp's source with build/bin/llama-bench; fetched and built when unset
#   TMAX_CKPT   a release binary (default: target/release/tmax-ckpt, built here)
#   BIG         a checkpoint of 2B shapes (default: target/bench/2b, made here: 4.5 GB); empty: none
#   THREADS     (default 2)   ROUNDS  both sides in turn, so often (default 3)   RUNS  a round (3)
#
# One run is a prompt of 512 tokens with the logits of the last, or 32 tokens decoded one by one.
# One run of each warms up and is not counted. The ratio is that of the medians.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/llama-cpp.sh

threads=${THREADS:-2} rounds=${ROUNDS:-3} runs=${RUNS:-3} big=${BIG-target/bench/2b}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
need_llama_cpp llama-bench
if [ -z "${TMAX_CKPT:-}" ]; then
  cargo build -q --release
  TMAX_CKPT=target/release/tmax-ckpt
fi
if [ -n "$big" ] && [ ! -f "$big/config.json" ]; then
  python3 scripts/make_bench_checkpoint.py "$big" >&2
fi

# measure NAME CKPT
measure() {
  local gguf=$work/$1.gguf round
  "$TMAX_CKPT" export gguf "$2" --outtype q8_0 -o "$gguf" -q >/dev/null
  for round in $(seq "$rounds"); do
    RAYON_NUM_THREADS=$threads "$TMAX_CKPT" bench-engine "$2" --q8-0 --json \
      --prompt 512 --generate 32 --repetitions "$runs" >"$work/$1.ours.$round"
    llama bench -m "$gguf" -p 512 -n 32 -t "$threads" -ngl 0 -r "$runs" -o json \
      >"$work/$1.peer.$round" 2>/dev/null
  done
  rm "$gguf"
}

measure fixture fixtures/tiny-raw/step_600
if [ -n "$big" ]; then measure 2B "$big"; fi
python3 scripts/bench_engine_table.py "$work"
