//! Tables of how well fleets are judged: one row a fleet, one for their mean, one for each ingredient switched off.
//!
//! Owns the arithmetic over grades and the look of a row; must never judge or grade. The hard case is a mean of ratios of
//! which some do not exist, as the precision of a fleet in which nothing paged: they are left out.

use super::grade::Grade;
use std::str::FromStr;

/// Seeds of fleets, as `1-8,31,41-48` names them, in that order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeds(pub Vec<u64>);

/// Seeds in one list.
const SEEDS_MAX: u64 = 10_000;

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut seeds = Vec::new();
        for part in text.split(',') {
            let (from, until) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| {
                text.trim().parse::<u64>().map_err(|_| format!("`{text}` is no seed; write 1-8 or 1,2,31"))
            };
            let (from, until) = (number(from)?, number(until)?);
            if until < from || until - from >= SEEDS_MAX {
                return Err(format!("`{part}` is no range of at most {SEEDS_MAX} seeds"));
            }
            seeds.extend(from..=until);
        }
        Ok(Self(seeds))
    }
}

/// The heading of a table.
pub const HEADING: &str = "| fleet | faults paged | recall | precision | F1 | false pages | events paged | extra pages | median delay, min | scope overlap |\n\
                           |---|---|---|---|---|---|---|---|---|---|";

/// The row of one fleet, or of the mean over several: counts are sums, ratios and the delay are means over fleets.
pub fn row(name: &str, grades: &[Grade]) -> String {
    let sum = |of: fn(&Grade) -> usize| grades.iter().map(of).sum::<usize>();
    let mean = |of: fn(&Grade) -> Option<f64>, digits: usize| {
        let known: Vec<f64> = grades.iter().filter_map(of).collect();
        match known.len() {
            0 => "-".to_owned(),
            count => format!("{:.digits$}", known.iter().sum::<f64>() / count as f64),
        }
    };
    let extra = sum(|grade| grade.extra_pages) as f64 / grades.len().max(1) as f64;
    let extra = if grades.len() == 1 { format!("{extra:.0}") } else { format!("{extra:.2}") };
    format!(
        "| {name} | {} of {} | {} | {} | {} | {} | {} of {} | {extra} | {} | {} |",
        sum(|grade| grade.malfunctions_paged),
        sum(|grade| grade.malfunctions),
        mean(|grade| grade.recall, 3),
        mean(|grade| grade.precision, 3),
        mean(|grade| grade.f1, 3),
        sum(|grade| grade.false_pages),
        sum(|grade| grade.events_paged),
        sum(|grade| grade.events),
        mean(|grade| grade.median_delay_minutes, 1),
        mean(|grade| grade.scope_jaccard, 2),
    )
}

/// One row for each sort of fault and each class of events, over all grades: how many paged.
pub fn sorts(grades: &[Grade]) -> Vec<String> {
    let mut rows = std::collections::BTreeMap::<String, [usize; 2]>::new();
    for grade in grades {
        let faults = grade.by_cause.iter().map(|(cause, sort)| (format!("fault: {cause}"), sort.paged));
        let events = grade.events_by_class.iter().map(|(class, paged)| (format!("event: {class}"), *paged));
        for (name, [paged, all]) in faults.chain(events) {
            let row = rows.entry(name).or_default();
            *row = [row[0] + paged, row[1] + all];
        }
    }
    rows.into_iter().map(|(name, [paged, all])| format!("| {name} | {paged} of {all} |")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Fleet, files, grade};
    use super::*;

    #[test]
    fn seeds_are_lists_of_ranges() {
        let seeds = |text: &str| text.parse::<Seeds>().map(|seeds| seeds.0);
        assert_eq!(seeds("31"), Ok(vec![31]));
        assert_eq!(seeds("1-3,7, 9-9"), Ok(vec![1, 2, 3, 7, 9]));
        for wrong in ["", "3-1", "a", "1-", "0-18446744073709551615"] {
            assert!(seeds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_mean_leaves_out_what_does_not_exist() {
        let fleet = Fleet::of_days(3, 4);
        let silent = grade::grade(&files::truth(&fleet), &[]);
        let perfect = Grade { recall: Some(1.0), precision: Some(0.5), extra_pages: 1, ..silent.clone() };
        assert_eq!(silent.recall, Some(0.0));
        assert!(row("silent", std::slice::from_ref(&silent)).contains("| 0.000 | - | - | 0 |"));
        let both = row("mean", &[silent, perfect]);
        assert!(both.contains("| 0.500 | 0.500 | - | 0 |") && both.contains("| 0.50 | - | - |"), "{both}");
    }
}
