#!/usr/bin/env bash
# Pulls a file that is stored in Xet, from HF's own local CAS server; a check to run by hand.
#
#   scripts/check-xet.sh [BINARY]      default: target/debug/tmax-ckpt
#
# Builds `local_cas_server` (crate xet-client, feature simulation) into
# ${XDG_CACHE_HOME:-~/.cache}/tmax-ckpt-peers, or takes $LOCAL_CAS_SERVER; uploads a file with
# hf_xet; serves the Hub's side with nginx, first with the redirect to a CDN that the Hub gives too,
# then without. Needs python3, curl, nginx, cargo.
set -euo pipefail
cd "$(dirname "$0")/.."
binary=$(readlink -f "${1:-target/debug/tmax-ckpt}")
peers=${XDG_CACHE_HOME:-$HOME/.cache}/tmax-ckpt-peers
server=${LOCAL_CAS_SERVER:-$peers/xet/bin/local_cas_server}
port=18980
cas=http://127.0.0.1:$((port + 2))
work=$(mktemp -d)
cas_pid=

stop() {
  scripts/local-hub.sh stop "$port" || true
  [ -z "$cas_pid" ] || kill "$cas_pid" 2>/dev/null || true
  rm -rf "$work"
}
trap stop EXIT

[ -x "$server" ] || cargo install xet-client --locked --version 1.8.0 --features simulation \
  --bin local_cas_server --root "$peers/xet"
if [ ! -e "$peers/hf/ok" ]; then
  python3 -m venv "$peers/hf"
  "$peers/hf/bin/pip" -q install huggingface_hub==2.4.0
  touch "$peers/hf/ok"
fi

"$server" --data-directory "$work/cas" --port $((port + 2)) >"$work/cas.log" 2>&1 &
cas_pid=$!
for _ in $(seq 100); do curl -sf "$cas/health" >/dev/null && break; sleep 0.2; done

mkdir -p "$work/tree/main"
echo '{}' >"$work/tree/main/config.json"
file=$work/tree/main/model.safetensors
openssl enc -aes-128-ctr -pass pass:tmax -nosalt -in /dev/zero 2>/dev/null |
  head -c 50000000 >"$file" || true
# A cache of its own: what another server was given once would not be sent to this one.
xet=$(HF_HOME=$work/hf HF_XET_CACHE=$work/hf/xet "$peers/hf/bin/python" - "$file" "$cas" <<'EOF'
import sys, warnings
warnings.simplefilter("ignore")
import hf_xet
file, cas = sys.argv[1:]
token = ("token", 1 << 40)
info = hf_xet.upload_files([file], cas, token, lambda: token, None, None)
print(info[0].hash)
EOF
)
echo "uploaded as $xet"

endpoint=$(scripts/local-hub.sh start "$work/tree" "$port" o/n)
state=${TMPDIR:-/tmp}/tmax-ckpt-local-hub-$port
# What the Hub adds for such a file: its Xet hash, and where tokens for the CAS are given.
api=$state/json/api/models/o/n/xet-read-token
mkdir -p "$api"
commit=$(curl -sf "$endpoint/api/models/o/n/refs" | sed 's/.*"targetCommit":"\([0-9a-f]*\)".*/\1/')
printf '{"accessToken":"token","exp":1099511627776,"casUrl":"%s"}' "$cas" |
  tee "$api/main" >"$api/$commit"
sed -i "s|if (\$lfs) { return 302|if (\$lfs) { set \$xet $xet; } add_header X-Xet-Hash \$xet; &|" \
  "$state/nginx.conf"
sed -i "s|location / {|& set \$xet \"\";|" "$state/nginx.conf"
sed -i "s|location /api/ {|& add_header X-Xet-Cas-Url $cas; add_header X-Xet-Access-Token token; add_header X-Xet-Token-Expiration 1099511627776;|" \
  "$state/nginx.conf"

reload() { PATH=$PATH:/usr/sbin nginx -c "$state/nginx.conf" -s reload; sleep 1; : >"$state/access.log"; }

pull() { # NAME: pulls into an empty cache, compares, and says which way the bytes came
  local snapshot
  snapshot=$(HF_ENDPOINT=$endpoint HF_HOME=$work/$1 "$binary" pull o/n@main -q)
  cmp "$file" "$snapshot/model.safetensors"
  sleep 1
  bytes=$(grep -cE "GET /($sha|o/n/resolve/[^ ]*/model)" "$state/access.log" || true)
  tokens=$(grep -c 'GET /api/models/o/n/xet-read-token' "$state/access.log" || true)
  echo "$1: verified; requests for bytes over HTTP: $bytes, for a token of the CAS: $tokens"
}

sha=$(sha256sum <"$file" | cut -c1-64)
reload
pull both-ways
# hf-hub 1.0 follows the redirect before it looks for the Xet hash, so that a Hub with both ways is
# asked for the bytes over HTTP. Without the redirect there is Xet alone.
sed -i 's|if (\$lfs) { return 302 [^}]*}||' "$state/nginx.conf"
reload
pull xet-alone
[ "$bytes" = 0 ] && [ "$tokens" -gt 0 ] || { echo "not over Xet" >&2; exit 1; }
echo "xet: ok"
