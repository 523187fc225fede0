#!/usr/bin/env bash
# Runs a mesh of daemons under all faults at once for so many minutes, and says what it saw: scripts/soak.sh 30 [--seed N]
# Needs root on Linux, ip, tc, nft, strace, libfaketime, perl and loop devices. Ends with 0 when every promise was kept.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    echo "usage: scripts/soak.sh MINUTES [--seed N]" >&2
    exit 2
}

[[ ${1:-} =~ ^[0-9]+$ ]] || usage
export ROUNDELAY_SOAK_MINUTES=$1
shift
if [ "$#" -gt 0 ]; then
    [ "$1" = --seed ] && [[ ${2:-} =~ ^[0-9]+$ ]] && [ "$#" -eq 2 ] || usage
    export ROUNDELAY_SEED=$2
fi
# What it needs and this machine lacks is a failure here, not a reason to be silent.
export ROUNDELAY_NO_SKIP=1
exec cargo test --locked --test faults -- --ignored --exact --nocapture \
    soak::a_mesh_keeps_its_promises_under_all_faults_at_once
