#!/usr/bin/env bash
# A Hub on this machine: nginx over a static tree that this script renders from plain folders.
#
#   scripts/local-hub.sh start DIR PORT [OWNER/NAME]   prints the endpoint
#   scripts/local-hub.sh stop PORT
#
# Every folder in DIR becomes a branch of OWNER/NAME (default: local/<name of DIR>), which is a
# model, or with `datasets/` before it a dataset. Weights and
# tokenizer.json are LFS files, as on the real Hub: they are answered with a redirect to another
# host name (PORT+1), which plays the CDN and serves ranges.
set -euo pipefail

die() { echo "local-hub: $*" >&2; exit 1; }
api_path() { case "$1" in datasets/*) echo "$1" ;; *) echo "models/$1" ;; esac; }
state_dir() { echo "${TMPDIR:-/tmp}/tmax-ckpt-local-hub-$1"; }

git_sha1() { # FILE: the id that git gives to its content
  { printf 'blob %d\0' "$(stat -Lc %s "$1")"; cat "$1"; } | sha1sum | cut -c1-40
}

is_lfs() { # PATH FILE
  case "$1" in
    *.safetensors | *.bin | *.gguf | *.npz | tokenizer.json | */tokenizer.json) return 0 ;;
  esac
  [ "$(stat -Lc %s "$2")" -ge 10000000 ]
}

entry() { # PATH FILE STATE: the file's line of the tree; its blob is linked on the way
  local path=$1 file=$2 state=$3 size oid sha
  size=$(stat -Lc %s "$file")
  if is_lfs "$path" "$file"; then
    sha=$(sha256sum <"$file" | cut -c1-64)
    oid=$(printf 'version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n' \
      "$sha" "$size" >"$state/pointer"; git_sha1 "$state/pointer")
    ln -sf "$file" "$state/blobs/$sha"
    printf '%s %s %s %s\n' "$sha" 1 "$size" "$path" >>"$state/rows"
    printf '{"type":"file","oid":"%s","size":%d,"path":"%s","lfs":{"oid":"%s","size":%d,"pointerSize":%d}}' \
      "$oid" "$size" "$path" "$sha" "$size" "$(stat -c %s "$state/pointer")"
  else
    oid=$(git_sha1 "$file")
    ln -sf "$file" "$state/blobs/$oid"
    printf '%s %s %s %s\n' "$oid" 0 "$size" "$path" >>"$state/rows"
    printf '{"type":"file","oid":"%s","size":%d,"path":"%s"}' "$oid" "$size" "$path"
  fi
}

