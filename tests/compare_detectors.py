"""Compares the agent's scores with other online detectors on labelled series, and with themselves less each part.

    python3 compare_detectors.py AGENT FOLDER [--without NAME...]

AGENT is the vedette-agent program; FOLDER holds CSV files, at any depth, with the columns TimeStamp, Value and Label.
Every detector sees each series once, in order, from its first value; nobody is told a range, a length or a label, and
all have one set of parameters for all series. The first 15 % of a series, at most 750 rows, count for nothing.

What is measured, with one threshold for all series:

PR area     average precision over all rows of all series (precision at each threshold, weighted by the recall gained).
PR area each  the same for each series with labels alone, averaged: what a threshold for each series would be worth.
F1          of segments: a labelled segment is found when a row among its first 7 is flagged, else missed; a run of flagged
            rows that touches no segment is one false alarm. The best threshold for each detector.
F1 at 0.5   the same at the agent's shipped threshold.

To be started by compare_detectors.sh, which installs what this needs (numpy, river, krcf).
"""

import argparse
import csv
import multiprocessing
import pathlib
import subprocess
import sys
import time

import numpy as np

DELAY_ROWS = 7
PROBATION_SHARE, PROBATION_ROWS_MAX = 0.15, 750
# As in agent/core/src/score/combine.rs and standing.rs.
THRESHOLD = 6.9
WEIGHTS = {"distribution": 1.0, "forecast": 0.85, "derivative": 0.9}
NOVELTY_SHARE, DISTANCE_SHARE, DISTANCE_ROWS_MIN = 0.42, 0.7, 10


def read(path):
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    values = np.array([float(row["Value"] or "nan") for row in rows])
    return rows, values, np.array([int(float(row["Label"])) for row in rows])


def agent_scores(agent, path, *options):
    command = [agent, "score", "--timestamp", "TimeStamp", "--value", "Value", *options, path]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    rows = list(csv.DictReader(done.stdout.splitlines()))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0] if name.endswith("_score")}


def nats(score):
    return THRESHOLD * (score / (1.0 - np.minimum(score, 1.0 - 1e-7))) ** 0.25


def distances(values):
    """Standard deviations between each value and the mean of all before it."""
    out, count, mean, squares = np.zeros(len(values)), 0, 0.0, 0.0
    for i, value in enumerate(values):
        if np.isfinite(value):
            if count >= DISTANCE_ROWS_MIN and squares > 0.0:
                out[i] = abs(value - mean) / np.sqrt(squares / count)
            count += 1
            off = value - mean
            mean += off / count
            squares += off * (value - mean)
    return out


def vedette(agent, path):
    """The agent as it is, and from its parts: without each, and each alone."""
    columns = agent_scores(agent, path, "--no-rest")
    parts = {name: weight * nats(columns[f"{name}_score"]) for name, weight in WEIGHTS.items()}
    novelty = NOVELTY_SHARE * np.maximum.reduce(list(parts.values()))
    distance = DISTANCE_SHARE * distances(read(path)[1])
    whole = nats(columns["anomaly_score"])
    # Rows before the scorers are ready, and those beyond what a score can hold, say nothing of the parts.
    told = (whole > 0.0) & (columns["anomaly_score"] < 0.999)
    error = np.where(told, whole - novelty - distance, 0.0)
    if error.min() < -0.05:
        sys.exit("the parts do not add up to the agent's score: the constants above differ from combine.rs and standing.rs")
    out = {"vedette": columns["anomaly_score"], "vedette without novelty": error + distance}
    out |= {"vedette without error": novelty + distance, "vedette without distance": novelty + error}
    for name, part in parts.items():
        others = [other for other_name, other in parts.items() if other_name != name]
        out[f"vedette without {name}"] = NOVELTY_SHARE * np.maximum.reduce(others) + error + distance
        out[f"vedette, {name} alone"] = part
    out["vedette with rest (as `score` prints)"] = agent_scores(agent, path)["anomaly_score"]
    return out


def online(values, detector, features):
    """Scores of a river detector, each row before it is learned."""
    scores = np.zeros(len(values))
    for i, value in enumerate(values):
        if np.isfinite(value):
            x = features(value)
            scores[i] = detector.score_one(x)
            detector.learn_one(x)
    return scores


def supervised(values, detector):
    """The same for river's detectors of one target."""
    scores = np.zeros(len(values))
    for i, value in enumerate(values):
        if np.isfinite(value):
            scores[i] = detector.score_one({}, value)
            detector.learn_one({}, value)
    return scores


def half_space_trees(values):
    from river import anomaly, compose, preprocessing
    trees = anomaly.HalfSpaceTrees(n_trees=25, height=8, window_size=250, seed=1)
    return online(values, compose.Pipeline(preprocessing.MinMaxScaler(), trees), lambda value: {"x": value})


def one_class_svm(values):
    from river import anomaly, compose, preprocessing
    svm = anomaly.OneClassSVM(nu=0.02)
    return online(values, compose.Pipeline(preprocessing.StandardScaler(), svm), lambda value: {"x": value})


def gaussian_scorer(values):
    from river import anomaly
    return supervised(values, anomaly.GaussianScorer(window_size=None, grace_period=40))


