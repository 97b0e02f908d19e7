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

trap 'scripts/local-hub.sh stop "$PORT"' EXIT
run scripts/local-hub.sh start fixtures/tiny-raw "$PORT" "$REPO"
export HF_ENDPOINT=http://127.0.0.1:$PORT HF_HUB_CACHE=$WORK/hub
unset HF_TOKEN HF_HUB_OFFLINE

run tmax-ckpt steps "$REPO"
run tmax-ckpt pull "$REPO" --revision 'step_*'
run tmax-ckpt verify "$REPO@step_*"

# Enough trials to see it work; without --budget it goes on until it is sure.
run tmax-ckpt select "$REPO@step_175" "$REPO@step_300" "$REPO@step_600" "$REPO@step_660" \
  --metric tblite --tasks fixtures/tasks --budget 96 -o "$WORK/jobs" --report "$WORK/select.html"
best=$(tmax-ckpt select --from "$WORK/jobs" -q)
best=${best##*@}
run tmax-ckpt strip "$REPO@$best" -o "$WORK/text"
run tmax-ckpt export --format gguf "$WORK/text" --outtype q8_0 -o "$WORK/$best.gguf"

printf '\nThe step %s, stripped, is in %s/text; the report is %s/select.html\n' "$best" "$WORK" "$WORK"
