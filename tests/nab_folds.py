"""Cross-validates the constants behind the scorers on the Numenta Anomaly Benchmark, and takes each part away.

    python3 nab_folds.py AGENT NAB_FOLDER

The scorers run once over each file; what joins them and what rests after an alarm (combine.rs and rest.rs) is repeated
here for every choice of five constants, and checked against what the agent prints for its own choice. In each fold
constants and threshold are chosen on the training files alone and judged on the others: each category left out in
turn, and random halves. The constants inside the scorers stay as they are, so this says what choosing these five is
worth and not what choosing all would be.

To be started by `nab.sh --folds`. NAB_FOLDER holds data/, labels/combined_windows.json and score_nab.py.
"""

import csv
import importlib.util
import itertools
import json
import math
import multiprocessing
import pathlib
import subprocess
import sys

import numpy as np

# As in combine.rs and rest.rs: the agent's own choice, and what is tried around it.
THRESHOLD = 6.9
FIXED = {"least_s": 18_000.0, "most_s": 720_000.0, "fatigue_s": 2_592_000.0}
SHIPPED = {"forecast": 0.85, "derivative": 0.9, "share": 0.12, "over_peak": 1.2, "fatigue": 0.6}
TRIED = {
    "forecast": (0.7, 0.85, 1.0),
    "derivative": (0.75, 0.9, 1.05),
    "share": (0.06, 0.12, 0.24),
    "over_peak": (1.0, 1.2, 1.5),
    "fatigue": (0.3, 0.6, 1.0),
}
WITHOUT = {
    "distribution": {"distribution": 0.0},
    "forecast's error": {"forecast": 0.0},
    "derivative": {"derivative": 0.0},
    "fatigue": {"fatigue": 0.0},
    "rest": {"over_peak": 0.0},
    "rest and fatigue": {"over_peak": 0.0, "fatigue": 0.0},
}
CUTS = np.round(np.arange(0.30, 0.80, 0.01), 2)
SHIPPED_CUT = int(np.flatnonzero(CUTS == 0.5)[0])
STEP_S_MIN, STEP_S_MAX, LATE_S_MAX = 0.1, 86_400.0, 86_400.0
HALVES, SEED = 20, 1


def load_rules(nab):
    spec = importlib.util.spec_from_file_location("score_nab", nab / "score_nab.py")
    rules = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rules)
    return rules


def run_agent(agent, path, *options):
    done = subprocess.run([agent, "score", *options, path], check=True, capture_output=True, text=True)
    rows = list(csv.DictReader(done.stdout.splitlines()))
    return rows, {name: np.array([float(row[name]) for row in rows]) for name in rows[0] if name.endswith("_score")}


def nats(score):
    return THRESHOLD * (score / (1.0 - np.minimum(score, 1.0 - 1e-7))) ** 0.25


def steps(stamps):
    """Seconds between observations as cadence.rs counts them."""
    last, out = 0.0, []
    for now in stamps:
        passed = now - last
        if not -LATE_S_MAX <= passed < 0.0:
            last = now
        out.append(min(max(passed, STEP_S_MIN), STEP_S_MAX))
    return out


def kept(passed_s, half_life_s):
    u = math.log(2.0) * passed_s / max(half_life_s, 0.001)
    return 1.0 / (1.0 + u + 0.5 * u * u)


def rest(surprisals, passed, choice):
    """The anomaly scores of one file, as rest.rs admits them."""
    age, peak, alarms, out = -1.0, 0.0, 0.0, []
    over, fatigue, share = choice["over_peak"], choice["fatigue"], choice["share"]
    for surprisal, step in zip(surprisals, passed):
        age = age + step if age >= 0.0 else 0.0
        peak *= kept(step, max(min(share * age, FIXED["most_s"]), FIXED["least_s"]))
        alarms *= kept(step, FIXED["fatigue_s"])
        if surprisal <= over * peak:
            out.append(0.0)
            continue
        admitted = max(surprisal - fatigue * math.log(1.0 + alarms), 0.0)
        peak = max(peak, surprisal)
        alarms += surprisal > THRESHOLD
        odds = (admitted / THRESHOLD) ** 4
        out.append(odds / (1.0 + odds))
    return np.array(out)


