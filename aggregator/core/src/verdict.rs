//! Verdicts: from what a scope shows to what it is, whether people are notified, and what would have changed that.
//!
//! It must never look at anything but the numbers that it writes into the evidence. The hard case is a fault in the
//! middle of an event: what is left over counts, with a tolerance that grows with the event, and errors decide.
use crate::alarm::{Scope, Severity, Verdict};
use crate::evidence::{Direction, ErrorEvidence, Evidence};
use crate::settings::{AlarmOn, Judgement, Role};

/// What is decided about one scope.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ruling {
    pub(crate) verdict: Verdict,
    pub(crate) notify: bool,
    /// Whether people are notified all the same once it has lasted for long.
    pub(crate) patient: bool,
    pub(crate) at_once: bool,
    pub(crate) reason: String,
    pub(crate) counterfactual: String,
}

impl Ruling {
    fn hold(verdict: Verdict, reason: impl Into<String>, counterfactual: impl Into<String>) -> Self {
        Self {
            verdict,
            notify: false,
            patient: false,
            at_once: false,
            reason: reason.into(),
            counterfactual: counterfactual.into(),
        }
    }

    fn page(reason: impl Into<String>, counterfactual: impl Into<String>) -> Self {
        Self { notify: true, ..Self::hold(Verdict::Malfunction, reason, counterfactual) }
    }
}

/// Whether `direction` is one that people are notified of.
pub(crate) fn matters(alarm_on: AlarmOn, direction: Direction) -> bool {
    match alarm_on {
        AlarmOn::Both => true,
        AlarmOn::Drop => direction == Direction::Drop,
        AlarmOn::Rise => direction == Direction::Rise,
    }
}

fn percent(log_ratio: f64) -> String {
    let ratio = log_ratio.exp();
    // Beyond this a percentage says nothing to people.
    if ratio >= 10.0 { format!("a factor of {ratio:.0}") } else { format!("{:+.0} %", (ratio - 1.0) * 100.0) }
}

fn peers(evidence: &Evidence) -> String {
    crate::alarm::list(&evidence.peers)
}

/// Rules on what is left over in a scope. None when it is too weak to be told at all.
pub(crate) fn rule_leftover(evidence: &Evidence, role: Role, settings: &Judgement) -> Option<Ruling> {
    if let Some(fault) = fault_of_data(evidence) {
        return Some(fault);
    }
    let size = evidence.residual.abs();
    let event_on = is_event_on(evidence, settings);
    let sure = evidence.significance >= evidence.significance_threshold;
    let raised = confirmation(evidence, evidence.errors.as_ref(), settings);
    let slow = confirmation(evidence, evidence.latency.as_ref(), settings);
    if evidence.peers.is_empty() {
        return sure.then(|| rule_without_peers(evidence, settings));
    }
    let would = format!(
        "would have been held back had {} changed by {} too",
        peers(evidence),
        percent(evidence.residual)
    );
    let nearly_all = if event_on { 2.0 * settings.very_large } else { settings.very_large };
    // What began with an event, and goes on as long as it, is the event.
    let moves_along = event_on && settings.ingredients.synchrony && evidence.synchrony >= SYNCHRONY_MIN;
    let ruling = match (role, raised) {
        (Role::Traffic, Some(errors)) => page_with_errors(evidence, errors, &would),
        (Role::Traffic, None) if slow.is_some_and(|_| !event_on) => Ruling::page(
            format!("left over against {} with latency raised inside", peers(evidence)),
            format!("would have been held back had latency not been raised, or {would}"),
        ),
        _ if !sure => return None,
        // Events act unevenly; only what leaves next to nothing is no event whatever errors say.
        (Role::Traffic, None) if size >= nearly_all => {
            Ruling::page(format!("a very large part is left over against {}", peers(evidence)), would)
        }
        (Role::Traffic, None)
            if evidence.errors.is_none() && !moves_along && is_clear_alone(evidence, event_on) =>
        {
            Ruling::page(format!("left over against {}, beyond what events leave", peers(evidence)), would)
        }
        (Role::Traffic, None) if !event_on && size >= settings.large => Ruling::page(
            format!("a large part is left over against {} while no event is on", peers(evidence)),
            would,
        ),
        // Events raise errors a little, and not everywhere alike; several times as many are no event.
        (Role::Errors, _)
            if evidence.observed >= ERRORS_COUNTED_MIN
                && size >= if event_on { settings.very_large } else { settings.errors_strongly_raised } =>
        {
            Ruling::page(format!("errors are raised strongly, and not among {}", peers(evidence)), would)
        }
        (Role::Latency, _) if !event_on && size >= LATENCY_LARGE => Ruling::page(
            format!("latency is left over by a large part against {} while no event is on", peers(evidence)),
            would,
        ),
        (Role::Saturation, _) if !event_on => {
            Ruling::page(format!("left over against {} while no event is on", peers(evidence)), would)
        }
        _ => hold_leftover(evidence, role, (event_on, moves_along)),
    };
    // How many make one window enough is asked of what is counted.
    let counted = matches!(role, Role::Traffic | Role::Errors);
    let clear = evidence.significance >= settings.significance_at_once;
    let at_once = if counted { is_enough_at_once(evidence, settings) } else { clear };
    Some(Ruling { at_once, ..ruling })
}

