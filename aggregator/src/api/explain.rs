//! Why an incident did or did not notify: its states and decisions as recorded, told in order, each decided once more from
//! what was stored.
//!
//! Must never leave out a decision, nor hide that one does not come out again. The hard case is an incident that was held back and then released:
//! the last state says what holds, the history how it came to that.

use std::fmt::Write;

use serde::Serialize;
use vedette_aggregator_core::{Alarm, Basis, Derivation, Evidence, IncidentState, LedgerEntry};

use crate::store::{Incident, Label, LedgerRow};

/// One incident, explained.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The incident.
    pub id: String,
    /// Whether it ever notified people.
    pub notified: bool,
    /// The deciding reason in words.
    pub reason: String,
    /// What would have changed the decision.
    pub counterfactual: String,
    /// What an operator says it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<Label>,
    /// Each state that was decided, decided once more from what was stored; those that only time brought are left out.
    pub derived: Vec<Derived>,
    /// Every state that it entered, the first first.
    pub states: Vec<Alarm>,
    /// Every decision not to notify, the first first.
    pub decisions: Vec<LedgerEntry>,
}

/// A state decided once more.
#[derive(Clone, Debug, Serialize)]
pub struct Derived {
    /// The state's place among the states, from 0.
    pub state: usize,
    /// What came out.
    #[serde(flatten)]
    pub derivation: Derivation,
}

impl Explanation {
    /// Reads what the store holds of an incident; none if it holds nothing.
    ///
    /// # Errors
    /// A record that is not what this program wrote.
    pub fn new(
        id: &str,
        states: &[Incident],
        decisions: &[LedgerRow],
        label: Option<Label>,
    ) -> Result<Option<Self>, serde_json::Error> {
        let read = |row: &Incident| serde_json::from_str::<Alarm>(&row.body);
        let bases = states.iter().map(|row| row.basis.as_deref());
        let bases: Vec<Option<&str>> = bases.collect();
        let states = states.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let derived = derive(&states, &bases);
        let read = |row: &LedgerRow| serde_json::from_str::<LedgerEntry>(&row.body);
        let decisions = decisions.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        // The state that was decided last says why; the end of an incident decides nothing.
        let decided = states.iter().rev().find(|alarm| alarm.state != IncidentState::Resolved);
        let Some(decided) = decided.or(states.last()) else { return Ok(None) };
        Ok(Some(Self {
            id: id.to_owned(),
            notified: states.iter().any(|alarm| alarm.state == IncidentState::Open),
            reason: decided.evidence.reason.clone(),
            counterfactual: decided.evidence.counterfactual.clone(),
            label,
            derived,
            states,
            decisions,
        }))
    }

    /// The explanation for people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text);
        printable(&text)
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let Some(last) = self.states.last() else { return Ok(()) };
        writeln!(out, "{}\n{}\n", self.id, last.summary)?;
        let now = last.state.as_str();
        writeln!(out, "It is {now} since {}; the deviation began at {}.", last.at, last.started_at)?;
        writeln!(out, "Verdict {}, severity {}.", last.verdict.as_str(), last.severity.as_str())?;
        if let Some(Label { label, author, comment, .. }) = &self.label {
            let line = |text: &str| text.replace('\n', " ");
            let by = if author.is_empty() { "an operator".into() } else { line(author) };
            let why = if comment.is_empty() { String::new() } else { format!(": {}", line(comment)) };
            writeln!(out, "Labelled {label} by {by}{why}.")?;
        }
        let answer = if self.notified { "It notified" } else { "It did not notify" };
        writeln!(out, "\n{answer}, because {}.", self.reason.trim_end_matches('.'))?;
        if !self.counterfactual.is_empty() {
            writeln!(out, "It would have been otherwise: {}.", self.counterfactual.trim_end_matches('.'))?;
        }
        let decided = self.states.iter().rev().find(|alarm| alarm.state != IncidentState::Resolved);
        write_evidence(out, &decided.unwrap_or(last).evidence)?;
        self.write_derived(out)?;
        writeln!(out, "\nStates")?;
        for alarm in &self.states {
            let change = alarm.change.as_ref().map_or(String::new(), |change| format!("{change}; "));
            let (state, severity) = (alarm.state.as_str(), alarm.severity.as_str());
            writeln!(out, "  {}  {state:<10}  {severity:<8}  {change}{}", alarm.at, alarm.evidence.reason)?;
        }
        for (at, entry) in self.decisions.iter().enumerate() {
            if at == 0 {
                writeln!(out, "\nDecisions")?;
            }
            writeln!(out, "  {}  {:?}: {}", entry.at, entry.decision, entry.reason)?;
        }
        Ok(())
    }
}

