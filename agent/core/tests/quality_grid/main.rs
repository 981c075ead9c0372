//! The quality grid: every kind of fault against every kind of noise at every interval, through the scorers of the
//! agent, compared with a table that is part of the source.
//!
//! It must never be a matter of luck or machine: everything follows from a seed, and a number that changes is either
//! explained in the commit that changes it, or a mistake. Its hard case is itself: a table tuned to one seed, so
//! that `VEDETTE_GRID_SEED=7` prints the same table for another one, to be looked at and not compared.
//!
//! A changed table is accepted with `VEDETTE_GRID=accept cargo test -p vedette-agent-core --test quality_grid`.

mod age;
mod family;
mod random;
mod silence;
mod trial;

use std::fmt::Write as _;

use age::AGES_S;
use family::{Family, Noise};
use silence::Beat;
use trial::{Caught, Cell, measure};

const SEED: u64 = 1;
const STEPS_S: [i64; 4] = [10, 60, 300, 3_600];
const TABLE: &str = include_str!("table.txt");
const TABLE_PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/quality_grid/table.txt");

/// Seconds as people say them; at most seven characters.
fn span(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        _ => format!("{:.1} h", seconds as f64 / 3_600.0),
    }
}

fn middle(spans_s: &[i64]) -> String {
    let mut sorted = spans_s.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).map_or_else(|| "-".into(), |&middle| span(middle))
}

fn write_quiet(out: &mut String, cells: &[(Noise, i64, Cell)]) {
    let _ = writeln!(
        out,
        "Quiet weeks: what was raised without a fault; onsets by value, by spread, by flat line.\n"
    );
    let _ = write!(out, "{:14}{:>8}{:>12}{:>8}{:>8}", "noise", "every", "onsets/wk", "spread", "flat");
    let _ = writeln!(out, "{:>12}{:>14}", "alarms/wk", "deviating %");
    for (noise, step_s, cell) in cells {
        let quiet = cell.quiet;
        let a_week = |count: u32| f64::from(count) / quiet.weeks;
        let [value, spread, flat] = quiet.onsets.map(a_week);
        let alarms = a_week(quiet.alarms);
        let deviating = 100.0 * f64::from(quiet.deviating) / f64::from(quiet.observations);
        let name = noise.name();
        let _ = write!(out, "{name:14}{:>8}{value:12.1}{spread:8.1}{flat:8.1}", span(*step_s));
        let _ = writeln!(out, "{alarms:12.1}{deviating:14.2}");
    }
}

fn write_caught(out: &mut String, place: usize, family: Family, cells: &[(Noise, i64, Cell)]) {
    let _ = writeln!(
        out,
        "\n{}: share that began a deviation, median delay, median time to its end\n",
        family.name()
    );
    let _ = write!(out, "{:14}", "noise");
    for step_s in STEPS_S {
        let _ = write!(out, "{:>26}", format!("every {}", span(step_s)));
    }
    for noise in Noise::ALL {
        let _ = write!(out, "\n{:14}", noise.name());
        for (_, _, cell) in cells.iter().filter(|(of, _, _)| *of == noise) {
            let Caught { trials, delays_s, tails_s } = &cell.caught[place];
            let share = 100 * delays_s.len() / (*trials).max(1) as usize;
            let _ = write!(out, "{share:>6} %{:>9}{:>9}", middle(delays_s), middle(tails_s));
        }
    }
    out.push('\n');
}

fn write_silences(out: &mut String, seed: u64) {
    let _ = writeln!(
        out,
        "\nMissing data: share of stops told as silence, median delay, mistaken silences a week\n"
    );
    let _ = write!(out, "{:14}", "comes");
    for step_s in STEPS_S {
        let _ = write!(out, "{:>26}", format!("every {}", span(step_s)));
    }
    for beat in Beat::ALL {
        let _ = write!(out, "\n{:14}", beat.name());
        for step_s in STEPS_S {
            let found = silence::measure(seed, beat, step_s);
            let share = 100 * found.delays_s.len() / found.trials.max(1) as usize;
            let mistaken = f64::from(found.mistaken) / found.weeks;
            let _ = write!(out, "{share:>6} %{:>9}{mistaken:>9.1}", middle(&found.delays_s));
        }
    }
    out.push('\n');
}

/// The intervals at which the cold start is measured.
const BORN_STEPS_S: [i64; 2] = [60, 300];

fn write_ages(out: &mut String, seed: u64) {
    let each = BORN_STEPS_S.into_iter().flat_map(|step_s| [(step_s, false), (step_s, true)]);
    for (step_s, in_cohort) in each {
        let ages = age::measure(seed, Noise::Medium, step_s, in_cohort);
        let (whose, every) = (if in_cohort { "with a cohort" } else { "alone" }, span(step_s));
        let _ = writeln!(
            out,
            "\nCold start {whose}, every {every}, noise 10 %: share that began a deviation, by age\n"
        );
        let _ = write!(out, "{:24}", "");
        AGES_S.iter().for_each(|age_s| _ = write!(out, "{:>9}", span(*age_s)));
        for (place, family) in Family::ALL.into_iter().enumerate() {
            let _ = write!(out, "\n{:24}", family.name());
            for age in &ages {
                let caught = &age.caught[place];
                let share = 100 * caught.delays_s.len() / caught.trials.max(1) as usize;
                let _ = write!(out, "{share:>7} %");
            }
        }
        let _ = write!(out, "\n{:24}", "false onsets till then");
        ages.iter().for_each(|age| _ = write!(out, "{:>9.2}", age.onsets_a_series()));
        out.push('\n');
    }
}

fn table(seed: u64) -> String {
    let cells: Vec<(Noise, i64, Cell)> = Noise::ALL
        .into_iter()
        .flat_map(|noise| STEPS_S.map(|step_s| (noise, step_s, measure(seed, noise, step_s))))
        .collect();
    let mut out = String::new();
    write_quiet(&mut out, &cells);
    for (place, family) in Family::ALL.into_iter().enumerate() {
        write_caught(&mut out, place, family, &cells);
    }
    write_silences(&mut out, seed);
    write_ages(&mut out, seed);
    out
}

#[test]
fn the_grid_is_as_its_table_says() {
    if let Some(seed) = std::env::var("VEDETTE_GRID_SEED").ok().and_then(|text| text.parse().ok()) {
        println!("Seed {seed}, not compared.\n\n{}", table(seed));
        return;
    }
    let found = table(SEED);
    if std::env::var("VEDETTE_GRID").is_ok_and(|how| how == "accept") {
        std::fs::write(TABLE_PATH, &found).expect("the table can be written");
        return;
    }
    let changed = found.lines().zip(TABLE.lines()).filter(|(new, old)| new != old);
    let changed: Vec<String> = changed.map(|(new, old)| format!("- {old}\n+ {new}")).collect();
    assert!(
        found == TABLE,
        "{found}\nThe grid has changed, above and in these lines:\n{}\nIf it is meant to, say why in the commit, and \
         run VEDETTE_GRID=accept cargo test -p vedette-agent-core --test quality_grid",
        changed.join("\n")
    );
}
