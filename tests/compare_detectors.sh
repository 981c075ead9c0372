#!/usr/bin/env bash
# Compares the agent's scores on labelled series with river's online detectors and a random cut forest, and with the
# agent's own scores less each part, in one run.
#
#   tests/compare_detectors.sh FOLDER [--without NAME...]
#
# FOLDER holds CSV files, at any depth, with the columns TimeStamp, Value and Label, as the Microsoft Cloud Monitoring
# Dataset has them. What is measured stands at the top of compare_detectors.py. Needs python3 with venv; numpy, river
# and krcf (AWS's random cut forest) are installed below target/tools. Takes some minutes for 100,000 rows.
set -euo pipefail
folder=$(realpath "${1:?usage: tests/compare_detectors.sh FOLDER [--without NAME...]}")
shift
cd "$(dirname "$0")/.."
cargo build --quiet --release -p vedette-agent
tools=target/tools/detectors
if ! "$tools/bin/python" -c 'import numpy, river, krcf' 2>/dev/null; then
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet numpy==2.4.6 river==0.26.1 krcf==0.4.0
fi
"$tools/bin/python" tests/compare_detectors.py target/release/vedette-agent "$folder" "$@"
