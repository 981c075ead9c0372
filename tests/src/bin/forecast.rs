//! `forecast`: one hourly series in, the forecasts of the agent's scoring and of Holt-Winters out, row by row.
//!
//! It must never let a forecast see the value that it is for: ours are strictly online, Holt-Winters is fitted on the
//! training hours only and then goes on one step at a time. The hard case is missing hours: ours skip them,
//! Holt-Winters gets them interpolated, which favours it.

use std::error::Error;
use std::io::{self, BufRead as _, Write as _};

use vedette_agent_core::score::{Learning, Moment, SeriesState};
use vedette_common::WallMs;

const HOUR_S: i64 = 3_600;
/// The seasons of the two Holt-Winters models, in hours.
const SEASONS: [usize; 2] = [24, 168];
/// Values that the search for parameters begins with: level, trend, season, damping.
const GRID: [&[f64]; 4] = [&[0.05, 0.2, 0.6, 1.0], &[0.0, 0.1, 1.0], &[0.01, 0.1, 0.4], &[0.5, 0.9]];
/// Rounds of refinement, each with half of the step of the one before.
const ROUNDS: i32 = 6;

/// One row of the input: `at_s,local_s,value`.
struct Row {
    at_s: i64,
    local_s: i64,
    value: f64,
}

/// Reads rows from standard input; the argument is the number of training hours.
fn main() -> Result<(), Box<dyn Error>> {
    let train: usize = std::env::args().nth(1).ok_or("usage: forecast TRAINING_HOURS < rows")?.parse()?;
    let rows =
        io::stdin().lock().lines().map(|line| parse(&line?)).collect::<Result<Vec<Row>, Box<dyn Error>>>()?;
    let first = rows.first().ok_or("no rows")?.at_s / HOUR_S;
    let hourly = hourly_logs(&rows, first);
    let train = train.min(hourly.len());
    let models = SEASONS.map(|season| {
        let parameters = fit(&hourly[..train], season);
        holt_winters(&hourly, season, parameters)
    });
    let mut output = io::BufWriter::new(io::stdout().lock());
    writeln!(output, "at_s,value,expected,next,band,hw24,hw168")?;
    let mut series = SeriesState::new(0);
    for row in &rows {
        let moment = Moment { at: WallMs(row.at_s * 1_000), local_s: row.local_s };
        let score = series.update(moment, row.value, Learning::Normal);
        let hour = (row.at_s / HOUR_S - first) as usize;
        let [day, week] = [&models[0], &models[1]].map(|model| model[hour].exp());
        let (expected, next, band) = (score.expected, score.next, score.band);
        writeln!(output, "{},{},{expected},{next},{band},{day},{week}", row.at_s, row.value)?;
    }
    Ok(output.flush()?)
}

fn parse(line: &str) -> Result<Row, Box<dyn Error>> {
    let mut fields = line.split(',');
    let mut field = || fields.next().ok_or_else(|| format!("`{line}`: expected at_s,local_s,value"));
    Ok(Row { at_s: field()?.parse()?, local_s: field()?.parse()?, value: field()?.parse()? })
}

/// Logarithms of the values on a grid of hours; what is missing or not positive is interpolated.
fn hourly_logs(rows: &[Row], first: i64) -> Vec<f64> {
    let hours = rows.iter().map(|row| row.at_s / HOUR_S - first).max().map_or(0, |last| last as usize + 1);
    let mut logs = vec![f64::NAN; hours];
    for row in rows.iter().filter(|row| row.value > 0.0) {
        logs[(row.at_s / HOUR_S - first) as usize] = row.value.ln();
    }
    let seen: Vec<usize> = (0..hours).filter(|hour| !logs[*hour].is_nan()).collect();
    for pair in seen.windows(2) {
        let (from, until) = (pair[0], pair[1]);
        let slope = (logs[until] - logs[from]) / (until - from) as f64;
        for hour in from + 1..until {
            logs[hour] = logs[from] + slope * (hour - from) as f64;
        }
    }
    let (head, tail) = seen.first().zip(seen.last()).map_or((0, 0), |(head, tail)| (*head, *tail));
    let (head_log, tail_log) = (logs[head], logs[tail]);
    logs[..head].fill(head_log);
    logs[(tail + 1).min(hours)..].fill(tail_log);
    logs
}

/// One-step forecasts of additive Holt-Winters with a damped trend.
fn holt_winters(logs: &[f64], season: usize, parameters: [f64; 4]) -> Vec<f64> {
    let [alpha, beta, gamma, damping] = parameters;
    let begin = season.min(logs.len());
    let mut level = logs[..begin].iter().sum::<f64>() / begin.max(1) as f64;
    let mut seasonal: Vec<f64> = logs[..begin].iter().map(|log| log - level).collect();
    let (mut trend, mut forecasts) = (0.0, logs[..begin].to_vec());
    for (hour, log) in logs.iter().enumerate().skip(begin) {
        let base = level + damping * trend;
        let forecast = base + seasonal[hour % season];
        let error = log - forecast;
        level = base + alpha * error;
        trend = damping * trend + beta * error;
        seasonal[hour % season] += gamma * error;
        forecasts.push(forecast);
    }
    forecasts
}

/// The parameters with the least mean absolute error: the best of a grid, refined coordinate by coordinate.
fn fit(logs: &[f64], season: usize) -> [f64; 4] {
    let cost = |parameters: [f64; 4]| -> f64 {
        let forecasts = holt_winters(logs, season, parameters);
        let errors =
            logs.iter().zip(&forecasts).skip(2 * season).map(|(log, forecast)| (log - forecast).abs());
        let sum: f64 = errors.sum();
        if sum.is_finite() { sum } else { f64::MAX }
    };
    let mut best = ([0.1, 0.0, 0.1, 0.9], f64::MAX);
    let try_out = |parameters: [f64; 4], best: &mut ([f64; 4], f64)| {
        let cost = cost(parameters);
        if cost < best.1 {
            *best = (parameters, cost);
        }
    };
    for (alpha, beta) in GRID[0].iter().flat_map(|a| GRID[1].iter().map(move |b| (*a, *b))) {
        for (gamma, damping) in GRID[2].iter().flat_map(|c| GRID[3].iter().map(move |d| (*c, *d))) {
            try_out([alpha, beta, gamma, damping], &mut best);
        }
    }
    for round in 0..ROUNDS {
        for (parameter, side) in (0..4).flat_map(|p| [(p, -1.0), (p, 1.0)]) {
            let mut parameters = best.0;
            parameters[parameter] =
                (parameters[parameter] + side * 0.2 * 0.5_f64.powi(round)).clamp(0.0, 1.0);
            try_out(parameters, &mut best);
        }
    }
    best.0
}
