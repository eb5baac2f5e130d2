# shellcheck shell=bash
# What every script here shares: where things are and how they speak. Sourced, never run.
# Guarantees: the working directory is the root of the tree, and every cargo call of every
# script uses one target folder and one profile, so that the dependencies are built once.
# It installs nothing: that is scripts/prepare.

set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/target}"
HOLDFAST_CACHE="${HOLDFAST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/holdfast}"
export HOLDFAST_CACHE
export HOLDFAST_BIN="$CARGO_TARGET_DIR/release/holdfast"

# In CI the committed lock file is the only truth; a developer may be changing a dependency.
cargo_flags=(--release)
if [ -n "${CI:-}" ]; then cargo_flags+=(--locked); fi

say() { printf 'holdfast: %s\n' "$*"; }
fail() {
    printf 'holdfast: %s\n' "$*" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# The longest part of a build is RocksDB's C++; its archive tells whether that is behind us.
dependencies_are_built() { compgen -G "$CARGO_TARGET_DIR/release/build/librocksdb-sys-*/out/librocksdb.a" >/dev/null; }

# 13 to 15.5 minutes for all dependencies on 2 cores (README.md has command, machines and dates). The
# C++ scales with the cores, the last crates and the link (about 3 minutes) do not.
cold_build_minutes() { echo $((3 + (25 + $(nproc) - 1) / $(nproc))); }

expected_build() {
    if dependencies_are_built; then
        echo "the dependencies are built already: expect up to 3 minutes for the project's own crates"
    else
        echo "first build from source: expect about $(cold_build_minutes) minutes on the $(nproc) core(s) here, mostly RocksDB's C++ (measured: 13 to 15.5 minutes on 2 cores)"
    fi
}

# The tree that a build comes from: printed only if nothing in the work tree differs from it.
clean_tree() {
    git rev-parse --verify --quiet HEAD >/dev/null 2>&1 || return 1
    [ -z "$(git status --porcelain)" ] || return 1
    git rev-parse 'HEAD^{tree}'
}

version() { sed -n '/^\[workspace.package\]/,/^\[/ s/^version *= *"\(.*\)"/\1/p' Cargo.toml; }

# A command gets its own process group, so that one signal ends all that it started; Ctrl-C at the
# terminal therefore reaches the script alone, which passes it on and ends.
running=""
run_bounded() { # run_bounded SECONDS COMMAND...: 124 or 137 if it was stopped for its time
    local status=0
    trap interrupted INT TERM
    set -m
    timeout --kill-after=20 "$@" </dev/null &
    running=$!
    set +m
    wait "$running" || status=$?
    running=""
    return "$status"
}
interrupted() {
    trap - INT TERM
    if [ -n "$running" ]; then
        kill -TERM "$running" || true
        wait "$running" || true
    fi
    fail "interrupted"
}
