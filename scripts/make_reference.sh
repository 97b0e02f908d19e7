#!/usr/bin/env bash
# Writes docs/cli.md and the pages of docs/formats/ that are made from tables.
set -euo pipefail
cd "$(dirname "$0")/.."
# The tests write what the pages should be; that they fail on stale pages is their purpose.
cargo test --locked --test it docs:: >/dev/null || true
cp -r target/docs/. docs/
cargo test --locked --test it docs::
