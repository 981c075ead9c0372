//! What keeps people from being notified besides the judgement: silences, maintenance windows, that data came late, and a
//! region's target of pages.
//!
//! It must never hide a finding: what is held back is recorded with what held it. The hard case is a finding that spans
//! regions: it is held back only where every one of them is covered.
use crate::alarm::{Scope, Verdict};
use crate::evidence::{Suppressor, SuppressorKind};
use crate::incident::{Finding, Source, minutes};
use crate::instant::Instant;
use crate::schedule::{Schedule, ScheduleEntry, Silence, Span};
use crate::sensitivity::Sensitivities;
use crate::settings::Settings;

/// What may hold the findings of one window back.
pub(crate) struct Holds<'a> {
    settings: &'a Settings,
    sensitivities: &'a Sensitivities,
    /// The silences and the maintenance entries that some part of the window lies in: what a deploy does in the minutes
    /// before its window is judged is the deploy's too.
    silences: Vec<&'a Silence>,
    maintenance: Vec<&'a ScheduleEntry>,
    span: Span,
    /// How late everything in the window came, if it is history.
    late_ms: Option<i64>,
}

impl<'a> Holds<'a> {
    /// What may hold back the findings of the window `span`.
    pub(crate) fn new(
        settings: &'a Settings,
        schedule: &'a Schedule,
        silences: &'a [Silence],
        sensitivities: &'a Sensitivities,
        span: Span,
    ) -> Self {
        let classes = &settings.maintenance_classes;
        // A margin is for events, whose times others set; maintenance begins and ends as announced.
        let on =
            |entry: &&ScheduleEntry| classes.contains(&entry.class) && span.overlaps(entry.from, entry.until);
        let entries = (!classes.is_empty()).then(|| schedule.iter().filter(on));
        Self {
            settings,
            sensitivities,
            silences: silences.iter().filter(|it| span.overlaps(it.from, it.until)).collect(),
            maintenance: entries.into_iter().flatten().collect(),
            span,
            late_ms: None,
        }
    }

    /// Everything in the window came `late_ms` after its end: nobody is notified of what was.
    pub(crate) const fn is_history(&mut self, late_ms: i64) {
        self.late_ms = Some(late_ms);
    }

    /// Holds `finding` back where something covers it; the finding is recorded all the same.
    pub(crate) fn apply(&self, finding: &mut Finding) {
        if let Some(silence) = self.silences.iter().find(|it| it.covers(&finding.scope, self.span)) {
            return hold_silenced(finding, silence);
        }
        if let Some(entry) = self.maintenance(&finding.scope) {
            return hold_maintained(finding, entry);
        }
        let notifies = finding.notify || finding.notify_after.is_some();
        if let Some(late_ms) = self.late_ms.filter(|_| notifies) {
            return hold_history(finding, late_ms);
        }
        if finding.source != Source::Silent {
            self.sensitivities.apply(finding, self.settings);
        }
    }

    /// The maintenance that covers every region of `scope`: of each region the entry that ends last, of several regions
    /// the one whose entry ends first.
    fn maintenance(&self, scope: &Scope) -> Option<&'a ScheduleEntry> {
        let of = |region: Option<&str>| {
            let here = |it: &&&ScheduleEntry| it.region.is_none() || it.region.as_deref() == region;
            self.maintenance.iter().filter(here).max_by_key(|entry| entry.until).copied()
        };
        if scope.region.is_empty() {
            return of(None);
        }
        let covering = scope.region.iter().map(|region| of(Some(region))).collect::<Option<Vec<_>>>()?;
        covering.into_iter().min_by_key(|entry| entry.until)
    }
}

fn hold_silenced(finding: &mut Finding, silence: &Silence) {
    finding.hold();
    let by = if silence.author.is_empty() { String::new() } else { format!(" by {}", silence.author) };
    let evidence = &mut finding.evidence;
    evidence.reason = format!("silenced{by} ({}): {}", silence.id, silence.comment);
    evidence.counterfactual = "would have been judged by its numbers without the silence".into();
    evidence.suppressor = Some(Suppressor {
        kind: SuppressorKind::Silence,
        name: silence.comment.clone(),
        until: Some(Instant(silence.until)),
    });
}

fn hold_maintained(finding: &mut Finding, entry: &ScheduleEntry) {
    if finding.notify {
        finding.verdict = Verdict::ScheduledEvent;
    }
    finding.hold();
    let evidence = &mut finding.evidence;
    let until = Instant(entry.until);
    evidence.reason = format!("maintenance ({}) until {until}; {}", entry.describe(), evidence.reason);
    evidence.counterfactual = "would have been judged by its numbers without the maintenance".into();
    evidence.suppressor =
        Some(Suppressor { kind: SuppressorKind::Maintenance, name: entry.describe(), until: Some(until) });
}

