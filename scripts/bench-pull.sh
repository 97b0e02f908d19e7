#!/usr/bin/env bash
# Times a verified pull of one large file from nginx on loopback against other clients.
#
#   scripts/bench-pull.sh BINARY [RUNS] [BYTES]      default: 5 runs, 2147483648 bytes
#
# Prints wall and CPU seconds of the client and its peak of anonymous memory, all as parts of
# `hf download && hf cache verify`'s, so that `hf` (or $HF) must be there; aria2c is left out where it
# is not. Every run starts from an empty cache. curl alone checks no hash and flushes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
binary=$(readlink -f "$1")
runs=${2:-5}
bytes=${3:-2147483648}
hf=${HF:-hf}
port=18950
command -v "$hf" >/dev/null || { echo "bench-pull: \`$hf\`, which all is measured by, is missing; set HF" >&2; exit 1; }
work=$(mktemp -d "${TMPDIR:-/tmp}/bench-pull.XXXXXX")
trap 'scripts/local-hub.sh stop "$port"; rm -rf "$work"' EXIT

mkdir -p "$work/tree/main"
openssl enc -aes-128-ctr -pass pass:tmax -nosalt -in /dev/zero 2>/dev/null |
  head -c "$bytes" >"$work/tree/main/model.safetensors" || true
sha=$(sha256sum "$work/tree/main/model.safetensors" | cut -c1-64)
endpoint=$(scripts/local-hub.sh start "$work/tree" "$port" o/n)
url=http://localhost:$((port + 1))/$sha
export HF_ENDPOINT=$endpoint HF_HUB_DISABLE_XET=1 HF_HUB_DISABLE_PROGRESS_BARS=1
export HF_HUB_DISABLE_UPDATE_CHECK=1

tmax() { HF_HOME=$work/out "$binary" pull o/n@main -qq; }
hf_verify() {
  HF_HOME=$work/out "$hf" download o/n --revision main --quiet &&
    HF_HOME=$work/out "$hf" cache verify o/n --revision main
}
aria2() {
  aria2c -q -x8 -s8 -k16M --file-allocation=none --checksum="sha-256=$sha" -d "$work/out" "$url"
}
curl_only() { mkdir -p "$work/out" && curl -sf -o "$work/out/file" "$url"; }
curl_hash() { curl_only && echo "$sha $work/out/file" | sha256sum --quiet -c; }
export -f tmax hf_verify aria2 curl_only curl_hash
export work binary hf url sha

clients=("hf download && hf cache verify=hf_verify")
command -v aria2c >/dev/null && clients+=("aria2c -x8 with checksum=aria2")
clients+=("curl=curl_only" "curl, then sha256sum=curl_hash" "tmax-ckpt pull=tmax")
scripts/bench_rounds.py --runs "$runs" --warm 4 --before "rm -rf $work/out; sync" "${clients[@]}"