impl Explanation {
    /// What came out when the decisions were taken again; of the last one, with whom the scope was compared.
    fn write_derived(&self, out: &mut String) -> std::fmt::Result {
        let Some(last) = self.derived.last() else {
            return writeln!(out, "\nNothing is stored to decide it again from.");
        };
        if !last.derivation.compared.is_empty() {
            writeln!(out, "\nCompared")?;
        }
        for compared in &last.derivation.compared {
            let side = if compared.inside { "inside" } else { "peer  " };
            let ratio = percent((compared.observed.max(0.0) / compared.expected.max(1e-9)).max(1e-9).ln());
            writeln!(out, "  {side}  {} in {}: {ratio}", compared.stack, compared.region)?;
        }
        writeln!(out, "\nDecided again from what was stored")?;
        for derived in &self.derived {
            let Derivation { equal, differences, checked, unchecked, .. } = &derived.derivation;
            let at = self.states.get(derived.state).map_or_else(String::new, |alarm| alarm.at.to_string());
            let said = if *equal {
                "equal to the bit".into()
            } else {
                format!("DIFFERS: {}", differences.join("; "))
            };
            writeln!(out, "  {at}  {said} ({})", checked.join("; "))?;
            for unchecked in unchecked {
                writeln!(out, "    as recorded: {unchecked}")?;
            }
        }
        match &last.derivation.counterfactual {
            Some(counterfactual) => writeln!(out, "  tried: {counterfactual}"),
            None => Ok(()),
        }
    }
}

/// Decides each state once more that has a basis. One that cannot be read hides neither the others nor what was recorded.
fn derive(states: &[Alarm], bases: &[Option<&str>]) -> Vec<Derived> {
    let stored = states.iter().zip(bases).enumerate();
    let stored = stored.filter_map(|(state, (alarm, basis))| Some((state, alarm, (*basis)?)));
    let derived = stored.map(|(state, alarm, basis)| {
        let read = serde_json::from_str::<Basis>(basis);
        let derivation = read.map_or_else(Derivation::unreadable, |basis| basis.derive(alarm));
        Derived { state, derivation }
    });
    derived.collect()
}

/// Leaves no character in the text that moves a terminal's cursor: comments and titles are other people's words.
fn printable(text: &str) -> String {
    let safe = |c: char| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().map(safe).collect()
}

/// The numbers that decided, each with what it was held against.
fn write_evidence(out: &mut String, evidence: &Evidence) -> std::fmt::Result {
    writeln!(out, "\nNumbers")?;
    if let Some(missing) = &evidence.missing {
        let cells = missing.cells;
        return writeln!(
            out,
            "  agent {} last seen at {}, {cells} cells",
            missing.agent, missing.last_seen_at
        );
    }
    let Evidence { metric, observed, expected, .. } = evidence;
    writeln!(
        out,
        "  {metric}: observed {observed:.6}, expected {expected:.6} ({})",
        percent(evidence.log_ratio)
    )?;
    let peers = if evidence.peers.is_empty() { "none".into() } else { evidence.peers.join(", ") };
    writeln!(out, "  shared with independent stacks: {} (peers: {peers})", percent(evidence.common_mode))?;
    writeln!(
        out,
        "  left over: {}, tolerance {:.3} as a log ratio",
        percent(evidence.residual),
        evidence.tolerance
    )?;
    let Evidence { significance, significance_threshold, windows, score, .. } = evidence;
    writeln!(
        out,
        "  significance: {significance:.1} standard deviations, threshold {significance_threshold:.1}"
    )?;
    writeln!(out, "  held for {windows} windows; highest score of a series {score:.2}")?;
    if let Some(errors) = &evidence.errors {
        let raised = if errors.raised { "raised" } else { "not raised" };
        let (inside, outside) = (percent(errors.inside), percent(errors.outside));
        writeln!(out, "  {}: {inside} inside, {outside} outside, {raised}", errors.metric)?;
    }
    if !evidence.calendar.is_empty() {
        writeln!(out, "  calendar: {}", evidence.calendar.join("; "))?;
    }
    if let Some(sensitivity) = &evidence.sensitivity {
        let (factor, target) = (sensitivity.factor, sensitivity.pages_per_week);
        writeln!(out, "  sensitivity: {factor:.2} times the usual is asked, for {target} pages a week")?;
    }
    if let Some(suppressor) = &evidence.suppressor {
        let until = suppressor.until.map_or_else(String::new, |until| format!(" until {until}"));
        writeln!(out, "  held back by {}{until}", suppressor.name)?;
    }
    Ok(())
}

