#!/usr/bin/env bash
# The whole path on this machine, on small models that were really trained: builds the program,
# serves fixtures/tiny-raw as a Hub on loopback, and runs the commands, each printed before it runs.
# Everything is written to one folder, which is named at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/need.sh

need cc build-essential
need bwrap bubblewrap
need nginx nginx-light
install_missing
need_cargo

PORT=${PORT:-8517}
REPO=local/tiny
WORK=$(mktemp -d "${TMPDIR:-/tmp}/tmax-ckpt-quickstart.XXXXXX")

run() {
  printf '\n$ %s\n' "$*"
  "$@"
}

run cargo build --locked
PATH=$PWD/target/debug:$PATH

ROOT=$PWD
trap '"$ROOT"/scripts/local-hub.sh stop "$PORT"' EXIT
run scripts/local-hub.sh start fixtures/tiny-raw "$PORT" "$REPO"
export HF_ENDPOINT=http://127.0.0.1:$PORT HF_HUB_CACHE=$WORK/hub
unset HF_TOKEN HF_HUB_OFFLINE

# In a folder of its own, so that the names in the output are short.
cd "$WORK"
STEPS=(step_175 step_300 step_600 step_660)

run tmax-ckpt steps "$REPO"
run tmax-ckpt pull "$REPO" --revision 'step_*'
run tmax-ckpt verify "$REPO@step_*"
for step in "${STEPS[@]}"; do
  run tmax-ckpt strip "$REPO@$step" -o "text/$step"
done
# Enough trials to see it work; without --budget it goes on until it is sure.
SELECT=(tmax-ckpt select "${STEPS[@]/#/text/}" --metric tblite --tasks "$ROOT/fixtures/tasks"
  --budget 96 -o jobs --report select.html)
run "${SELECT[@]}"
# The same again runs nothing, and prints the path alone.
best=$("${SELECT[@]}" -q)
run tmax-ckpt export --format gguf "$best" --outtype q8_0

printf '\nAll of it is in %s: the best step in %s, its GGUF, and the report, select.html\n' \
  "$WORK" "$best"
