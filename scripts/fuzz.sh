#!/usr/bin/env bash
# Fuzzes every parser of foreign bytes, one target after the other, and fails on the first finding.
#
#   scripts/fuzz.sh [SECONDS [TARGET...]]      default: 600 seconds for each of all targets
#
# Seconds are of the processor's time, so that a busy machine does not shorten the work.
# Needs no nightly compiler. Seeds are the fixtures; what was found earlier is in fuzz/corpus. A
# finding is an input under fuzz/artifacts: put it into fixtures/broken with a test, then mend.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/need.sh
need_cargo
seconds=${1:-600}
shift || true

cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz
# Coverage instrumentation is an unstable flag of a stable compiler. Without a sanitizer nothing
# is rebuilt for one, and overflows, bounds and assertions are checked all the same.
export RUSTC_BOOTSTRAP=1
options=(-D --sanitizer none --fuzz-dir fuzz)
# The same versions of all dependencies as the program's.
[ -e fuzz/Cargo.lock ] || cp Cargo.lock fuzz/Cargo.lock
cargo fuzz build "${options[@]}"

if [ $# -eq 0 ]; then
  mapfile -t targets < <(cargo fuzz list --fuzz-dir fuzz)
else
  targets=("$@")
fi
seeds=$(mktemp -d)
trap 'rm -rf "$seeds"' EXIT
find fixtures/broken fixtures/tasks fixtures/gguf fixtures/trajectories -type f -size -64k ! -name '*.py' -print0 |
  while IFS= read -r -d '' file; do
    cp "$file" "$seeds/$(sha256sum "$file" | cut -c1-16)"
  done

# Ends a fuzzer in order (signal USR1) when it has used so many seconds of the processor.
stop_after() {
  while kill -0 "$2" 2>/dev/null; do
    [ "$(ps -o cputimes= -p "$2" || echo 0)" -lt "$1" ] || { kill -USR1 "$2"; return; }
    sleep 1
  done
}

host=$(rustc -vV | sed -n 's/^host: //p')
for target in "${targets[@]}"; do
  mkdir -p "fuzz/corpus/$target" "fuzz/artifacts/$target"
  echo "== $target: $seconds s"
  log=$(mktemp)
  # Few units are long: a parser that needs a large input to fail is one that tests find.
  "fuzz/target/$host/debug/$target" "fuzz/corpus/$target" "$seeds" \
    -timeout=30 -rss_limit_mb=4096 -max_len=65536 -verbosity=1 -print_final_stats=1 \
    -artifact_prefix="fuzz/artifacts/$target/" >"$log" 2>&1 &
  stop_after "$seconds" $!
  wait $! || { tail -n 60 "$log"; echo "FINDING in $target"; exit 1; }
  grep -aE 'number_of_executed_units|peak_rss_mb' "$log"
  rm -f "$log"
done
echo "no finding"
