#!/usr/bin/env bash
# Scores the Numenta Anomaly Benchmark with `vedette-agent score`: strictly online, one parameter set.
#
#   tests/nab.sh NAB_FOLDER [RESULTS_FOLDER]
#   tests/nab.sh --folds NAB_FOLDER
#
# NAB_FOLDER holds data/, labels/combined_windows.json and score_nab.py. Prints the three normalised scores at the best
# threshold and at the shipped one, 0.5. Fails when a file does not give one row for each row. Needs python3; without numpy
# also its venv, and numpy is then installed below target/tools. --folds takes each part away and cross-validates constants
# instead (nab_folds.py; some minutes).
set -euo pipefail
folds=
[ "${1:-}" != --folds ] || { folds=yes; shift; }
nab=$(realpath "${1:?usage: tests/nab.sh [--folds] NAB_FOLDER [RESULTS_FOLDER]}")
results=$(realpath -m "${2:-$(mktemp -d)}")
cd "$(dirname "$0")/.."
cargo build --quiet --release -p vedette-agent
python=python3
if ! python3 -c 'import numpy' 2>/dev/null; then
    python=target/tools/nab/bin/python
    "$python" -c 'import numpy' 2>/dev/null || { python3 -m venv target/tools/nab && target/tools/nab/bin/pip install --quiet numpy; }
fi
[ -z "$folds" ] || exec "$python" tests/nab_folds.py target/release/vedette-agent "$nab"
while IFS= read -r file; do
    out="$results/${file#"$nab"/data/}"
    mkdir -p "$(dirname "$out")"
    target/release/vedette-agent score "$file" > "$out"
    [ "$(grep -c '' "$file")" = "$(grep -c '' "$out")" ] || { echo "$file: rows in and out differ" >&2; exit 1; }
done < <(find "$nab/data" -name '*.csv' | sort)
score() { "$python" "$nab/score_nab.py" "$results" --windows "$nab/labels/combined_windows.json" --data "$nab/data" "$@"; }
echo "best threshold:" && score
echo "threshold 0.5:" && score --threshold 0.5