/// Traffic below zero is no traffic: whoever measures it is at fault, and not the application.
fn fault_of_data(evidence: &Evidence) -> Option<Ruling> {
    (evidence.metric_is_traffic && evidence.observed < 0.0).then(|| {
        Ruling::hold(
            Verdict::DataFault,
            format!("{} of {} cannot be: traffic is never below zero", evidence.observed, evidence.metric),
            "would have been judged had it not been below zero",
        )
    })
}

/// Whether traffic says enough where no errors are measured that could confirm it: what is small, or amid an event, has to stand
/// out by more.
fn is_clear_alone(evidence: &Evidence, event_on: bool) -> bool {
    evidence.significance >= asked_alone(evidence, event_on)
}

fn asked_alone(evidence: &Evidence, event_on: bool) -> f64 {
    let small = if evidence.residual.abs() < SMALL_ALONE { CLEAR_ALONE } else { 1.0 };
    let amid = if event_on { CLEAR_ALONE } else { 1.0 };
    evidence.significance_threshold * small * amid
}

/// Holds back what is left over and no reason to notify of.
fn hold_leftover(evidence: &Evidence, role: Role, (event_on, moves_along): (bool, bool)) -> Ruling {
    let alone = role == Role::Traffic && evidence.errors.is_none();
    if alone && moves_along {
        return Ruling::hold(
            Verdict::Undecided,
            format!("left over against {}, but in step with what moves them", peers(evidence)),
            format!(
                "would have notified below a similarity of {SYNCHRONY_MIN}, or had nearly all been left over"
            ),
        );
    }
    if alone {
        let asked = asked_alone(evidence, event_on);
        return Ruling::hold(
            Verdict::Undecided,
            format!("left over against {}, but not clearly enough for traffic alone", peers(evidence)),
            format!(
                "would have notified from {asked:.1} standard deviations on, or had errors been measured and raised"
            ),
        );
    }
    Ruling {
        patient: role == Role::Traffic && !event_on,
        ..Ruling::hold(
            Verdict::Undecided,
            format!("left over against {}, but errors inside are not raised", peers(evidence)),
            "would have notified had errors inside been raised, or had it lasted",
        )
    }
}

/// `sign`, where it confirms what is left over. Two signs that are each just visible are found somewhere in any large
/// fleet; together they have to be clear, less so once people were told.
fn confirmation<'a>(
    evidence: &Evidence,
    sign: Option<&'a ErrorEvidence>,
    settings: &Judgement,
) -> Option<&'a ErrorEvidence> {
    let eased = (evidence.significance_threshold / settings.significance).min(1.0);
    let both = eased * settings.significance_of_both;
    sign.filter(|it| it.raised && evidence.significance.hypot(it.significance) >= both)
}

/// The standard deviations of the sign that confirms what is left over: raised errors, or latency while no event is on;
/// 0 where neither does.
pub(crate) fn confirming(evidence: &Evidence, settings: &Judgement) -> f64 {
    let errors = evidence.errors.as_ref().filter(|errors| errors.raised);
    let slow = confirmation(evidence, evidence.latency.as_ref(), settings);
    let slow = slow.filter(|_| !is_event_on(evidence, settings));
    errors.or(slow).map_or(0.0, |sign| sign.significance)
}

/// Whether something from outside moves the region, by the calendar or by what its stacks share.
fn is_event_on(evidence: &Evidence, settings: &Judgement) -> bool {
    evidence.event_is_live
        || evidence.common_mode.abs() >= settings.common_mode_min
        || (settings.ingredients.synchrony && evidence.disturbance >= settings.common_mode_min)
        || !evidence.calendar.is_empty()
}

