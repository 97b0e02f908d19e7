#!/usr/bin/env bash
# Pulls step branches from two servers that are not ours, and lets hf judge the result.
#
#   scripts/check-hub-servers.sh [BINARY]      default: target/debug/tmax-ckpt
#
# Servers: nginx (Debian's nginx-light) over the tree of scripts/local-hub.sh, and olah 0.5.4.
# Judge: huggingface_hub 2.4.0: `hf cache ls`, `hf cache verify`, and an `hf download` that must
# find everything there. The Python packages go to virtual environments under
# ${XDG_CACHE_HOME:-~/.cache}/tmax-ckpt-peers. Needs python3, git, curl, nginx.
set -euo pipefail
cd "$(dirname "$0")/.."
binary=$(readlink -f "${1:-target/debug/tmax-ckpt}")
peers=${XDG_CACHE_HOME:-$HOME/.cache}/tmax-ckpt-peers
work=$(mktemp -d)
port=18940
olah_pid=

stop() {
  scripts/local-hub.sh stop "$port" || true
  [ -z "$olah_pid" ] || kill "$olah_pid" 2>/dev/null || true
  rm -rf "$work"
}
trap stop EXIT

venv() { # NAME PACKAGE: a virtual environment with one pinned package
  [ -e "$peers/$1/ok" ] && return
  rm -rf "${peers:?}/$1"
  python3 -m venv "$peers/$1"
  "$peers/$1/bin/pip" -q install "$2"
  touch "$peers/$1/ok"
}

branches() { # DIR: two steps, most of whose files are the same
  local step
  for step in 100 200; do
    mkdir -p "$1/step_$step/sub dir"
    printf '{"step":%d}\n' "$step" >"$1/step_$step/config.json"
    printf 'words\n' >"$1/step_$step/sub dir/a b.txt"
    head -c 20000000 /dev/zero | tr '\0' "$((step / 100))" >"$1/step_$step/model.safetensors"
    head -c 3000000 /dev/zero >"$1/step_$step/tokenizer.json"
  done
}

git_repository() { # DIR REPO: the same branches as git keeps them, large files as LFS objects
  local branch file path sha size
  git init -q "$2"
  git -C "$2" config user.email x@example.com
  git -C "$2" config user.name x
  for branch in "$1"/*/; do
    git -C "$2" checkout -q --orphan "$(basename "$branch")"
    git -C "$2" rm -rqf . 2>/dev/null || true
    while IFS= read -r path; do
      file=$branch/$path
      mkdir -p "$(dirname "$2/$path")"
      case $path in
        *.safetensors | tokenizer.json)
          sha=$(sha256sum <"$file" | cut -c1-64)
          size=$(stat -c %s "$file")
          mkdir -p "$2/.git/lfs/objects/${sha:0:2}/${sha:2:2}"
          cp "$file" "$2/.git/lfs/objects/${sha:0:2}/${sha:2:2}/$sha"
          printf 'version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n' \
            "$sha" "$size" >"$2/$path"
          ;;
        *) cp "$file" "$2/$path" ;;
      esac
    done < <(cd "$branch" && find . -type f -printf '%P\n')
    git -C "$2" add -A
    git -C "$2" commit -qm "$(basename "$branch")"
  done
}

check() { # SERVER ENDPOINT: pull all steps and compare
  local server=$1 step snapshot
  export HF_ENDPOINT=$2 HF_HOME=$work/$server HF_HUB_DISABLE_XET=1
  "$binary" pull 'o/n@step_*' --progress none
  for step in step_100 step_200; do
    snapshot=$("$binary" pull "o/n@$step" -q)
    diff -r "$work/branches/$step" "$snapshot"
    "$peers/hf/bin/hf" cache verify o/n --revision "$step" | head -1
    [ "$("$peers/hf/bin/hf" download o/n --revision "$step" --format quiet)" = "$snapshot" ]
  done
  "$peers/hf/bin/hf" cache ls | grep -F 'model/o/n'
  "$binary" pull o/n@step_100 --local-dir "$work/$server-local" -q
  diff -r -x .cache "$work/branches/step_100" "$work/$server-local"
  echo "$server: ok"
}

venv hf huggingface_hub==2.4.0
venv olah olah==0.5.4
branches "$work/branches"

check nginx "$(scripts/local-hub.sh start "$work/branches" "$port" o/n)"

git_repository "$work/branches" "$work/mirror/models/o/n"
cat >"$work/olah.toml" <<EOF
[basic]
host = "127.0.0.1"
port = $((port + 2))
repos-path = "$work/olah-repos"
mirrors-path = ["$work/mirror"]
mirror-scheme = "http"
mirror-netloc = "127.0.0.1:$((port + 2))"
mirror-lfs-netloc = "127.0.0.1:$((port + 2))"
[accessibility]
offline = true
EOF
(cd "$work" && exec "$peers/olah/bin/olah-cli" -c olah.toml --log-path "$work/logs" \
  >"$work/olah.out" 2>&1) &
olah_pid=$!
for _ in $(seq 100); do
  curl -sf "http://127.0.0.1:$((port + 2))/api/models/o/n/refs" >/dev/null && break
  sleep 0.2
done
check olah "http://127.0.0.1:$((port + 2))" || { tail -5 "$work/olah.out"; exit 1; }
