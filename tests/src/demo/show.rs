//! The demo as people see it: feeds the agents in real time, tells what happens and what the aggregator says of it.
//!
//! Must never know better than the aggregator's own alarms. The hard case is pace: an interval that was late must not be
//! made up for by several at once, for the agents' windows follow the clock.

use super::{Play, Processes};
use crate::fleet::{Kind, Occurrence, Telemetry, grade, telemetry};
use anyhow::{Context, Result, anyhow};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::Value;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What came of the demo; its last line as JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Faults that were played.
    pub incidents_injected: usize,
    /// Of them, those for which people were paged.
    pub incidents_paged: usize,
    /// Events that were played.
    pub events_injected: usize,
    /// Of them, those that paged somebody; none should.
    pub events_paged: usize,
    /// How long it all took.
    pub seconds: f64,
}

impl Outcome {
    /// Every fault paged and no event did.
    pub fn is_right(&self) -> bool {
        self.incidents_paged == self.incidents_injected && self.events_paged == 0
    }
}

/// Plays until the end or until `stopping`, and grades what the aggregator wrote.
///
/// # Errors
/// An agent that takes no more lines, alarms that cannot be read, standard output that is gone.
pub fn show(
    play: &Play,
    processes: &mut Processes,
    began_at: Instant,
    stopping: &AtomicBool,
) -> Result<Outcome> {
    let began = next_window(play);
    let mut told = Told::default();
    for interval in Telemetry::new(&play.fleet) {
        let at = play.real_time(began, interval.from_s) + TimeDelta::milliseconds(play.interval_ms / 2);
        wait_until(at);
        if stopping.load(Ordering::Relaxed) {
            break;
        }
        feed(play, processes, &interval.samples, at)?;
        tell_occurrences(play, interval.from_s, began)?;
        told.tell_alarms(&processes.printed(), began)?;
    }
    sleep(Duration::from_secs(2));
    let printed = processes.printed();
    told.tell_alarms(&printed, began)?;
    let alarms = grade::parse_alarms(&alarm_lines(&printed).collect::<Vec<_>>().join("\n"))
        .map_err(|error| anyhow!(error))?;
    let grade = grade::grade(&play.truth(began), &alarms);
    for mistake in &grade.mistakes {
        say(&format!("        not as it should be: {mistake}"))?;
    }
    Ok(Outcome {
        incidents_injected: grade.malfunctions,
        incidents_paged: grade.malfunctions_paged,
        events_injected: grade.events,
        events_paged: grade.events_paged,
        seconds: (began_at.elapsed().as_secs_f64() * 10.0).round() / 10.0,
    })
}

/// The beginning of the next window of the agents, which are aligned to the epoch.
fn next_window(play: &Play) -> DateTime<Utc> {
    let now_ms = Utc::now().timestamp_millis();
    let next_ms = (now_ms / play.interval_ms + 2) * play.interval_ms;
    DateTime::from_timestamp_millis(next_ms).unwrap_or_else(Utc::now)
}

fn wait_until(at: DateTime<Utc>) {
    if let Ok(left) = (at - Utc::now()).to_std() {
        sleep(left);
    }
}

fn feed(
    play: &Play,
    processes: &mut Processes,
    samples: &[crate::fleet::Sample],
    at: DateTime<Utc>,
) -> Result<()> {
    for (region, feed) in processes.feeds.iter_mut().enumerate() {
        let mut lines = String::new();
        for sample in samples.iter().filter(|sample| sample.cell.region == region) {
            telemetry::write_lines(
                &mut lines,
                &play.fleet,
                sample,
                at.timestamp_nanos_opt().unwrap_or_default(),
            );
        }
        feed.write_all(lines.as_bytes()).context("an agent takes no more lines")?;
    }
    Ok(())
}

fn tell_occurrences(play: &Play, from_s: i64, began: DateTime<Utc>) -> Result<()> {
    for occurrence in &play.fleet.plan.occurrences {
        if occurrence.from_s == from_s {
            say(&format!("{} begins   {}", clock(began), described(play, occurrence)))?;
        } else if occurrence.until_s == from_s {
            say(&format!("{} is over  {}", clock(began), described(play, occurrence)))?;
        }
    }
    Ok(())
}

fn described(play: &Play, occurrence: &Occurrence) -> String {
    let scope = occurrence.scope.named(&play.fleet.world);
    let places = [scope.stack, scope.device, scope.region].concat().join(", ");
    let sort = if occurrence.kind == Kind::Malfunction { "MALFUNCTION" } else { "event" };
    format!("{sort} {} ({places})", occurrence.cause.replace('_', " "))
}

/// How many of the aggregator's lines were told.
#[derive(Default)]
struct Told(usize);

impl Told {
    fn tell_alarms(&mut self, printed: &str, began: DateTime<Utc>) -> Result<()> {
        // A last line without its end is still being written.
        let whole = &printed[..printed.rfind('\n').map_or(0, |end| end + 1)];
        let lines: Vec<&str> = alarm_lines(whole).collect();
        for line in lines.iter().skip(self.0) {
            let alarm: Value = serde_json::from_str(line)?;
            let text = |key: &str| alarm[key].as_str().unwrap_or_default();
            let state = match text("state") {
                "open" => "PAGE    ",
                "suppressed" => "held    ",
                _ => "resolved",
            };
            say(&format!("{}   -> {state} {}: {}", clock(began), text("verdict"), text("summary")))?;
        }
        self.0 = lines.len();
        Ok(())
    }
}

/// The lines that are alarms; all others are the log.
fn alarm_lines(printed: &str) -> impl Iterator<Item = &str> {
    printed.lines().filter(|line| line.starts_with("{\"id\""))
}

/// Seconds since the play began.
fn clock(began: DateTime<Utc>) -> String {
    format!("{:>5.1} s", (Utc::now() - began).num_milliseconds() as f64 / 1_000.0)
}

fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}
