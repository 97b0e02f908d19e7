#!/bin/sh
# Prints the time of a sandbox from start over one command to its end, beside bwrap by hand with the
# same overlay (docs/bench-sandbox.md).
set -eu
cd "$(dirname "$0")/.."
cargo test "$@" --test it -- --ignored --nocapture --exact sandbox::bench_start
