#!/usr/bin/env bash
# Runs the tasks of fixtures/tasks in podman containers: the oracle must get 1 everywhere, nobody 0.
# Needs podman, and no network: the image that the tasks start from is made of this (Debian)
# machine's own essential packages, in a storage of its own that is removed at the end.
#
#   scripts/check-podman.sh [TASK...]         (default: three tasks)
#
#   TMAX_CKPT   the binary to check (default: target/debug/tmax-ckpt, built here)
#   PODMAN_AS   run as this user instead, to try rootless containers (needs subuids and uidmap)
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${TMAX_CKPT:-}" ]; then
  cargo build -q
  TMAX_CKPT=target/debug/tmax-ckpt
fi
[ $# -gt 0 ] || set -- count-lines find-and-copy two-notes
work=$(mktemp -d)
chmod 755 "$work"
as=()
if [ -n "${PODMAN_AS:-}" ]; then
  as=(setpriv --reuid "$PODMAN_AS" --regid "$PODMAN_AS" --clear-groups
      env "HOME=$work/home" "XDG_RUNTIME_DIR=$work/run")
  install -d -o "$PODMAN_AS" "$work/home" "$work/run"
fi
finish() {
  "${as[@]}" podman rm --all --force >/dev/null 2>&1 || true
  if [ -n "${PODMAN_AS:-}" ]; then
    "${as[@]}" podman unshare rm -rf "$work/storage" 2>/dev/null || true
  fi
  rm -rf "$work"
}
trap finish EXIT
install -d ${PODMAN_AS:+-o "$PODMAN_AS"} "$work/storage" "$work/storage/run" "$work/jobs"
cat >"$work/storage.conf" <<CONF
[storage]
driver = "${DRIVER:-overlay}"
graphroot = "$work/storage"
runroot = "$work/storage/run"
rootless_storage_path = "$work/storage"
CONF
export CONTAINERS_STORAGE_CONF="$work/storage.conf"

# Every file of the essential packages, and the libraries that their programs load.
files() {
  local packages
  mapfile -t packages < <(dpkg-query -Wf '${Essential} ${Package}\n' | sed -n 's/^yes //p')
  # The links of the top come after the folders that they lead to.
  printf '%s\n' usr usr/bin usr/lib usr/lib64 usr/sbin bin lib lib64 sbin
  {
    dpkg-query -L "${packages[@]}"
    dpkg-query -L "${packages[@]}" | grep -E '^(/usr)?/s?bin/.' |
      (xargs ldd 2>/dev/null || true) | grep -oE '/[^ )]+\.so[^ )]*'
    printf '%s\n' /tmp /root /etc/passwd /etc/group /usr/bin/awk /usr/bin/mawk /etc/alternatives/awk
  } | sort -u | while read -r file; do
    case $file in /bin/* | /lib/* | /lib64/* | /sbin/*) file=/usr$file ;; esac
    case $file in /usr/share/doc/* | /usr/share/man/* | /usr/share/locale/*) continue ;; esac
    if [ ! -e "$file" ]; then continue; fi
    printf '%s\n' "${file#/}"
    # What a link leads to, too.
    if [ -L "$file" ]; then readlink -f "$file" | cut -c2-; fi
  done | sort -u
}
files | awk '!seen[$0]++' | tar -C / -c --no-recursion -f "$work/base.tar" -T -
"${as[@]}" podman import -q "$work/base.tar" docker.io/library/debian:bookworm-slim >/dev/null

score() { # AGENT EXPECTED TASK...
  local agent=$1 expected=$2 task tasks=()
  shift 2
  for task in "$@"; do tasks+=(--task "$task"); done
  "${as[@]}" "$TMAX_CKPT" score --agent "$agent" --sandbox podman --tasks fixtures/tasks \
    "${tasks[@]}" -o "$work/jobs/$agent" --n-concurrent 2 --no-config
  find "$work/jobs/$agent" -name reward.txt | sort | while read -r file; do
    echo "$agent ${file#"$work/jobs/$agent/"}: $(cat "$file")"
  done >"$work/$agent"
  cat "$work/$agent"
  if [ "$(grep -c ": $expected$" "$work/$agent")" != $# ]; then
    echo "error: --agent $agent should get $expected on all of: $*" >&2
    exit 1
  fi
}
score oracle 1 "$@"
score nop 0 "$@"
# Whoever leaves something in the tests' way fails; the machine does not.
barrier=$work/tasks/barrier
install -d ${PODMAN_AS:+-o "$PODMAN_AS"} "$work/tasks"
cp -r "fixtures/tasks/$1" "$barrier"
echo 'rm -r /logs; touch /logs' >>"$barrier/solution/solve.sh"
chmod -R a+rX "$work/tasks"
"${as[@]}" "$TMAX_CKPT" score --agent oracle --sandbox podman --tasks "$work/tasks" \
  -o "$work/jobs/barrier" --no-config
grep -h 'No reward: RewardFileNotFoundError: the tests could not be run' "$work"/jobs/barrier/*/trial.log
left=$("${as[@]}" podman ps --all --quiet)
if [ -n "$left" ]; then
  echo "error: containers are left: $left" >&2
  exit 1
fi
echo "podman: $# tasks, oracle 1 and nop 0 on each, a barrier is no verdict, nothing left"
