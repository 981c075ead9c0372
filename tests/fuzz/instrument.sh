#!/usr/bin/env bash
# Compiles a crate of ours as cargo asks for it, and lets it tell libFuzzer which of its branches were taken.
exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table --cfg fuzzing
