#!/usr/bin/env bash
# Tests the agent as it is on another machine, under QEMU; installs what it needs and stops at the first failure.
#
#   cross/test.sh TARGET [PART...]          default: every part
#
# TARGET  as for cross/build.sh, or thumbv7em-none-eabihf or thumbv6m-none-eabi, a board without an operating system
# PART    scores      a recording is scored there and here, and every bit of every score and frame is the same
#         recording   the agent itself, as it is installed, scores a year of one series to the same digits as this machine's
#         units       the unit tests of the agent and both its cores, golden tests and quality grid included
#         end_to_end  the end-to-end tests with the agent of that machine and an aggregator of this one, over QUIC and
#                     over MQTT, kill -9 included; the agent is built by cross/build.sh with the profile edge
#         memory      on x86-64: what the agent is resident with at 1,000 and 10,000 series, over QUIC with mutual TLS
#         idle        on x86-64: what the agent takes of a core at 10,000 observations a second, and at none
#         size        the agent's file is at most 4 MiB on ARM
# Memory and processor time are measured on x86-64 only, and a board has only scores.
set -euo pipefail
cd "$(dirname "$0")/.."
. cross/toolchain.sh

target=${1:-}
[ -n "$target" ] || fail "usage: cross/test.sh TARGET [PART...]; TARGET is one of: $targets $boards"
parts=("${@:2}")
host=$(rustc -vV | sed -n 's/^host: //p')
emulator=()
case $target in
  x86_64-*) ;;
  aarch64-*-gnu) emulator=(qemu-aarch64-static -L /usr/aarch64-linux-gnu) ;;
  aarch64-*) emulator=(qemu-aarch64-static) ;;
  armv7-*-gnueabihf) emulator=(qemu-arm-static -L /usr/arm-linux-gnueabihf) ;;
  armv7-*) emulator=(qemu-arm-static) ;;
  thumbv7em-*) emulator=(timeout 3600 qemu-system-arm -machine mps2-an386 "${semihosting[@]}") ;;
  thumbv6m-*) emulator=(timeout 3600 qemu-system-arm -machine microbit "${semihosting[@]}") ;;
  *) fail "unknown target $target; one of: $targets $boards" ;;