fn page_with_errors(evidence: &Evidence, errors: &ErrorEvidence, would: &str) -> Ruling {
    let raised = percent(errors.inside - errors.outside);
    let threshold = percent(errors.threshold);
    Ruling::page(
        format!("left over against {} with errors raised by {raised} inside", peers(evidence)),
        format!("would have been held back as uneven had errors inside stayed below {threshold}, or {would}"),
    )
}

/// Whether one window is enough. One in which next to nothing was expected proves little, however empty.
fn is_enough_at_once(evidence: &Evidence, settings: &Judgement) -> bool {
    let confirmed = confirming(evidence, settings);
    // Two signs that agree prove more than one, of however few.
    let counted = if confirmed > 0.0 { CONFIRMED_AT_ONCE } else { 1.0 } * settings.counted_at_once;
    evidence.significance.hypot(confirmed) >= settings.significance_at_once && evidence.expected >= counted
}

/// Without independent stacks there is nothing to compare with: only a large deviation outside the calendar counts.
fn rule_without_peers(evidence: &Evidence, settings: &Judgement) -> Ruling {
    let errors_raised = evidence.errors.as_ref().is_some_and(|errors| errors.raised);
    // No event takes everybody away, and none makes what is left of them fail.
    let nothing_left = evidence.residual <= -2.0 * settings.very_large;
    if !evidence.calendar.is_empty() && !errors_raised && !nothing_left {
        return Ruling::hold(
            Verdict::ScheduledEvent,
            "no independent stack to compare with, and a scheduled event covers it",
            "would have notified without the entry in the calendar, had errors been raised, or had nearly all been gone",
        );
    }
    if evidence.recovering && !errors_raised {
        return Ruling::hold(
            Verdict::Undecided,
            "no independent stack to compare with, and on its way back by itself",
            "would have notified had it lasted",
        );
    }
    if evidence.residual.abs() >= settings.large || errors_raised {
        return Ruling::page(
            "no independent stack to compare with; more than chance, habit or the calendar explains",
            format!(
                "would have been held back below {} without raised errors, or inside a scheduled event",
                percent(settings.large)
            ),
        );
    }
    Ruling {
        patient: true,
        ..Ruling::hold(
            Verdict::Undecided,
            "no independent stack to compare with, and not large enough by itself",
            format!("would have notified from {} on, or had it lasted", percent(settings.large)),
        )
    }
}

/// Cosine similarity from which a leftover is in step with what moves its peers.
const SYNCHRONY_MIN: f64 = 0.85;
/// Where no errors are measured: how many times as many standard deviations are asked of a leftover below this log ratio (36 %
/// down), and as many times again amid an event.
const CLEAR_ALONE: f64 = 1.2;
const SMALL_ALONE: f64 = 0.45;
/// Log odds from which a region that fell alike everywhere is taken to have failed, and the fall that it takes (33 %).
const EVENNESS_MIN: f64 = 2.5;
const EVEN_FALL_MIN: f64 = 0.4;
/// Latency that rises by this log ratio pages by itself (65 %).
const LATENCY_LARGE: f64 = 0.5;
/// Fewer errors than this in a window page nobody by themselves.
const ERRORS_COUNTED_MIN: f64 = 4.0;
/// The share of what has to be expected for one window to be enough, where raised errors or latency confirm it.
const CONFIRMED_AT_ONCE: f64 = 0.3;
/// Traffic that falls by this log ratio falls.
const FALL_MIN: f64 = 0.1;

