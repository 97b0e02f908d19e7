#!/usr/bin/env bash
# Writes what is made from the program: docs/cli.md, pages of docs/formats/, and docs/schemas/.
set -euo pipefail
cd "$(dirname "$0")/.."
# The tests write what the pages should be; that they fail on stale pages is their purpose.
cargo test --locked --test it docs:: >/dev/null || true
cp -r target/docs/. docs/
cargo test --locked --test it docs::
