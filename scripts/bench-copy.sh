#!/usr/bin/env bash
# Times strip, export safetensors and export gguf against cp of the same bytes.
#
#   scripts/bench-copy.sh CKPT OUT_DIR [RUNS]
#
#   TMAX_CKPT  the binary (default: target/release/tmax-ckpt)
#   SOURCE     warm (default): in the page cache; cold: on the disk alone (needs root)
#
# CKPT: scripts/make_bench_checkpoint.py makes one with the shapes of Qwen3.5-2B. Our commands
# flush what they write before it gets its name, hash every tensor, read it back and compare; cp
# does none of that. So there are two peers: cp as it is, and cp followed by a flush.
set -euo pipefail
cd "$(dirname "$0")/.."
ckpt=$(readlink -f "$1") runs=${3:-5}
mkdir -p "$2"
out=$(readlink -f "$2")
bin=$(readlink -f "${TMAX_CKPT:-target/release/tmax-ckpt}")

work=$out/bench-copy
rm -rf "$work"
mkdir -p "$work"
trap 'rm -rf "$work"' EXIT
case ${SOURCE:-warm} in
  warm) caches='cat "$@" >/dev/null' ;;
  cold) caches='echo 3 >/proc/sys/vm/drop_caches' ;;
  *) echo "error: SOURCE is warm or cold" >&2; exit 2 ;;
esac
against_cp() { # LABEL, SOURCES of cp, COMMAND
  echo
  scripts/bench_rounds.py --runs "$runs" --warm 6 \
    --before "rm -rf $work/out; mkdir $work/out; sync; set -- $2 $ckpt/*.safetensors; $caches" \
    "cp=cp $2 $work/out/" "cp and flush=cp $2 $work/out/ && sync $work/out/*" "$1=$3"
}

"$bin" strip "$ckpt" -o "$work/source" -q >/dev/null
against_cp strip "$work/source/*.safetensors" "$bin strip $ckpt -o $work/out/o -q"
rm -rf "$work/source"
against_cp "export safetensors, 1 GB a file" "$ckpt/*.safetensors" \
  "$bin export safetensors $ckpt -o $work/out/o --max-shard-size 1GB -q"
"$bin" export gguf "$ckpt" --outtype bf16 -o "$work/source.gguf" -q >/dev/null
against_cp "export gguf bf16" "$work/source.gguf" \
  "$bin export gguf $ckpt --outtype bf16 -o $work/out/o.gguf -q"