/// Rules on what the independent stacks of a region share.
pub(crate) fn rule_common(evidence: &Evidence, alarm_on: AlarmOn, settings: &Judgement) -> Ruling {
    let direction = evidence.direction;
    let shared = format!("{} share {}", peers(evidence), percent(evidence.common_mode));
    // More people make more errors: without a fall of traffic it takes many times as many to be a failure.
    let falls = evidence.traffic <= -FALL_MIN || (evidence.metric_is_traffic && direction == Direction::Drop);
    let least = if falls { 0.0 } else { settings.very_large };
    if let Some(errors) = evidence.errors.as_ref().filter(|errors| errors.raised && errors.inside >= least) {
        let reason =
            format!("{shared} while errors are {} above expectation everywhere", percent(errors.inside));
        let would = format!(
            "would have been held back as an event had errors stayed below {}",
            percent(errors.threshold)
        );
        return Ruling { at_once: is_enough_at_once(evidence, settings), ..Ruling::page(reason, would) };
    }
    if !evidence.calendar.is_empty() {
        let reason =
            format!("{shared}, and the calendar announces {}", crate::alarm::list(&evidence.calendar));
        return Ruling::hold(
            Verdict::ScheduledEvent,
            reason,
            "would have notified had errors been raised everywhere",
        );
    }
    let even = evidence.evenness >= EVENNESS_MIN && evidence.common_mode <= -EVEN_FALL_MIN;
    if even && evidence.metric_is_traffic && matters(alarm_on, direction) {
        return Ruling::page(
            format!(
                "{shared}, every stack and device alike (log odds {:.1} against an event, which acts unevenly)",
                evidence.evenness
            ),
            format!("would have been held back below log odds of {EVENNESS_MIN}"),
        );
    }
    let nothing_left = evidence.common_mode <= -2.0 * settings.very_large;
    if nothing_left && matters(alarm_on, direction) {
        return Ruling::page(
            format!("{shared}: next to nothing is left"),
            "would have been held back had some traffic been left",
        );
    }
    Ruling::hold(
        Verdict::ExternalEvent,
        format!("{shared}, so the cause lies outside any one of them, and errors are not raised everywhere"),
        "would have notified had errors been raised everywhere, or had other stacks not shared it",
    )
}

