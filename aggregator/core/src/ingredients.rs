//! The ingredients of the judgement, each with a switch, so that what it is worth can be measured.
//!
//! It must never be reachable from a config: people run all of them. The hard case is an ingredient that another one
//! leans on; switched off, it is replaced by what was known without it.

use serde::{Deserialize, Serialize};

/// Which ingredients take part; all of them unless something is being measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ingredients {
    /// What independent stacks share is taken off; without it every cell is judged against its forecast.
    pub common_mode: bool,
    /// Stacks that depend on the same thing count once: declared ones and those learned from history.
    pub dependencies: bool,
    /// How unevenly events act is learned; without it, every cell is taken to feel them alike.
    pub effects: bool,
    /// The calendar says which class of events is on.
    pub calendar: bool,
    /// Errors are counter-evidence.
    pub errors: bool,
    /// Latency is evidence.
    pub latency: bool,
    /// A trend that breaks is told from a lasting fault by the derivative's score against the forecast's.
    pub derivative: bool,
    /// Stacks that move at the same time are moved from outside, even where they move in different directions.
    pub synchrony: bool,
    /// Findings of like shape are one trouble.
    pub shapes: bool,
    /// Scopes reach across regions.
    pub neighbours: bool,
    /// Counts are weighed as such where they are small.
    pub counting: bool,
    /// What falls alike everywhere in a region is a failure of what its stacks share, where errors are not measured.
    pub evenness: bool,
    /// A scope that keeps straying from its peers by itself has to show more.
    pub tails: bool,
}

impl Default for Ingredients {
    fn default() -> Self {
        Self {
            common_mode: true,
            dependencies: true,
            effects: true,
            calendar: true,
            errors: true,
            latency: true,
            derivative: true,
            synchrony: true,
            shapes: true,
            neighbours: true,
            counting: true,
            evenness: true,
            tails: true,
        }
    }
}

impl Ingredients {
    /// Every ingredient by name, with a set that lacks it alone.
    pub fn ablations() -> [(&'static str, Self); 13] {
        let all = Self::default();
        [
            ("common_mode", Self { common_mode: false, ..all }),
            ("dependencies", Self { dependencies: false, ..all }),
            ("effects", Self { effects: false, ..all }),
            ("calendar", Self { calendar: false, ..all }),
            ("errors", Self { errors: false, ..all }),
            ("latency", Self { latency: false, ..all }),
            ("derivative", Self { derivative: false, ..all }),
            ("synchrony", Self { synchrony: false, ..all }),
            ("shapes", Self { shapes: false, ..all }),
            ("neighbours", Self { neighbours: false, ..all }),
            ("counting", Self { counting: false, ..all }),
            ("evenness", Self { evenness: false, ..all }),
            ("tails", Self { tails: false, ..all }),
        ]
    }
}
