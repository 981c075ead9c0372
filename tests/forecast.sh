#!/usr/bin/env bash
# Measures the forecasts on public hourly series: one step ahead, strictly online, against Holt-Winters fitted on the
# hours before; errors are of logarithms, medians are over series.
#
#   tests/forecast.sh DATA_FOLDER [TRAINING_HOURS]
#
# DATA_FOLDER holds eia/ (hourly demand of authorities, and their map with time zones) and events/ (hourly counts).
# Prints, for the series in even and in odd places, mean absolute and root mean square errors after the training hours
# (default 8760) of: `next` and `expected` of a score, Holt-Winters with seasons of 24 and 168 hours whose parameters
# are searched for, and that of statsforecast where Python has it; and the share of values inside the band.
# Needs python3 with numpy and time zone data.
set -euo pipefail
data=$(realpath "${1:?usage: tests/forecast.sh DATA_FOLDER [TRAINING_HOURS]}")
train=${2:-8760}
cd "$(dirname "$0")/.."
cargo build --quiet --release -p vedette-tests --no-default-features --bin forecast
"${PYTHON:-python3}" - "$data" "$train" "${CARGO_TARGET_DIR:-$PWD/target}/release/forecast" <<'PYTHON'
import csv, gzip, subprocess, sys, warnings
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np

try:
    from statsforecast.ets import ets_f, forward_ets
except ImportError:
    ets_f = None
warnings.filterwarnings("ignore")
data, train, program = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
ZONES = {"Central": "America/Chicago", "Eastern": "America/New_York", "Pacific": "America/Los_Angeles",
         "Mountain": "America/Denver", "Arizona": "America/Phoenix"}


@lru_cache(maxsize=None)
def offset_s(zone, hour):
    return int(datetime.fromtimestamp(hour * 3600, ZoneInfo(zone)).utcoffset().total_seconds())


def unix_s(text):
    return int(datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=timezone.utc).timestamp())


def number(text):
    try:
        return float(text)
    except ValueError:
        return None


def series():
    zones = {r["ba"]: ZONES[r["tz"]] for r in csv.DictReader(open(data / "eia/ba_region_map.csv")) if r["tz"] in ZONES}
    for path in sorted((data / "eia").glob("*.csv.gz")):
        header, *rows = csv.reader(gzip.open(path, "rt"))
        times = [unix_s(row[0]) for row in rows]
        for column, name in enumerate(header[1:], 1):
            values = ((at, number(row[column])) for at, row in zip(times, rows))
            zone = zones[name]
            yield name, [(at, at + offset_s(zone, at // 3600), v) for at, v in values if v is not None]
    events = (("i94_traffic_hourly", "traffic_volume", "America/Chicago"),
              ("dc_bikeshare_uci_hourly", "users", "America/New_York"))
    for name, column, zone in events:
        path = data / f"events/{name}.csv.gz"
        if path.exists():
            local = ((unix_s(r["date_time"]), float(r[column])) for r in csv.DictReader(gzip.open(path, "rt")))
            yield name, [(at - offset_s(zone, at // 3600), at, v) for at, v in local]


def statsforecast(at, value):
    """One-step forecasts of Holt-Winters with a season of a day, fitted on the training hours, on the rows of `at`."""
    hour = at // 3600 - at[0] // 3600
    seen = value > 0
    logs = np.interp(np.arange(hour.max() + 1), hour[seen], np.log(value[seen]))
    model = ets_f(logs[:train], m=24, model="AAA")
    return np.exp(forward_ets(model, logs)["fitted"].ravel()[hour])


def errors(value, forecast):
    error = np.abs(np.log(value) - np.log(np.maximum(forecast, 1e-3 * value)))
    return error.mean(), np.sqrt((error**2).mean())


names = ["next", "expected", "hw24", "hw168"] + (["statsforecast"] if ets_f else [])
halves = ([], [])
coverage = []
for place, (name, rows) in enumerate(series()):
    text = "".join(f"{at},{local},{v}\n" for at, local, v in rows)
    out = subprocess.run([program, str(train)], input=text, capture_output=True, text=True, check=True).stdout
    at, value, expected, following, band, day, week = np.loadtxt(out.splitlines()[1:], delimiter=",", unpack=True)
    forecasts = [following, expected, day, week]
    if ets_f:
        forecasts.append(statsforecast(at.astype(int), value))
    used = (at >= at[0] + 3600 * train) & (value > 0)
    inside = (np.abs(value - following) <= band)[used]
    coverage.append((inside.mean(), used.sum()))
    halves[place % 2].append([errors(value[used], f[used]) for f in forecasts])
    row = "  ".join(f"{error:.4f} {square:.4f}" for error, square in halves[place % 2][-1])
    print(f"{name:24} {'even' if place % 2 else 'odd '} {row}  inside {coverage[-1][0]:.4f}", flush=True)
print(f"\n{'median over series':24} " + "  ".join(f"{name:>20}" for name in names))
for half, results in zip(("odd", "even"), halves):
    medians = np.median(np.array(results), axis=0)
    print(f"{half:24} " + "  ".join(f"{error:9.4f} {square:10.4f}" for error, square in medians))
shares, counts = np.array(coverage).T
print(f"inside the 90 % band: {np.average(shares, weights=counts):.4f} of all values, {np.median(shares):.4f} of the "
      f"median series, {shares.min():.4f} to {shares.max():.4f}")
PYTHON