/// How urgent: by size and breadth; what is held back is for the record only.
pub(crate) fn severity(scope: &Scope, evidence: &Evidence, notify: bool) -> Severity {
    let broad = scope.region.is_empty() || (scope.device.is_empty() && scope.stack.is_empty());
    let large = match evidence.direction {
        Direction::Drop => evidence.residual.abs().max(-evidence.log_ratio) >= 0.7,
        Direction::Rise => evidence.residual.abs() >= 1.6,
    };
    match (notify, broad || large) {
        (false, _) => Severity::Info,
        (true, false) => Severity::Warning,
        (true, true) => Severity::Critical,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(residual: f64, common_mode: f64, raised: Option<bool>) -> Evidence {
        let errors = raised.map(|raised| ErrorEvidence {
            metric: "errors".into(),
            inside: if raised { 1.5 } else { 0.0 },
            outside: 0.0,
            significance: 5.0,
            threshold: 0.4,
            raised,
        });
        Evidence {
            residual,
            common_mode,
            significance: 6.0,
            significance_threshold: 4.5,
            errors,
            peers: vec!["payments".into(), "search".into()],
            ..Evidence::nothing(Direction::of(residual))
        }
    }

    fn notifies(evidence: &Evidence) -> bool {
        rule_leftover(evidence, Role::Traffic, &Judgement::default()).is_some_and(|ruling| ruling.notify)
    }

    #[test]
    fn errors_decide_while_an_event_is_on() {
        assert!(notifies(&evidence(-0.5, 0.6, Some(true))));
        assert!(!notifies(&evidence(-0.5, 0.6, Some(false))));
        assert!(!notifies(&evidence(-1.7, 0.6, Some(false))));
        assert!(notifies(&evidence(-3.4, 0.6, Some(false))));
        assert!(notifies(&evidence(-0.9, 0.0, Some(false))));
        assert!(!notifies(&evidence(-0.4, 0.0, Some(false))));
        assert!(notifies(&evidence(-0.4, 0.0, None)));
    }

    #[test]
    fn an_event_that_is_not_over_counts_where_the_window_shows_none() {
        let quiet = evidence(-0.9, 0.0, Some(false));
        assert!(notifies(&quiet));
        assert!(!notifies(&Evidence { event_is_live: true, ..quiet }));
    }

    #[test]
    fn errors_by_themselves_have_to_be_many_more_amid_an_event() {
        let rule = |size, common_mode| {
            let evidence = Evidence { observed: 40.0, ..evidence(size, common_mode, None) };
            rule_leftover(&evidence, Role::Errors, &Judgement::default()).is_some_and(|it| it.notify)
        };
        assert!(rule(1.1, 0.0) && !rule(1.1, 0.5) && rule(1.7, 0.5));
    }

    #[test]
    fn two_faint_signs_are_not_a_clear_one() {
        let clear = evidence(-0.3, 0.0, Some(true));
        assert!(notifies(&clear));
        let mut faint = Evidence { significance: 4.0, ..clear };
        faint.errors.as_mut().unwrap().significance = 2.6;
        assert!(!notifies(&faint));
    }

    #[test]
    fn traffic_alone_has_to_stand_out_by_more_when_it_is_small_or_amid_an_event() {
        let alone = |size, sure: f64, disturbance| Evidence {
            significance: sure * 4.5,
            disturbance,
            ..evidence(size, 0.0, None)
        };
        assert!(notifies(&alone(-0.6, 1.01, 0.0)));
        assert!(!notifies(&alone(-0.3, 1.19, 0.0)) && notifies(&alone(-0.3, 1.21, 0.0)));
        assert!(!notifies(&alone(-0.6, 1.19, 0.5)) && notifies(&alone(-0.6, 1.21, 0.5)));
        assert!(!notifies(&alone(-0.3, 1.43, 0.5)) && notifies(&alone(-0.3, 1.45, 0.5)));
        let held =
            rule_leftover(&alone(-0.3, 1.1, 0.0), Role::Traffic, &Judgement::default()).expect("it is told");
        assert!(held.counterfactual.contains("from 5.4 standard deviations on"), "{held:?}");
    }

    #[test]
    fn severity_follows_size_and_breadth() {
        let named = |name: &str| vec![name.to_owned()];
        let cell = Scope { region: named("uk"), device: named("tv"), stack: named("browse") };
        let of =
            |scope: &Scope, residual: f64, notify| severity(scope, &evidence(residual, 0.0, None), notify);
        assert_eq!(of(&cell, -0.5, true), Severity::Warning);
        assert_eq!(of(&cell, -0.8, true), Severity::Critical, "large");
        let region = Scope { region: named("uk"), ..Scope::default() };
        let everywhere = Scope { stack: named("browse"), ..Scope::default() };
        assert_eq!(
            (of(&region, -0.5, true), of(&everywhere, -0.5, true)),
            (Severity::Critical, Severity::Critical)
        );
        assert_eq!(of(&region, -0.8, false), Severity::Info, "held back");
    }

    #[test]
    fn traffic_below_zero_is_a_fault_of_the_data() {
        let below = Evidence {
            metric_is_traffic: true,
            observed: -5.0,
            expected: 800.0,
            ..evidence(-7.0, 0.0, Some(true))
        };
        let ruling = rule_leftover(&below, Role::Traffic, &Judgement::default()).unwrap();
        assert_eq!((ruling.verdict, ruling.notify), (Verdict::DataFault, false));
        assert!(notifies(&Evidence { observed: 0.0, ..below }), "nothing at all can be");
    }

    #[test]
    fn without_peers_the_evidence_says_so() {
        let lone = Evidence { peers: Vec::new(), ..evidence(-0.9, 0.0, None) };
        let ruling = rule_leftover(&lone, Role::Traffic, &Judgement::default()).unwrap();
        assert!(ruling.notify && ruling.reason.contains("no independent stack"));
        let announced = Evidence { calendar: vec!["football".into()], ..lone };
        assert!(!notifies(&announced));
        assert!(notifies(&Evidence { residual: -3.3, ..announced.clone() }), "next to nothing is left");
        let failing = Evidence { errors: evidence(-0.9, 0.0, Some(true)).errors, ..announced };
        assert!(notifies(&failing), "an event makes nobody fail");
    }

    #[test]
    fn a_common_mode_is_an_event_unless_errors_are_raised() {
        let settings = Judgement::default();
        let rule = |evidence: &Evidence| rule_common(evidence, AlarmOn::Drop, &settings);
        assert_eq!(rule(&evidence(-0.8, -0.8, Some(false))).verdict, Verdict::ExternalEvent);
        let falls = Evidence { metric_is_traffic: true, ..evidence(-0.8, -0.8, Some(true)) };
        assert_eq!(rule(&falls).verdict, Verdict::Malfunction);
        let rush = evidence(0.8, 0.8, Some(true));
        assert_eq!(rule(&rush).verdict, Verdict::ExternalEvent, "more people make more errors");
        let announced = Evidence { calendar: vec!["football".into()], ..evidence(0.8, 0.8, None) };
        assert_eq!(rule(&announced).verdict, Verdict::ScheduledEvent);
        assert!(rule(&evidence(-4.0, -4.0, None)).notify);
    }
}
