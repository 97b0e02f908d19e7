#!/usr/bin/env bash
# Runs all tests; installs with apt what they need and this machine lacks. Arguments go to
# `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/need.sh

need cc build-essential
need bwrap bubblewrap
need nginx nginx-light
install_missing
need_cargo

exec cargo test "$@"