esac
if [[ $target = thumb* ]]; then parts=(scores); fi
[ ${#parts[@]} -gt 0 ] || parts=(scores recording units end_to_end size)

# Runs in a subshell, since each target has a toolchain of its own. Prints the path of the firmware.
build_firmware() (
  flags=()
  prepare_toolchain "$1" panic_abort
  export CARGO_TARGET_DIR=$CARGO_TARGET_DIR/firmware
  export_flags
  cargo "${cargo_build[@]}" --locked --quiet --config cross/cargo.toml --manifest-path cross/firmware/Cargo.toml \
    --release --target "$1" "${build_std[@]}" >&2
  echo "firmware for $1, by $way" >&2
  echo "$CARGO_TARGET_DIR/$1/release/vedette-firmware"
)

# Every line that a board or machine prints of the recording must be one that this machine prints too; lines that
# speak of memory may differ with the width of a pointer.
test_scores() {
  local firmware here there
  [ "$target" != "$host" ] || { echo "$target is this machine; nothing to compare"; return 0; }
  firmware=$(build_firmware "$host")
  here=$("$firmware")
  firmware=$(build_firmware "$target")
  there=$("${emulator[@]}" "$firmware")
  printf '%s\n' "$there"
  there=$(grep -v ^memory <<<"$there")
  [ "${there%% *}" = scores ] || fail "$target scored nothing"
  # A Cortex-M0 has no room for a pipeline; everything else makes frames too.
  [[ $target = thumbv6m-* ]] || grep -q '^frames ' <<<"$there" || fail "$target made no frames"
  while IFS= read -r line; do
    grep -qxF "$line" <<<"$here" || fail "$target differs from $host: $line"
  done <<<"$there"
  echo "$target and $host: the same bits"
}

# Rows of one series every ten minutes: days and weeks, noise, and now and then a spike, an outage and a value that is stuck.
make_recording() {
  awk 'BEGIN {
    print "timestamp,value"
    for (row = 0; row < 52560; row++) {
      random = (random * 16807 + 12345) % 2147483647
      level = row % 1008 < 720 ? 100 : 60
      wave = row % 144 < 72 ? row % 72 : 72 - row % 72
      value = level + wave + random / 2147483647 * 8
      if (row % 5003 > 4950) value = 0
      if (row % 7001 > 6900) value = 77.5
      if (row % 997 == 0) value *= 4
      printf "%d,%.6g\n", 1750000000 + row * 600, value
    }
  }'
}

test_recording() {
  local folder=$PWD/target/$target/recording
  [ "$target" != "$host" ] || { echo "$target is this machine; nothing to compare"; return 0; }
  cross/build.sh "$target"
  cargo build --locked --quiet -p vedette-agent
  mkdir -p "$folder"
  make_recording >"$folder/values.csv"
  target/debug/vedette-agent score --band "$folder/values.csv" >"$folder/here.csv"
  "${emulator[@]}" "target/$target/edge/vedette-agent" score --band "$folder/values.csv" >"$folder/there.csv"
  # What scores nothing is the same everywhere.
  awk -F, '$3 >= 0.5 { odd++ } END { exit !(NR == 52561 && odd > 10 && odd < 5000) }' "$folder/here.csv" ||
    fail "the recording is not scored as it should be: $folder/here.csv"
  cmp "$folder/here.csv" "$folder/there.csv" || fail "$target differs from $host"
  echo "the agents for $target and $host: the same scores in every digit"
}

test_units() (
  flags=()
  prepare_toolchain "$target" panic_unwind,test
  [ ${#cargo_test[@]} -gt 0 ] || fail "unit tests run on gnu targets"
  export_flags
  cargo "${cargo_test[@]}" --locked --quiet --config cross/cargo.toml --target "$target" "${build_std[@]}" \
    -p vedette-common -p vedette-agent-core --lib --tests
  cargo "${cargo_test[@]}" --locked --quiet --config cross/cargo.toml --target "$target" "${build_std[@]}" \
    -p vedette-agent --lib
)

test_size() {
  local bytes_max=$((4 * 1024 * 1024)) bytes
  # The instructions of x86-64 are longer, and nobody counts bytes there.
  [[ $target != x86_64-* ]] || bytes_max=$((5 * 1024 * 1024))
  cross/build.sh "$target"
  bytes=$(stat -c %s "target/$target/edge/vedette-agent")
  [ "$bytes" -le "$bytes_max" ] || fail "the agent for $target has $bytes bytes, more than $bytes_max"
}

# Measures the installed agent with what the arguments choose of one file of tests.
measure() {
  [[ $target = x86_64-* ]] || fail "measured on x86-64 only: QEMU's own memory and time would count elsewhere"
  cross/build.sh "$target"
  VEDETTE_AGENT=$PWD/target/$target/edge/vedette-agent \
    cargo test --locked --quiet -p vedette-tests --test memory -- --include-ignored --nocapture "$@"
}

test_memory() { measure --skip an_agent_leaves; }

test_idle() { measure an_agent_leaves; }

test_end_to_end() {
  install_packages mosquitto prometheus-alertmanager openssl
  cross/build.sh "$target"
  local runner=$PWD/target/$target/edge/run-vedette-agent
  printf '#!/bin/bash\nexec %s"$@"\n' "$(printf '%q ' "${emulator[@]}" "$PWD/target/$target/edge/vedette-agent")" >"$runner"
  chmod +x "$runner"
  VEDETTE_AGENT=$runner cargo test --locked --quiet -p vedette-tests --test end_to_end --test mqtt
}

case $target in
  *-linux-*) install_packages qemu-user-static ;;
  *) install_packages qemu-system-arm ;;
esac
for part in "${parts[@]}"; do
  case $part in
    scores | recording | units | end_to_end | memory | idle | size) ;;
    *) fail "unknown part $part; one of: scores recording units end_to_end memory idle size" ;;
  esac
  began=$SECONDS
  "test_$part"
  echo "$target $part: passed in $((SECONDS - began)) s"
done
