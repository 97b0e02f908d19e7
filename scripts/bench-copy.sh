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
# does none of that. So there are more rows than two: cp followed by a flush; ours without a flush
# (by eatmydata, where it is installed), which is what is like cp alone; and the disk alone, which
# writes as many bytes past the page cache: nothing that flushes can be faster.
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
  warm) caches='cat "$@" >/dev/null' warm_gb=6 ;;
  # More, as the pages of the source are to come from what was touched too.
  cold) caches='echo 3 >/proc/sys/vm/drop_caches' warm_gb=11 ;;
  *) echo "error: SOURCE is warm or cold" >&2; exit 2 ;;
esac
against_cp() { # LABEL, SOURCES of cp, COMMAND
  local mib rows
  mib=$(cat $2 | wc -c | awk '{ print int($1 / 1048576) }')
  rows=("cp=cp $2 $work/out/" "cp and flush=cp $2 $work/out/ && sync $work/out/*"
    "disk alone=dd if=/dev/zero of=$work/out/o bs=4M count=$((mib / 4)) oflag=direct" "$1=$3")
  if command -v eatmydata >/dev/null; then
    rows+=("$1, no flush=eatmydata $3")
  fi
  echo
  scripts/bench_rounds.py --runs "$runs" --warm "$warm_gb" \
    --before "rm -rf $work/out; mkdir $work/out; sync; set -- $2 $ckpt/*.safetensors; $caches" \
    "${rows[@]}"
}

"$bin" strip "$ckpt" -o "$work/source" -q >/dev/null
against_cp strip "$work/source/*.safetensors" "$bin strip $ckpt -o $work/out/o -q"
rm -rf "$work/source"
against_cp "export safetensors, 1 GB a file" "$ckpt/*.safetensors" \
  "$bin export safetensors $ckpt -o $work/out/o --max-shard-size 1GB -q"
"$bin" export gguf "$ckpt" --outtype bf16 -o "$work/source.gguf" -q >/dev/null
against_cp "export gguf bf16" "$work/source.gguf" \
  "$bin export gguf $ckpt --outtype bf16 -o $work/out/o.gguf -q"
