#!/usr/bin/env bash
# Scores the Numenta Anomaly Benchmark with `vedette-agent score`: strictly online, one parameter set.
#
#   tests/nab.sh NAB_FOLDER [RESULTS_FOLDER]
#
# NAB_FOLDER holds data/, labels/combined_windows.json and score_nab.py. Prints the three normalised scores at the best
# threshold and at the shipped one, 0.5. Fails when a file does not give one row for each row. Needs python3 with numpy.
set -euo pipefail
nab=${1:?usage: tests/nab.sh NAB_FOLDER [RESULTS_FOLDER]}
results=${2:-$(mktemp -d)}
cd "$(dirname "$0")/.."
cargo build --quiet --release -p vedette-agent
while IFS= read -r file; do
    out="$results/${file#"$nab"/data/}"
    mkdir -p "$(dirname "$out")"
    target/release/vedette-agent score "$file" > "$out"
    [ "$(grep -c '' "$file")" = "$(grep -c '' "$out")" ] || { echo "$file: rows in and out differ" >&2; exit 1; }
done < <(find "$nab/data" -name '*.csv' | sort)
score() { python3 "$nab/score_nab.py" "$results" --windows "$nab/labels/combined_windows.json" --data "$nab/data" "$@"; }
echo "best threshold:" && score
echo "threshold 0.5:" && score --threshold 0.5
