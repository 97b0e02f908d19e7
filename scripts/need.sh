# Sourced by the other scripts: notes which programs are missing, then installs them at once.
PATH=$PATH:/usr/sbin:$HOME/.cargo/bin
missing=()

need() { # PROGRAM PACKAGE
  command -v "$1" >/dev/null || missing+=("$2")
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

install_missing() {
  [ ${#missing[@]} -gt 0 ] || return 0
  if ! command -v apt-get >/dev/null; then
    echo "missing: ${missing[*]}; install them with your package manager and run this again" >&2
    exit 7
  fi
  echo "+ apt-get install ${missing[*]}" >&2
  as_root apt-get update -q >&2
  as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends "${missing[@]}" >&2
  missing=()
}

need_cargo() {
  command -v cargo >/dev/null && return 0
  # Debian 13 and Ubuntu 24.04 package rustup, which then obeys rust-toolchain.toml.
  need rustup rustup
  install_missing && rustup show >&2
}