class File:
    """One file: what the scorers said of it and what the benchmark makes of each row."""

    def __init__(self, agent, nab, rules, key, windows):
        self.key, self.category = key, key.split("/")[0]
        path = str(nab / "data" / key)
        rows, parts = run_agent(agent, path, "--no-rest")
        self.parts = {name: nats(parts[f"{name}_score"]) for name in ("distribution", "forecast", "derivative")}
        stamps = [rules.parse_ts(row["timestamp"]) for row in rows]
        self.passed = steps([stamp.timestamp() for stamp in stamps])
        spans = [(rules.parse_ts(start), rules.parse_ts(end)) for start, end in windows]
        self.window, self.value, self.live = rules.file_rows(stamps, spans)
        self.windows = len(windows)
        _, printed = run_agent(agent, path)
        off = np.abs(self.scores(SHIPPED) - printed["anomaly_score"]).max()
        if off > 0.01:
            sys.exit(f"{key}: differs from the agent by {off}: the constants above are not those of combine.rs and rest.rs")

    def scores(self, choice):
        weights = {"distribution": 1.0} | {name: choice[name] for name in choice if name in self.parts}
        most = np.maximum.reduce([weights[name] * part for name, part in self.parts.items()])
        return rest(most.tolist(), self.passed, choice)

    def raw(self, choice):
        """The benchmark's points at each cut, standard profile."""
        scores, points = self.scores(choice), np.zeros(len(CUTS))
        for i, cut in enumerate(CUTS):
            hit = (scores >= cut) & self.live
            points[i] = 0.11 * self.value[hit & (self.window < 0)].sum()
            for window in np.unique(self.window[self.live & (self.window >= 0)]):
                inside = hit & (self.window == window)
                points[i] += self.value[inside].max() if inside.any() else -1.0
        return points


def grade(points, files):
    """The normalised standard score of these files, in per cent, at each cut: `points` is [file, cut] or [choice, file, cut]."""
    windows = sum(file.windows for file in files)
    return 100.0 * (points.sum(axis=-2) + windows) / (2.0 * windows)


def folds(files):
    categories = sorted({file.category for file in files})
    for category in categories:
        yield "category", category, np.array([file.category != category for file in files])
    dice = np.random.default_rng(SEED)
    for i in range(HALVES):
        train = np.zeros(len(files), bool)
        train[dice.permutation(len(files))[: len(files) // 2]] = True
        yield "half", f"half {i + 1}", train


def judge_fold(points, files, train, shipped):
    inside, outside = ([file for file, is_train in zip(files, train) if is_train == side] for side in (True, False))
    if sum(file.windows for file in outside) == 0:
        return None
    learned = grade(points[:, train], inside)
    choice, cut = np.unravel_index(np.argmax(learned), learned.shape)
    tested = grade(points[choice][~train], outside)[cut]
    return learned[choice, cut], tested, grade(points[shipped][~train], outside)[SHIPPED_CUT], choice, CUTS[cut]


def main():
    agent, nab = sys.argv[1], pathlib.Path(sys.argv[2])
    rules = load_rules(nab)
    windows = json.loads((nab / "labels" / "combined_windows.json").read_text())
    keys = [key for key in sorted(windows) if (nab / "data" / key).exists()]
    files = [File(agent, nab, rules, key, windows[key]) for key in keys]
    choices = [dict(zip(TRIED, values)) for values in itertools.product(*TRIED.values())]
    ablated = [SHIPPED | change for change in WITHOUT.values()]
    with multiprocessing.Pool() as pool:
        jobs = pool.starmap(File.raw, [(file, choice) for choice in choices + ablated for file in files], chunksize=31)
    points = np.array(jobs).reshape(len(choices) + len(ablated), len(files), len(CUTS))
    shipped = choices.index(SHIPPED)
    whole = grade(points[shipped], files)
    print(f"{len(files)} files, {len(choices)} choices of {', '.join(TRIED)}\n")
    print(f"shipped: {whole.max():.1f} at its best threshold, {whole[SHIPPED_CUT]:.1f} at 0.5")
    for name, result in zip(WITHOUT, points[len(choices):]):
        print(f"without {name}: {grade(result, files).max():.1f} at its best threshold")
    print("\nfold, train, test, shipped constants at 0.5 on the tested files")
    told = {"category": [], "half": []}
    for kind, name, train in folds(files):
        result = judge_fold(points[: len(choices)], files, train, shipped)
        if result is not None:
            told[kind].append(result[:3])
            chosen = ", ".join(f"{key} {value}" for key, value in choices[result[3]].items())
            print(f"{name}: {result[0]:.1f} {result[1]:.1f} {result[2]:.1f} ({chosen}, threshold {result[4]})")
    for kind, results in told.items():
        print(f"mean by {kind}: train {np.mean(results, axis=0)[0]:.1f}, test {np.mean(results, axis=0)[1]:.1f}, "
              f"shipped {np.mean(results, axis=0)[2]:.1f}")


if __name__ == "__main__":
    main()