fn hold_history(finding: &mut Finding, late_ms: i64) {
    finding.hold();
    let evidence = &mut finding.evidence;
    let late = minutes(late_ms);
    evidence.reason =
        format!("history: it came {late} late, or the clock of its agent is slow; {}", evidence.reason);
    evidence.counterfactual = "will notify if what comes in time shows it too".into();
    let name = format!("data that came {late} late");
    evidence.suppressor = Some(Suppressor { kind: SuppressorKind::History, name, until: None });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::Counts;
    use crate::evidence::{Direction, Evidence};
    use crate::incident::SinceRuled;
    use crate::{Severity, Verdict};
    use vedette_common::WallMs;

    fn finding(region: &[&str]) -> Finding {
        Finding {
            source: Source::Leftover,
            scope: Scope {
                region: region.iter().map(ToString::to_string).collect(),
                stack: vec!["browse".into()],
                ..Scope::default()
            },
            verdict: Verdict::Malfunction,
            notify: true,
            notify_after: None,
            at_once: true,
            weight: 1.0,
            severity: Severity::Critical,
            started_at: WallMs(0),
            evidence: Evidence::nothing(Direction::Drop),
            series: Vec::new(),
            since_ruled: SinceRuled::default(),
        }
    }

    fn deploy(from: i64, until: i64, region: Option<&str>) -> ScheduleEntry {
        let region = region.map(Into::into);
        let (class, title) = ("deploy".into(), String::new());
        ScheduleEntry { from: WallMs(from), until: WallMs(until), region, class, title }
    }

    /// Whether, and until when, a finding about `region` in the window `(from, until)` is held back by maintenance.
    fn held(entries: Vec<ScheduleEntry>, region: &[&str], window: (i64, i64)) -> Option<i64> {
        let settings = Settings { maintenance_classes: ["deploy".into()].into(), ..Settings::default() };
        let schedule = Schedule::new(entries, 100, &mut Counts::default());
        let (sensitivities, span) =
            (Sensitivities::default(), Span { from: WallMs(window.0), until: WallMs(window.1) });
        let mut finding = finding(region);
        Holds::new(&settings, &schedule, &[], &sensitivities, span).apply(&mut finding);
        assert_eq!(finding.notify, finding.evidence.suppressor.is_none());
        finding.evidence.suppressor.and_then(|by| by.until).map(|until| until.0.0)
    }

    #[test]
    fn a_window_is_held_back_where_a_part_of_it_lies_in_the_maintenance() {
        let entries = || vec![deploy(100, 200, Some("uk"))];
        assert_eq!(held(entries(), &["uk"], (50, 150)), Some(200), "it begins before the maintenance");
        assert_eq!(held(entries(), &["uk"], (150, 250)), Some(200));
        assert_eq!(held(entries(), &["uk"], (50, 100)), None);
        assert_eq!(held(entries(), &["uk"], (200, 300)), None);
        assert_eq!(held(entries(), &["uk"], (100, 100)), Some(200), "a moment lies in it");
        assert_eq!(held(entries(), &["uk"], (200, 200)), None);
    }

    #[test]
    fn a_finding_of_several_regions_is_held_back_only_where_all_are_covered() {
        let entries =
            || vec![deploy(0, 200, Some("uk")), deploy(0, 300, Some("fr")), deploy(0, 250, Some("uk"))];
        assert_eq!(held(entries(), &["uk", "fr"], (0, 10)), Some(250));
        assert_eq!(held(entries(), &["uk", "jp"], (0, 10)), None);
        assert_eq!(held(entries(), &[], (0, 10)), None, "all regions are more than two");
        assert_eq!(held(vec![deploy(0, 400, None)], &[], (0, 10)), Some(400));
    }

    #[test]
    fn a_silence_speaks_before_a_maintenance() {
        let settings = Settings { maintenance_classes: ["deploy".into()].into(), ..Settings::default() };
        let schedule = Schedule::new(vec![deploy(0, 100, None)], 100, &mut Counts::default());
        let silence = Silence {
            id: "7".into(),
            scope: Scope { region: vec!["uk".into()], ..Scope::default() },
            from: WallMs(5),
            until: WallMs(50),
            author: "ada".into(),
            comment: "known".into(),
        };
        let (sensitivities, span) = (Sensitivities::default(), Span { from: WallMs(0), until: WallMs(10) });
        let silences = [silence];
        let holds = Holds::new(&settings, &schedule, &silences, &sensitivities, span);
        let (mut uk, mut fr) = (finding(&["uk"]), finding(&["fr"]));
        holds.apply(&mut uk);
        holds.apply(&mut fr);
        let kind = |finding: &Finding| finding.evidence.suppressor.as_ref().map(|by| by.kind);
        assert_eq!(kind(&uk), Some(SuppressorKind::Silence));
        assert_eq!(kind(&fr), Some(SuppressorKind::Maintenance));
        assert_eq!(
            (uk.severity, uk.evidence.reason.as_str()),
            (Severity::Info, "silenced by ada (7): known")
        );
    }
}
