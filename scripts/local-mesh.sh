#!/bin/sh
# Starts N daemons on this machine (3 unless told otherwise), joined through the first, prints how to talk to each, and
# stops them all on Ctrl-C. Their homes are in a temporary folder, which is removed at the end unless KEEP=1.
# ROUNDELAY names the program to run; without it, the release build of this folder.
set -eu

count=${1:-3}
case $count in
'' | *[!0-9]* | 0) echo "usage: scripts/local-mesh.sh [N], with N at least 1" >&2; exit 2 ;;
esac

cd "$(dirname "$0")/.."
if [ -z "${ROUNDELAY:-}" ]; then
    cargo build --release --quiet -p roundelay
    ROUNDELAY=${CARGO_TARGET_DIR:-target}/release/roundelay
fi

folder=$(mktemp -d "${TMPDIR:-/tmp}/roundelay-mesh-XXXXXX")
pids=

stop() {
    trap - EXIT INT TERM
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    for pid in $pids; do wait "$pid" 2>/dev/null || true; done
    if [ "${KEEP:-0}" = 1 ]; then
        echo "the homes are in $folder" >&2
    else
        rm -rf "$folder"
    fi
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

name_of() {
    case $1 in
    1) echo anna ;; 2) echo ben ;; 3) echo cleo ;; 4) echo dora ;; 5) echo emil ;; 6) echo frida ;; *) echo "node-$1" ;;
    esac
}

# Waits until a node says that it is ready; ends everything if it does not come up.
wait_until_ready() {
    tries=0
    until grep -q '^ready' "$folder/$1.out" 2>/dev/null; do
        tries=$((tries + 1))
        if [ "$tries" -gt 200 ] || ! kill -0 "$2" 2>/dev/null; then
            echo "$1 does not come up; it said:" >&2
            cat "$folder/$1.err" >&2
            exit 1
        fi
        sleep 0.1
    done
}

first=
nth=1
while [ "$nth" -le "$count" ]; do
    name=$(name_of "$nth")
    set -- --home "$folder/$name" up --no-mdns --name "$name" --listen /ip4/127.0.0.1/tcp/0
    [ -z "$first" ] || set -- "$@" --join "$first"
    "$ROUNDELAY" "$@" >"$folder/$name.out" 2>"$folder/$name.err" &
    pids="$pids $!"
    wait_until_ready "$name" $!
    address=$(grep -o '/ip4/127.0.0.1/tcp/[^ ]*/p2p/[^ ]*' "$folder/$name.out" | head -n 1)
    first=${first:-$address}
    printf '%-8s %s\n' "$name" "$address"
    printf '%-8s %s --home %s status\n' '' "$ROUNDELAY" "$folder/$name"
    nth=$((nth + 1))
done

last=$(name_of "$count")
cat <<END

In other terminals, for example:
  $ROUNDELAY --home $folder/$last sub '>'
  $ROUNDELAY --home $folder/$(name_of 1) pub orders.placed '{"total":9}'

$count daemons are running; Ctrl-C stops them all.
END
for pid in $pids; do wait "$pid" || true; done