branch() { # FOLDER STATE REPO: renders one branch, prints its line of the refs
  local folder=$1 state=$2 repo=$3 name commit path sep="" tree siblings=""
  name=$(basename "$folder")
  : >"$state/rows"
  tree=$(
    while IFS= read -r path; do
      case "$path" in *[\"\\]*) die "a name that JSON would have to escape: $path" ;; esac
      printf '%s' "$sep"; entry "$path" "$folder/$path" "$state"; sep=","
    done < <(cd "$folder" && find -L . -type f -printf '%P\n' | LC_ALL=C sort)
  )
  commit=$(printf '%s\n%s\n' "$name" "$tree" | sha1sum | cut -c1-40)
  local api rev hash lfs size
  api="$state/json/api/$(api_path "$repo")"
  mkdir -p "$api/tree" "$api/revision" "$api/commits"
  while read -r hash lfs size path; do
    siblings="$siblings${siblings:+,}{\"rfilename\":\"$path\"}"
    for rev in "$name" "$commit"; do
      printf '"/%s/resolve/%s/%s" "%s %s %s %s";\n' "$repo" "$rev" "$path" \
        "$hash" "$lfs" "$size" "$commit" \
        >>"$state/files.map"
    done
  done <"$state/rows"
  for rev in "$name" "$commit"; do
    printf '[%s]' "$tree" >"$api/tree/$rev"
    printf '{"_id":"0","id":"%s","modelId":"%s","sha":"%s","private":false,"gated":false,"disabled":false,"tags":[],"downloads":0,"likes":0,"siblings":[%s]}' \
      "$repo" "$repo" "$commit" "$siblings" >"$api/revision/$rev"
    printf '[{"id":"%s","title":"%s","message":"","authors":[],"date":"%s"}]' \
      "$commit" "$name" "$(date -u -r "$folder" +%Y-%m-%dT%H:%M:%S.000Z)" >"$api/commits/$rev"
  done
  [ "$name" != main ] || cp "$api/revision/main" "$state/info.json"
  printf '{"name":"%s","ref":"refs/heads/%s","targetCommit":"%s"}' "$name" "$name" "$commit"
}

config() { # STATE PORT REPO
  local state=$1 port=$2 cdn=$(($2 + 1)) api
  api=$(api_path "$3")
  [ "$(id -u)" != 0 ] || echo "user root;"
  cat <<EOF
worker_processes 2;
pid $state/nginx.pid;
error_log $state/error.log;
events {}
http {
  access_log $state/access.log;
  default_type application/octet-stream;
  sendfile on;
  etag off;
  client_body_temp_path $state/tmp; proxy_temp_path $state/tmp; fastcgi_temp_path $state/tmp;
  uwsgi_temp_path $state/tmp; scgi_temp_path $state/tmp;
  map_hash_max_size 65536; map_hash_bucket_size 1024;
  map \$uri \$row { include $state/files.map; default ""; }
  map \$row \$hash { ~^(?<h>[0-9a-f]+) \$h; default ""; }
  map \$row \$lfs { "~ 1 " 1; default 0; }
  map \$row \$commit { ~(?<c>[0-9a-f]+)\$ \$c; default ""; }
  map "\$lfs \$hash" \$linked { "~^1 (?<l>.+)" "\"\$l\""; default ""; }
  map \$row \$size { "~ 1 (?<s>[0-9]+) " \$s; default ""; }
  server {
    listen 127.0.0.1:$port;
    location = /api/$api { default_type application/json; alias $state/info.json; }
    location /api/ {
      root $state/json; default_type application/json; error_page 404 = @no_revision;
    }
    location / {
      if (\$hash = "") { return 404; }
      add_header X-Repo-Commit \$commit;
      add_header ETag "\"\$hash\"";
      add_header X-Linked-ETag \$linked;
      add_header X-Linked-Size \$size;
      if (\$lfs) { return 302 http://localhost:$cdn/\$hash; }
      root $state/blobs;
      rewrite ^ /\$hash break;
    }
    location @no_revision { add_header X-Error-Code RevisionNotFound always; return 404; }
  }
  server {
    listen 127.0.0.1:$cdn;
    location ~ ^/(?<blob>[0-9a-f]+)\$ { root $state/blobs; add_header ETag "\"\$blob\""; }
  }
}
EOF
}

start() { # DIR PORT [REPO]
  local dir port=$2 state refs="" folder sep=""
  dir=$(cd "$1" && pwd) || die "no folder $1"
  local repo=${3:-local/$(basename "$dir")} api
  api=$(api_path "$repo")
  command -v nginx >/dev/null || PATH=$PATH:/usr/sbin
  command -v nginx >/dev/null || die "nginx is not installed: apt-get install nginx-light"
  state=$(state_dir "$port")
  stop "$port"
  mkdir -p "$state/blobs" "$state/tmp" "$state/json/api/$api"
  : >"$state/files.map"
  for folder in "$dir"/*/; do
    [ -d "$folder" ] || die "$dir has no folders, which would be the branches"
    refs="$refs$sep$(branch "${folder%/}" "$state" "$repo")"; sep=","
  done
  printf '{"branches":[%s],"tags":[],"converts":[]}' "$refs" >"$state/json/api/$api/refs"
  [ -e "$state/info.json" ] || cp "$(find "$state/json/api/$api/revision" -type f |
    LC_ALL=C sort | tail -1)" "$state/info.json"
  config "$state" "$port" "$repo" >"$state/nginx.conf"
  nginx -c "$state/nginx.conf" -e "$state/error.log" || die "nginx did not start"
  echo "http://127.0.0.1:$port"
}

stop() { # PORT
  local state pid
  state=$(state_dir "$1")
  if [ -s "$state/nginx.pid" ]; then
    pid=$(cat "$state/nginx.pid")
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
  fi
  rm -rf "$state"
}

case "${1:-}" in
  start) [ $# -ge 3 ] || die "usage: start DIR PORT [OWNER/NAME]"; start "${@:2}" ;;
  stop) [ $# -eq 2 ] || die "usage: stop PORT"; stop "$2" ;;
  *) die "usage: start DIR PORT [OWNER/NAME] | stop PORT" ;;
esac
