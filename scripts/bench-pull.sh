#!/usr/bin/env bash
# Times a verified pull of one large file from nginx on loopback against other clients.
#
#   scripts/bench-pull.sh BINARY [RUNS] [BYTES]      default: 5 runs, 2147483648 bytes
#
# Prints wall and CPU seconds of the client (user + system), as min / median / max, the peak
# memory, and both medians as parts of `hf download && hf cache verify`'s. Every run starts from an empty cache. Clients that are not installed are left out:
# `hf` (or $HF), aria2c, curl. Only the first, second and fourth check a hash; curl does not.
set -euo pipefail
cd "$(dirname "$0")/.."
binary=$(readlink -f "$1")
runs=${2:-5}
bytes=${3:-2147483648}
hf=${HF:-hf}
port=18950
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
export -f tmax hf_verify aria2 curl_only
export work binary hf url sha

once() { # FUNCTION: wall, CPU, peak memory in MB
  rm -rf "$work/out"
  sync
  /usr/bin/env time -f '%e %U %S %M' -o "$work/time" bash -c "$1" >"$work/log" 2>&1 ||
    { cat "$work/log" >&2; exit 1; }
  awk '{printf "%.2f %.2f %d\n", $1, $2 + $3, $4 / 1024}' "$work/time"
}

spread() { # COLUMN FILE: min / median / max
  awk -v c="$1" '{print $c}' "$2" | sort -n |
    awk '{v[NR] = $1} END {print v[1] " / " v[int((NR + 1) / 2)] " / " v[NR]}'
}

clients=(tmax)
command -v "$hf" >/dev/null && clients+=(hf_verify)
command -v aria2c >/dev/null && clients+=(aria2)
clients+=(curl_only)
# Rounds rather than blocks, so that a busy minute does not fall on one client alone.
for round in $(seq "$runs"); do
  for client in "${clients[@]}"; do once "$client" >>"$work/$client.runs"; done
  echo "round $round of $runs done, load $(cut -d' ' -f1 /proc/loadavg)" >&2
done
median() { spread "$1" "$2" | awk '{print $3}'; } # COLUMN FILE

part() { # COLUMN CLIENT: its median over that of hf, if that was run
  [ -e "$work/hf_verify.runs" ] || { echo "–"; return; }
  awk -v a="$(median "$1" "$work/$2.runs")" -v b="$(median "$1" "$work/hf_verify.runs")" \
    'BEGIN {if (b > 0) printf "%.2f\n", a / b; else print "–"}'
}

echo "| client | wall s, min / median / max | CPU s, min / median / max | peak MB | wall, CPU / hf |"
echo "|---|---|---|---|---|"
for client in "${clients[@]}"; do
  echo "| $client | $(spread 1 "$work/$client.runs") | $(spread 2 "$work/$client.runs") |" \
    "$(awk '$3 > m {m = $3} END {print m}' "$work/$client.runs") |" \
    "$(part 1 "$client"), $(part 2 "$client") |"
done
