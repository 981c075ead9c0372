#!/usr/bin/env bash
# Replays public series in which real events are: what was held back, what paged, and why, against forecasts alone.
#
#   tests/real_events.sh DATA_FOLDER [WORK_FOLDER]
#
# DATA_FOLDER holds eia/ (hourly electricity demand of authorities, and their map to regions: hurricanes Matthew, Irma and
# Florence hit whole regions, faults of the data hit one authority) and events/ (road traffic and bike hire with holidays).
# Each authority is a stack of its own in its region. Forecast-only alarming is `vedette-agent score` over the same values:
# rows at 0.5 and more, those within six hours of the one before left out. WORK_FOLDER keeps what was made.
# Needs python3 with time zone data; takes some minutes.
set -euo pipefail
data=$(realpath "${1:?usage: tests/real_events.sh DATA_FOLDER [WORK_FOLDER]}")
work=${2:-$(mktemp -d)}
mkdir -p "$work"
work=$(realpath "$work")
cd "$(dirname "$0")/.."
profile=${PROFILE:-release}
cargo build --quiet --profile "$profile" -p vedette-agent -p vedette-aggregator
folder=$([ "$profile" = dev ] && echo debug || echo "$profile")
"${PYTHON:-python3}" tests/real_events.py "$data" "$work" "${CARGO_TARGET_DIR:-$PWD/target}/$folder"