def standard_absolute_deviation(values):
    from river import anomaly, stats
    return np.abs(supervised(values, anomaly.StandardAbsoluteDeviation(sub_stat=stats.Mean())))


def holt_winters(values):
    from river import anomaly, time_series
    model = time_series.HoltWinters(alpha=0.3, beta=0.01)
    scores = np.zeros(len(values))
    detector = anomaly.PredictiveAnomalyDetection(model, horizon=1, n_std=3.0, warmup_period=40)
    for i, value in enumerate(values):
        if np.isfinite(value):
            # The model cannot forecast before it has seen a level and a trend.
            scores[i] = detector.score_one(None, value) if i > 10 else 0.0
            detector.learn_one(None, value)
    return scores


def random_cut_forest(values):
    import krcf
    forest = krcf.RandomCutForest({"dimensions": 1, "shingle_size": 4, "random_seed": 1})
    scores = np.zeros(len(values))
    for i, value in enumerate(values):
        if np.isfinite(value):
            scores[i] = forest.score([value])
            forest.update([value])
    return scores


OTHERS = {
    "river HalfSpaceTrees": half_space_trees,
    "river OneClassSVM": one_class_svm,
    "river GaussianScorer": gaussian_scorer,
    "river StandardAbsoluteDeviation": standard_absolute_deviation,
    "river PredictiveAnomalyDetection (Holt)": holt_winters,
    "krcf random cut forest": random_cut_forest,
}


def run(job):
    name, agent, path = job
    began = time.monotonic()
    found = vedette(agent, path) if name == "vedette" else {name: OTHERS[name](read(path)[1])}
    clean = {key: np.nan_to_num(scores, nan=0.0, posinf=1e300, neginf=0.0) for key, scores in found.items()}
    return path, clean, time.monotonic() - began


def average_precision(scores, labels):
    if labels.sum() == 0:
        return None
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(labels[order])
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    recall, precision = hits[last] / labels.sum(), hits[last] / (last + 1)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def segments(labels):
    edges = np.flatnonzero(np.diff(np.concatenate([[0], labels, [0]])))
    return list(zip(edges[::2], edges[1::2]))


def f1(series, threshold):
    found = missed = false = 0
    for scores, labels in series:
        flagged = (scores >= threshold).astype(int)
        for start, end in segments(labels):
            hit = flagged[start:min(end, start + DELAY_ROWS)].any()
            found, missed = found + int(hit), missed + int(not hit)
        false += sum(1 for start, end in segments(flagged) if not labels[start:end].any())
    return 2.0 * found / max(1, 2 * found + missed + false), found, missed, false


def best_f1(series):
    pooled = np.concatenate([scores for scores, _ in series])
    candidates = np.unique(np.quantile(pooled, 1.0 - np.geomspace(2e-5, 0.2, 150)))
    return max(((*f1(series, threshold), threshold) for threshold in candidates if threshold > 0), default=(0, 0, 0, 0, 0))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agent")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--without", nargs="*", default=[], help="detectors to leave out, by name")
    arguments = parser.parse_args()
    paths = [str(path) for path in sorted(arguments.folder.rglob("*.csv"))]
    if not paths:
        sys.exit(f"{arguments.folder}: no CSV files")
    names = [name for name in ["vedette", *OTHERS] if name not in arguments.without]
    labels, watched = {}, {}
    for path in paths:
        labels[path] = read(path)[2]
        rows = len(labels[path])
        watched[path] = slice(int(min(PROBATION_SHARE * rows, PROBATION_ROWS_MAX)), rows)
    results, seconds = {}, dict.fromkeys(names, 0.0)
    jobs = [(name, arguments.agent, path) for name in reversed(names) for path in paths]
    with multiprocessing.Pool() as pool:
        for job, (path, found, took) in zip(jobs, pool.imap(run, jobs)):
            seconds[job[0]] += took
            for key, scores in found.items():
                results.setdefault(key, []).append((scores[watched[path]], labels[path][watched[path]]))
    rows = sum(len(truth) for truth in labels.values())
    print(f"{len(paths)} series, {rows} rows, {sum(len(segments(truth[watched[path]])) for path, truth in labels.items())} segments\n")
    print(f"{'':42} {'PR area':>8} {'each':>6} {'F1':>6} {'found':>6} {'missed':>6} {'false':>6} {'F1 at 0.5':>10} {'us/row':>7}")
    for name in sorted(results, key=lambda name: (not name.startswith("vedette"), name)):
        series = results[name]
        pooled = average_precision(*(np.concatenate(part) for part in zip(*series)))
        each = [area for area in (average_precision(*one) for one in series) if area is not None]
        best, found, missed, false, _ = best_f1(series)
        shipped = f"{f1(series, 0.5)[0]:.3f}" if name in ("vedette", "vedette with rest (as `score` prints)") else ""
        cost = f"{1e6 * seconds[name] / rows:.0f}" if name in OTHERS else ""
        print(f"{name:42} {pooled:8.3f} {np.mean(each):6.3f} {best:6.3f} {found:6} {missed:6} {false:6} {shipped:>10} {cost:>7}")


if __name__ == "__main__":
    main()
