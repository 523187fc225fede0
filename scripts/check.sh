#!/usr/bin/env bash
# Every check that a change must pass: format, lints, documentation, layers, tests, dependencies, and the demonstration.
# Needs Rust; installs a C compiler, the components of Rust and, where it may, the programs that cause faults.
# As root every test of faults has to run (ROUNDELAY_NO_SKIP=1) unless ROUNDELAY_NO_SKIP=0 says otherwise.
set -euo pipefail
cd "$(dirname "$0")/.."

export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-never}"
DENY_VERSION=0.20.2

step() {
    printf '\n==== %s (%d s)\n' "$*" "$SECONDS"
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

fail() {
    printf 'check.sh: %s\n' "$*" >&2
    exit 1
}

# ---- what is needed

install_tools() {
    command -v cargo >/dev/null || fail "Rust is missing: install it from https://rustup.rs and run this again"
    if ! command -v cc >/dev/null; then
        as_root apt-get update -qq
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends gcc libc6-dev
    fi
    for component in rustfmt clippy; do
        cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add "$component"
    done
}

# The programs with which tests/faults cause faults. Only root can use most of them, so that others go without.
install_fault_tools() {
    [ "$(id -u)" -eq 0 ] || return 0
    export ROUNDELAY_NO_SKIP="${ROUNDELAY_NO_SKIP:-1}"
    local missing=()
    command -v ip >/dev/null && command -v tc >/dev/null || missing+=(iproute2)
    command -v nft >/dev/null || missing+=(nftables)
    command -v strace >/dev/null || missing+=(strace)
    command -v mkfs.ext4 >/dev/null || missing+=(e2fsprogs)
    command -v promtool >/dev/null || missing+=(prometheus)
    command -v losetup >/dev/null || missing+=(util-linux mount)
    compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null || missing+=(libfaketime)
    [ "${#missing[@]}" -gt 0 ] || return 0
    if ! command -v apt-get >/dev/null; then
        echo "some faults cannot be caused here, which needs: ${missing[*]}"
        return
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

# What programs in other languages need, of which tests/services and tests/readme.rs run some.
install_languages() {
    [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null || return 0
    local missing=()
    command -v curl >/dev/null || missing+=(curl)
    python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3 python3-venv)
    command -v node >/dev/null || missing+=(nodejs)
    command -v npm >/dev/null || missing+=(npm)
    [ "${#missing[@]}" -gt 0 ] || return 0
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

# What of tests/faults ran, by the record that they leave.
report_faults() {
    local record="${CARGO_TARGET_DIR:-target}/tmp/faults-record.txt"
    [ -s "$record" ] || fail "tests/faults left no record of what ran in $record"
    printf 'faults: %s ran, %s skipped\n' "$(grep -c '^ran ' "$record")" "$(grep -c '^skipped ' "$record")"
    grep '^skipped ' "$record" || true
}

# ---- the rules of the house that no compiler checks

# Fails when a file below $2... but outside of $1 has a line that matches the pattern on stdin's first line.
forbid() {
    local pattern=$1 why=$2 found
    shift 2
    found=$(grep -rnE --include='*.rs' "$pattern" "$@" | grep -vE '^[^:]+:[0-9]+:[[:space:]]*//' || true)
    [ -z "$found" ] || fail "$why:"$'\n'"$found"
}

except() {
    find "$1" -name '*.rs' -not -path "$2/*" -not -path "$2.rs"
}

check_layers() {
    forbid '\b(tokio|libp2p|sled|axum|reqwest|rand)::' "protocol does no I/O" protocol/src
    forbid '\bstd::(net|fs|thread|process|env)\b|\b(SystemTime|Instant)\b' "protocol knows no system" protocol/src
    forbid '\bHash(Map|Set)\b' "protocol iterates over ordered maps only" protocol/src
    forbid '\broundelay::' "protocol does not know the node" protocol/src
    local deps
    deps=$(sed -n '/^\[dependencies\]/,/^\[/p' protocol/Cargo.toml)
    ! grep -qE '^(tokio|libp2p|sled|rand|axum)\b' <<<"$deps" || fail "protocol depends on I/O"

    mapfile -t outside < <(except node/src node/src/log)
    forbid '\bsled::' "only node/src/log knows sled" "${outside[@]}"
    mapfile -t outside < <(except node/src node/src/mesh)
    forbid '\blibp2p::(\{[^}]*\b)?(swarm|gossipsub|noise|yamux|mdns|identify|ping|pnet)\b|\blibp2p_stream::' \
        "only node/src/mesh knows the swarm" "${outside[@]}"
    mapfile -t outside < <(except node/src node/src/api)
    forbid '\baxum::' "only node/src/api knows the HTTP server" "${outside[@]}"
    forbid '\bunsafe[[:space:]]*(\{|fn|impl)' "there is no unsafe code" node protocol tests
}

# Code of a file without its tests, in lines. About 400 is the aim; beyond 600 it has to be split.
check_sizes() {
    local file lines
    while IFS= read -r file; do
        lines=$(awk '/^mod [a-z_]+ \{/ { exit } { n++ } END { print n + 0 }' "$file")
        [ "$lines" -le 600 ] || fail "$file has $lines lines without its tests: split it"
    done < <(find node/src protocol/src -name '*.rs' -not -name '*tests.rs')
}

check_files() {
    local file
    for file in README.md ARCHITECTURE.md CONTRIBUTING.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE deny.toml; do
        [ -s "$file" ] || fail "$file is missing"
    done
    ! grep -rnE '/(home|root|Users)/[a-z]' --include='*.md' --include='*.sh' --include='*.toml' \
        --exclude-dir=target --exclude-dir=.git . || fail "a path of somebody's machine"
}

# ---- dependencies

# Where cargo-deny is missing or of another version, it is built as fast as it can be, which takes about a minute on two
# cores (97 s of CPU): it runs for seconds, so that optimising it would cost more than it saves.
install_deny() {
    local target="${CARGO_TARGET_DIR:-target}"
    export PATH="$PWD/target/tools/bin:$PATH"
    [ "$(cargo deny --version 2>/dev/null)" != "cargo-deny $DENY_VERSION" ] || return 0
    CARGO_TARGET_DIR="$target/deny-build" CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_INCREMENTAL=0 \
        cargo install --locked --quiet --force --debug --root target/tools "cargo-deny@$DENY_VERSION"
    rm -rf "$target/deny-build"
}

check_dependencies() {
    install_deny
    cargo deny --locked check licenses bans sources
}

# ---- arithmetic

# That the profile for releases stops where a sum overflows, whatever a configuration or the environment says.
check_overflow() {
    local said
    ! said=$(cargo run --locked --quiet --release --package roundelay-workspace --bin overflow 2>&1) || fail "$said"
    grep -q 'attempt to add with overflow' <<<"$said" || fail "src/bin/overflow.rs failed for another reason: $said"
}

step "tools"
install_tools
install_fault_tools
install_languages
cargo --version
step "files, layers and sizes"
check_files
check_layers
check_sizes
step "format"
cargo fmt --all --check
cargo fmt --manifest-path fuzz/Cargo.toml --check
step "tests"
cargo test --locked
report_faults
step "lints"
cargo clippy --locked --workspace --all-targets -- -D warnings
step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --workspace
step "dependencies"
check_dependencies
step "an overflow in what is released"
check_overflow
step "the demonstration"
# By the binary that the tests have built: compiling another takes minutes.
"${CARGO_TARGET_DIR:-target}/debug/roundelay" dev --demo
step "all is well"
