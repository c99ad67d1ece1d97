#!/usr/bin/env bash
# The main job in one command, on loopback, without root: two sites and a device,
# a policy, a function, remote access, a revocation. Everything it makes is in a
# directory that it removes at the end.
#
#   examples/quickstart/run.sh            after make build
#   KEEP=1 examples/quickstart/run.sh     keep the directory to look around
set -euo pipefail

top=$(cd "$(dirname "$0")/../.." && pwd)
export PATH="$top/bin:$PATH"
command -v hpmq >/dev/null || { echo "quickstart: no programs in bin/; run make build first" >&2; exit 1; }

work=$(mktemp -d)
export XDG_RUNTIME_DIR="$work" # so that a node of yours is left alone
started=()
finish() {
  code=$?
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
  if [ "$code" -ne 0 ]; then
    echo "quickstart: failed; what the nodes said last:" >&2
    tail -n 5 "$work"/*.log >&2 || true
  fi
  [ -n "${KEEP:-}" ] && echo "quickstart: everything is in $work" || rm -rf "$work"
  exit "$code"
}
trap finish EXIT
cd "$work"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }

# start LOG COMMAND...: run a command in the background.
start() {
  local log=$1; shift
  "$@" >"$log" 2>&1 &
  started+=($!)
}

# until_true COMMAND...: ask again, 200 times at most, until it succeeds. On a busy
# machine the questions take longer, like the answers that they wait for.
until_true() {
  for _ in $(seq 200); do
    "$@" >/dev/null 2>&1 && return
    sleep 0.1
  done
  echo "quickstart: asked 200 times: $*" >&2
  return 1
}

field() { sed -n "s/^ *\"$1\": \"\\(.*\\)\",*\$/\\1/p"; }

# Other ports than a node of yours has: any shift whose ports are free.
shift_ports() {
  for base in $(seq "$1" 100 30000); do
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$((1883 + base))") 2>/dev/null &&
       ! (exec 3<>"/dev/tcp/127.0.0.1/$((8883 + base))") 2>/dev/null &&
       ! (exec 3<>"/dev/tcp/127.0.0.1/$((8480 + base))") 2>/dev/null; then
      echo "$base"; return
    fi
  done
}
home_shift=$(shift_ports 20000)
lyon_shift=$(shift_ports $((home_shift + 100)))
home=(--data "$work/home")
lyon=(--data "$work/lyon")

say "1. A node at home: CA, broker, mesh. Then one at lyon, with a site ticket."
start home.log hpmq up "${home[@]}" --ports "+$home_shift" --advertise 127.0.0.1
until_true grep -q "ready in" home.log
cat home.log | grep -v '^{'
ticket=$(hpmq site invite lyon "${home[@]}" -o json | field ticket)
start lyon.log hpmq up --site lyon --join "$ticket" "${lyon[@]}" --ports "+$lyon_shift" --advertise 127.0.0.1
until_true sh -c 'hpmq status --data lyon -o json | grep -q "\"state\": \"up\""'
show hpmq site list "${lyon[@]}"

say "2. A device enrols: its key is made by hpmq-enroll and never leaves."
ticket=$(hpmq enroll ticket --name pump-7 --role sensor "${home[@]}" -o json | field ticket)
hpmq-enroll --out pump-7 "$ticket" | tee enrolled.txt
publish=(hpmq pub -h 127.0.0.1 -p $((8883 + home_shift)) --cafile pump-7/ca.pem --cert pump-7/cert.pem --key pump-7/key.pem)

say "3. The policy grants it its own branch, and says why it refuses the rest."
show "${publish[@]}" -t site/home/valve/set -m open && exit 1 || echo "(exit code $?)"

say "4. A WebAssembly function turns vendor payloads into one JSON and drops repeats."
(cd "$top/examples/functions/normalise" && GOFLAGS='' GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o "$work/normalise.wasm" .)
cp "$top/examples/quickstart/policy-function.hcl" home/policy/function.hcl
until_true sh -c 'hpmq func list --data home -o json >/dev/null && hpmq policy check --data home'
show hpmq func add normalise normalise.wasm "${home[@]}"
until_true sh -c 'hpmq status --data lyon -o json | grep -q "\"loaded\": true"'

say "5. Lyon sees the converted message, never the raw one."
start lyon-sub.log hpmq sub -t 'site/#' -v "${lyon[@]}"
until_true sh -c 'hpmq status --data home -o json | grep -q "\"interest\": [1-9]"'
tasmota='{"Time":"2019-10-31T18:55:09","ANALOG":{"Illuminance":8}}'
show "${publish[@]}" -t site/home/pump-7/raw -m "$tasmota"
"${publish[@]}" -t site/home/pump-7/raw -m "$tasmota" # a repeat
printf '\x11\x03\x04\x00\x8d\x00\x8e\xfb\xbd' >modbus.bin
show "${publish[@]}" -t site/home/pump-7/raw -f modbus.bin
until_true grep -q modbus-rtu lyon-sub.log
cat lyon-sub.log
! grep -q /raw lyon-sub.log
[ "$(wc -l <lyon-sub.log)" -eq 2 ]

say "6. Anna reaches the device's web page from lyon, while a grant says so."
(cd "$top" && go build -o "$work/web" ./examples/quickstart/web)
web_port=$((8080 + home_shift))
start web.log ./web "127.0.0.1:$web_port"
start agent.log hpmq-lite up --dir pump-7 --expose "$web_port"
ticket=$(hpmq user add anna "${home[@]}" -o json | field ticket)
show hpmq login "$ticket" "${lyon[@]}"
sed "s|tcp/8080|tcp/$web_port|" "$top/examples/quickstart/policy-vendor.hcl" >home/policy/vendor.hcl
forward=(hpmq forward "pump-7:$web_port" --listen "127.0.0.1:$((8080 + lyon_shift))" "${lyon[@]}")
until_true sh -c "timeout -s INT 1 hpmq forward pump-7:$web_port --listen 127.0.0.1:0 --data lyon; [ \$? -eq 124 ]"
start forward.log "${forward[@]}"
until_true grep -q forwarding forward.log
show curl -s "http://127.0.0.1:$((8080 + lyon_shift))/"
echo "(the grant goes:)"
rm home/policy/vendor.hcl
until_true sh -c "! curl -s -m 2 http://127.0.0.1:$((8080 + lyon_shift))/"
show "${forward[@]}" && exit 1 || echo "(exit code $?)"

say "7. Revoked: everywhere, for good."
show hpmq device revoke pump-7 "${home[@]}"
show "${publish[@]}" -t site/home/pump-7/raw -m x && exit 1 || echo "(exit code $?)"
show hpmq-enroll renew --force --out pump-7 && exit 1 || echo "(exit code $?)"
show hpmq device list "${lyon[@]}"

say "All of it worked."
