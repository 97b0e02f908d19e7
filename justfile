# `just` lists the recipes.
_default:
    @just --list

# What CI checks, without the download of cargo-deny
check: fmt lint doc test

fmt:
    cargo fmt --check

lint:
    cargo clippy --all-targets -- -D warnings

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

test *ARGS:
    scripts/test.sh {{ARGS}}

deny:
    cargo deny check licenses bans sources

# Rewrite docs/cli.md, docs/schemas/ and pages of docs/formats/ from the program's own help and types
docs:
    scripts/make_reference.sh

# Rewrite fixtures/broken
broken:
    python3 scripts/make_broken.py

# Fuzz all targets, or those named, for so long each
fuzz SECONDS="600" *TARGETS:
    scripts/fuzz.sh {{SECONDS}} {{TARGETS}}
