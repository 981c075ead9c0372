#!/usr/bin/env bash
# Fuzzes targets with libFuzzer, on the stable compiler: each for a number of seconds (default 60), with a number of inputs, or,
# in every run of the tests, with the same few inputs each time.
# It begins with the corpus in tests/fuzz/corpus. What it finds stays in target/fuzz/corpus; an input that breaks a target is
# written to target/fuzz/found, and the script fails.
#
#   tests/fuzz.sh [SECONDS | --inputs N | --same] [TARGET...]      for instance: tests/fuzz.sh --inputs 100000000 statsd
set -euo pipefail
cd "$(dirname "$0")/.."

# Those that need the cores alone are built without the programs: a tenth of the code, and faster to look at.
cores=(line_protocol statsd frames spool telemetry stored)
programs=(access calendar certificates config csv http mqtt rows)

bound=(-max_total_time=60)
case ${1:-} in
  --inputs) bound=(-runs="$2"); optimised=yes; shift 2 ;;
  # What is found by chance must not fail a change that has nothing to do with it.
  --same) bound=(-runs=10000 -seed=1); rm -rf target/fuzz/corpus; shift ;;
  [0-9]*) bound=(-max_total_time="$1"); shift ;;
esac
targets=("${@#fuzz_}")
[ $# -gt 0 ] || targets=("${cores[@]}" "${programs[@]}")

# How long an input may be: long enough for what the format can do wrong, short enough for many of them.
longest() {
  case $1 in
    line_protocol | statsd | frames | http) echo 128 ;;
    spool | telemetry | csv | rows | mqtt) echo 256 ;;
    stored) echo 1536 ;;
    *) echo 512 ;;
  esac
}

# Our own crates are instrumented, what others wrote is not. Short runs take libraries as the tests have built them, a run
# of many inputs is optimised, with the checks of a build that is not.
export RUSTC_WORKSPACE_WRAPPER=$PWD/tests/fuzz/instrument.sh
profile=(--profile dev) folder=debug
if [ -n "${optimised:-}" ]; then
  profile=(--release) folder=release
  export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1
  export CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=true
  # A folder of its own keeps these settings away from the ordinary build.
  export CARGO_TARGET_DIR=target/fuzz
fi

build() {
  local feature=$1 binaries=() wanted known
  shift
  for wanted in "${targets[@]}"; do
    for known in "$@"; do
      [ "$wanted" != "$known" ] || binaries+=(--bin "fuzz_$wanted")
    done
  done
  [ ${#binaries[@]} = 0 ] || cargo build --locked --quiet "${profile[@]}" -p vedette-tests \
    --no-default-features --features "$feature" "${binaries[@]}"
}
build fuzz "${cores[@]}"
build fuzz_programs "${programs[@]}"

mkdir -p target/fuzz/found
for target in "${targets[@]}"; do
  corpus=target/fuzz/corpus/fuzz_$target
  mkdir -p "$corpus"
  began=$SECONDS
  # Seeds are read and never written.
  "${CARGO_TARGET_DIR:-target}/$folder/fuzz_$target" "$corpus" "tests/fuzz/corpus/$target" "${bound[@]}" \
    -max_len="$(longest "$target")" -timeout=60 -rss_limit_mb=2048 \
    -artifact_prefix="target/fuzz/found/$target-" -verbosity=0 -print_final_stats=1 2>&1 |
    sed -n -e '/stat::number_of_executed_units/{s/.*: */'"$target"': executions: /p}' -e '/ERROR\|panicked\|SUMMARY\|Test unit\|assert/p'
  echo "$target: $((SECONDS - began)) s"
done