/// A log ratio as people say it.
fn percent(log_ratio: f64) -> String {
    format!("{:+.0} %", (log_ratio.exp() - 1.0) * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(number: i64, state: &str, reason: &str) -> Incident {
        let evidence = serde_json::json!({
            "metric": "activity", "metric_is_traffic": true, "direction": "drop", "observed": 310.0, "expected": 820.0, "log_ratio": -0.97,
            "common_mode": -0.02, "residual": -0.95, "tolerance": 0.2, "significance": 12.5,
            "significance_threshold": 5.0, "windows": 3, "score": 0.99, "peers": ["browse"], "calendar": ["final"],
            "errors": null, "missing": null, "reason": reason,
            "counterfactual": "would have been held back had browse fallen too",
        });
        let body = serde_json::json!({
            "id": "01J", "state": state, "kind": "malfunction", "at": "2026-03-09T20:15:00Z",
            "started_at": "2026-03-09T20:05:00Z", "severity": "critical", "verdict": "malfunction",
            "scope": {"region": ["uk"], "device": [], "stack": ["playback"]}, "summary": "playback in uk is down",
            "evidence": evidence, "series": [],
        });
        Incident {
            number,
            id: "01J".into(),
            state: state.into(),
            written_ms: 0,
            body: body.to_string(),
            basis: None,
        }
    }

    #[test]
    fn the_last_decision_says_why_not_the_end() {
        let states = [
            state(1, "suppressed", "all stacks share it"),
            state(2, "open", "errors are raised inside"),
            state(3, "resolved", "back to expectation"),
        ];
        let explained = Explanation::new("01J", &states, &[], None).unwrap().unwrap();
        assert!(explained.notified);
        assert_eq!(explained.reason, "errors are raised inside");
        let text = explained.to_text();
        assert!(text.contains("It notified, because errors are raised inside."), "{text}");
        assert!(
            text.contains("It would have been otherwise: would have been held back had browse"),
            "{text}"
        );
        assert!(text.contains("observed 310.000000, expected 820.000000 (-62 %)"), "{text}");
        assert!(text.contains("peers: browse") && text.contains("calendar: final"), "{text}");
        assert_eq!(text.matches("2026-03-09T20:15:00Z  ").count(), 3, "every state has a line: {text}");
    }

    #[test]
    fn what_only_was_held_back_did_not_notify() {
        let states = [state(1, "suppressed", "all stacks share it"), state(2, "resolved", "over")];
        let explained = Explanation::new("01J", &states, &[], None).unwrap().unwrap();
        assert!(!explained.notified);
        assert!(explained.to_text().contains("It did not notify, because all stacks share it."));
    }

    #[test]
    fn nothing_known_and_foreign_records_are_told_apart() {
        assert!(Explanation::new("01J", &[], &[], None).unwrap().is_none());
        let broken = Incident { body: "{}".into(), ..state(1, "open", "") };
        assert!(Explanation::new("01J", &[broken], &[], None).is_err());
    }

    #[test]
    fn what_cannot_be_read_hides_nothing_and_other_peoples_words_move_no_cursor() {
        let unreadable = Incident { basis: Some("{}".into()), ..state(2, "open", "errors are raised") };
        let states = [state(1, "suppressed", "all stacks share it"), unreadable];
        let label = Label {
            label: "real".into(),
            author: "mal\u{1b}[2J".into(),
            comment: "one\nDecisions\n  none".into(),
            written_ms: 1,
        };
        let explained = Explanation::new("01J", &states, &[], Some(label)).unwrap().unwrap();
        assert_eq!((explained.derived.len(), explained.derived[0].state), (1, 1));
        let text = explained.to_text();
        assert!(text.contains("DIFFERS: what was stored of it cannot be read"), "{text}");
        assert!(!text.contains('\u{1b}') && text.contains("one Decisions   none"), "{text}");
    }
}
