#!/usr/bin/env bash
# Scores tasks through a real OpenAI-compatible server, llama.cpp's, which serves the trained fixture
# as `export gguf` writes it; then shows what `score` says of a server that refuses the key or is
# not there.
#
#   scripts/check-endpoint-peer.sh [TASK...]        (default: three tasks)
#
#   LLAMA_CPP   llama.cpp's source with build/bin/llama-server; fetched and built when unset
#   TMAX_CKPT   the binary to check (default: target/debug/tmax-ckpt, built here)
#   PORT        of the server (default: 18437)
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/llama-cpp.sh
need_llama_cpp llama-server
port=${PORT:-18437}
if curl -s "http://127.0.0.1:$port/" >/dev/null; then
  echo "error: something answers on port $port already; set PORT" >&2
  exit 2
fi
if [ -z "${TMAX_CKPT:-}" ]; then
  cargo build -q
  TMAX_CKPT=target/debug/tmax-ckpt
fi
[ $# -gt 0 ] || set -- count-lines write-word make-folder
work=$(mktemp -d)
server=
stop() {
  if [ -n "$server" ]; then kill "$server" 2>/dev/null && wait "$server" 2>/dev/null || true; fi
  server=
}
trap 'stop; rm -rf "$work"' EXIT
tasks=()
for task in "$@"; do tasks+=(--task "$task"); done

# The server is up when this returns.
serve() {
  stop
  # llama-server turns thinking on where a template knows it; the fixture was trained without.
  # Not through the function: the process to end must be the server itself.
  LD_LIBRARY_PATH="$LLAMA_CPP/build/bin" "$LLAMA_CPP/build/bin/llama-server" \
    -m "$work/fixture.gguf" --port "$port" --jinja -c 4096 -np 1 -t 2 \
    --api-key right --reasoning off --alias fixture --no-webui >"$work/server.log" 2>&1 &
  server=$!
  for _ in $(seq 120); do
    if curl -fsS "http://127.0.0.1:$port/health" >/dev/null 2>&1; then return 0; fi
    kill -0 "$server" 2>/dev/null || break
    sleep 0.5
  done
  tail -20 "$work/server.log" >&2
  exit 1
}

# score KEY JOB [OPTION...]
score() {
  local key=$1 job=$2
  shift 2
  FIXTURE_KEY=$key "$TMAX_CKPT" score --endpoint-url "http://127.0.0.1:$port" --model fixture \
    --api-key-variable FIXTURE_KEY --tasks fixtures/tasks "${tasks[@]}" --n-concurrent 1 \
    -o "$work/$job" --no-config "$@"
}

# fails CODE PATTERN COMMAND...: the command must end with that code and say that.
fails() {
  local expected=$1 pattern=$2 code=0
  shift 2
  "$@" >"$work/out" 2>&1 || code=$?
  echo "exit $code: $(grep -m1 -i error "$work/out" || head -1 "$work/out")"
  if [ "$code" != "$expected" ] || ! grep -qiE "$pattern" "$work/out"; then
    echo "error: exit code $expected and /$pattern/ were expected" >&2
    cat "$work/out" >&2
    exit 1
  fi
}

"$TMAX_CKPT" export gguf fixtures/tiny-raw/step_600 --outtype f32 -o "$work/fixture.gguf" -q >/dev/null
serve
score right right
solved=$(find "$work/right" -name reward.txt -exec cat {} + | grep -c '^1' || true)
echo "$solved of $# tasks solved through llama-server"
if [ "$solved" = 0 ]; then
  echo "error: the fixture solves most of these tasks by itself" >&2
  exit 1
fi
fails 4 'HTTP 401' score wrong wrong
stop
fails 5 'refused' score right absent
