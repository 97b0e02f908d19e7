#!/usr/bin/env bash
# Writes docs/cli.md from the help of every command.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --locked
tool=target/debug/tmax-ckpt

section() { # COMMAND...: its help, then that of the commands below it
  local help sub
  help=$(COLUMNS=100 "$tool" "$@" --help | sed 's/[[:space:]]*$//')
  printf '\n## `%s`\n\n```text\n%s\n```\n' "tmax-ckpt${*:+ $*}" "$help"
  for sub in $(sed -n '/^Commands:/,/^$/s/^  \([a-z][a-z0-9-]*\).*/\1/p' <<<"$help"); do
    section "$@" "$sub"
  done
}

{
  printf '# Reference of the command line\n\n'
  printf "Made from the program's own help by \`just docs\`.\n"
  section
} >docs/cli.md
