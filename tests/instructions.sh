#!/usr/bin/env bash
# Counts the instructions of an observation on its way from received bytes to a summary, stage by stage, and fails when they
# are more than they were allowed. Counted is the profile that packages are built in, edge.
#
#   tests/instructions.sh
#
# VEDETTE_INSTRUCTIONS_MAX  of intake, score and around together (default below; another compiler may give others)
#
# Unlike times, counts hardly change with the machine's load. Needs valgrind (Debian: valgrind). Intake is parsing and
# look-up; around is what the pipeline takes beyond intake and scoring, ranges of young series that widen included.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v valgrind >/dev/null || { echo "valgrind is missing: apt-get install valgrind" >&2; exit 1; }
# With the names of functions, which what is installed has no need of.
cargo build --locked --quiet --profile edge --config 'profile.edge.strip="none"' -p vedette-tests --no-default-features --bin stages
profile=$(mktemp)
trap 'rm -f "$profile"' EXIT
target=${CARGO_TARGET_DIR:-target}
observations=$(valgrind --quiet --tool=callgrind --callgrind-out-file="$profile" "$target/edge/stages")
callgrind_annotate --inclusive=yes --threshold=100 "$profile" |
  awk -v n="$observations" -v whole_max="${VEDETTE_INSTRUCTIONS_MAX:-1850}" '
    match($0, /stages::stage_[a-z]+/) {
        stage = substr($0, RSTART + 14, RLENGTH - 14)
        count = $1; gsub(",", "", count); count += 0
        if (count > most[stage]) most[stage] = count
    }
    END {
        row = "%-10s %8.0f\n"
        printf row, "intake", most["intake"] / n
        printf row, "score", most["score"] / n
        printf row, "around", (most["pipeline"] - most["intake"] - most["score"]) / n
        printf row, "window", most["window"] / n
        whole = most["pipeline"] / n
        printf "%-10s %8.0f of at most %d\n", "whole", whole, whole_max
        # Nothing counted is a mistake of this script.
        exit !(most["intake"] > 0 && most["score"] > 0 && whole > 0 && whole <= whole_max)
    }'
