#!/usr/bin/env bash
# Fuzzes each target for a number of seconds (default 60) with libFuzzer, on the stable compiler. What it finds stays in
# target/fuzz/corpus; an input that breaks a target is written to target/fuzz/found, and the script fails.
#
#   tests/fuzz.sh [SECONDS] [TARGET...]
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(fuzz_line_protocol fuzz_statsd fuzz_frames fuzz_spool)

# A target of its own keeps these flags away from build scripts and from the ordinary build.
host=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR=target/fuzz
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks --cfg fuzzing"

binaries=()
for target in "${targets[@]}"; do binaries+=(--bin "$target"); done
cargo build --locked --quiet --release --target "$host" -p vedette-tests --no-default-features --features fuzz "${binaries[@]}"

mkdir -p target/fuzz/found
for target in "${targets[@]}"; do
  corpus=target/fuzz/corpus/$target
  mkdir -p "$corpus"
  # The frames and lines of the repository's own tests are not needed to begin: libFuzzer finds its way from nothing.
  "target/fuzz/$host/release/$target" "$corpus" -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=1024 \
    -artifact_prefix="target/fuzz/found/$target-" -verbosity=0 -print_final_stats=1 2>&1 |
    sed -n -e '/stat::number_of_executed_units/{s/.*: */'"$target"': executions: /p}' -e '/ERROR\|panicked\|SUMMARY\|Test unit\|assert/p'
done
