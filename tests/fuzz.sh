#!/usr/bin/env bash
# Fuzzes targets with libFuzzer, on the stable compiler: each for a number of seconds (default 60), or with a number of inputs.
# It begins with the corpus in tests/fuzz/corpus. What it finds stays in target/fuzz/corpus; an input that breaks a target is
# written to target/fuzz/found, and the script fails.
#
#   tests/fuzz.sh [SECONDS | --inputs N] [TARGET...]
set -euo pipefail
cd "$(dirname "$0")/.."

bound=(-max_total_time=60)
case ${1:-} in
  --inputs) bound=(-runs="$2"); shift 2 ;;
  [0-9]*) bound=(-max_total_time="$1"); shift ;;
esac
targets=("$@")
if [ ${#targets[@]} = 0 ]; then
  for file in tests/fuzz/*.rs; do targets+=("fuzz_$(basename "$file" .rs)"); done
fi

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
  began=$SECONDS
  # Seeds are read and never written; a dictionary is only there where a format has words.
  more=("tests/fuzz/corpus/${target#fuzz_}")
  [ ! -f "tests/fuzz/corpus/${target#fuzz_}.dict" ] || more+=("-dict=tests/fuzz/corpus/${target#fuzz_}.dict")
  "target/fuzz/$host/release/$target" "$corpus" "${more[@]}" "${bound[@]}" -max_len=4096 -timeout=10 -rss_limit_mb=1024 \
    -artifact_prefix="target/fuzz/found/$target-" -verbosity=0 -print_final_stats=1 2>&1 |
    sed -n -e '/stat::number_of_executed_units/{s/.*: */'"$target"': executions: /p}' -e '/ERROR\|panicked\|SUMMARY\|Test unit\|assert/p'
  echo "$target: $((SECONDS - began)) s"
done
