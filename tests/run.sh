#!/usr/bin/env bash
# Runs everything that continuous integration runs: installs what the tests need, then format, lints, documentation,
# dependencies, tests and short fuzz runs, and what does not depend on a clock of other machines and of budgets: scores to
# the same bits on a Cortex-M4 and on aarch64, the instructions of an observation, the size of the agent's file for ARM, and
# the memory that the agent is resident with. Stops at the first failure with its exit code.
#
#   tests/run.sh
#
# VEDETTE_ADVISORY_DB  a copy of the RustSec advisory database (.tar.gz), for machines that cannot reach it
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(git gcc g++ libc6-dev prometheus-alertmanager mosquitto nats-server openssl iproute2 iptables valgrind)
cargo_deny_version=0.20.2
advisory_database=https://github.com/RustSec/advisory-db
advisory_copy=${VEDETTE_ADVISORY_DB:-../shared/data/advisory-db.tar.gz}

section() { printf '\n== %s\n' "$*"; }
fail() { printf 'tests/run.sh: %s\n' "$*" >&2; exit 1; }

install_packages() {
  local missing=() package
  command -v dpkg-query >/dev/null || { echo "not a Debian machine: it must have ${packages[*]} already"; return 0; }
  for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || { echo "all there: ${packages[*]}"; return 0; }
  local as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  "${as_root[@]}" apt-get update -q || echo "apt-get update failed; trying with the lists that are there"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" ||
    fail "could not install: ${missing[*]}"
}

# Prints the path of the pinned cargo-deny; builds it once if the machine has another one or none.
cargo_deny() {
  local candidate
  for candidate in "$(command -v cargo-deny || true)" target/tools/bin/cargo-deny; do
    [ -n "$candidate" ] && [ -x "$candidate" ] || continue
    [ "$("$candidate" --version)" = "cargo-deny $cargo_deny_version" ] && { echo "$candidate"; return 0; }
  done
  CARGO_TARGET_DIR=target/tools/build cargo install --quiet --locked --root target/tools --version "$cargo_deny_version" cargo-deny >&2
  rm -rf target/tools/build
  echo target/tools/bin/cargo-deny
}

# Makes a git repository of the copy, at a place where git finds it instead of the database's own address.
unpack_advisories() {
  local clone="$PWD/target/tools/advisory-db"
  rm -rf "$clone" && mkdir -p "$clone"
  tar -xzf "$advisory_copy" -C "$clone"
  git -C "$clone" init -q -b main
  git -C "$clone" add -A
  git -C "$clone" -c user.name=copy -c user.email=copy@localhost commit -q -m "Copy of the advisory database"
  export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0="url.file://$clone.insteadOf" GIT_CONFIG_VALUE_0="$advisory_database"
}

check_advisories() {
  local deny=$1
  if timeout 30 git ls-remote -q "$advisory_database" HEAD >/dev/null 2>&1; then
    echo "advisories: the database on the network"
    "$deny" --log-level error check advisories
  elif [ -f "$advisory_copy" ]; then
    echo "advisories: the local copy $advisory_copy, for the network's database cannot be reached"
    (
      unpack_advisories
      export CARGO_DENY_HOME="$PWD/target/tools/deny"
      "$deny" --log-level error check advisories
    )
  else
    echo "advisories: NOT CHECKED, for the database cannot be reached; set VEDETTE_ADVISORY_DB to a copy of it (.tar.gz)"
  fi
}

run_tests() {
  # The programs are part of the build of their packages' own tests.
  export VEDETTE_PROGRAMS_BUILT=1
  if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --locked --workspace --config-file .config/nextest.toml
  else
    cargo test --locked --workspace --lib --bins --tests --no-fail-fast
  fi
  cargo test --locked --workspace --doc --quiet
}

# What the agent is resident with as it is installed, but for the C library: this machine's, which takes some more. Chosen
# out of the whole workspace, the test is the one that was built before.
measure_memory() {
  cross/build.sh x86_64-unknown-linux-gnu
  VEDETTE_AGENT=$PWD/target/x86_64-unknown-linux-gnu/edge/vedette-agent VEDETTE_PROGRAMS_BUILT=1 \
    cargo test --locked --workspace --quiet --test memory -- --ignored --nocapture an_agent_stays
}

section packages
install_packages

section format
cargo fmt --all --check

section lints
cargo clippy --locked --workspace --all-targets --quiet -- -D warnings

section documentation
RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items --quiet

section dependencies
deny=$(cargo_deny)
"$deny" --log-level error check bans licenses sources
check_advisories "$deny"

if [ -x tests/fuzz.sh ]; then
  section fuzz
  tests/fuzz.sh --same
fi

section tests
run_tests

section "other machines"
cross/test.sh thumbv7em-none-eabihf
cross/test.sh aarch64-unknown-linux-gnu scores

section budgets
tests/instructions.sh
cross/test.sh aarch64-unknown-linux-gnu size
cross/test.sh armv7-unknown-linux-gnueabihf size
measure_memory

section "all passed in ${SECONDS} s"
