//! The life of a deviation: onset, ongoing, ended, for one series.
//!
//! It must never judge oddness itself: it follows what the scorers say, with hysteresis in size and in time, so
//! that a value that wavers about a threshold is one deviation. The hard case is a fault that lasts: the
//! anomaly score rests after its first alarm, yet the deviation stays until the series returns or its new
//! level is learned; it therefore follows `strain`, which does not rest.

use vedette_common::WallMs;
use vedette_common::wire::{Course, Direction, Phase, Scorer, Shape};

use crate::batch::Observation;
use crate::score::transpose::Turn;
use crate::score::words::{Block, read_row, words, write_row};
use crate::score::{Beat, FlatLine, Gap, Moment, Rhythm, Score, Scores, Spread, Vanish, choose, print};

/// How many residuals the shape of a deviation keeps.
const SHAPE_SAMPLES: usize = 8;
/// What the state of one deviation may take.
pub const DEVIATION_STATE_BYTES_MAX: usize = 116;
/// Where the words of the spread begin: after six, seven and two.
const SPREAD_AT: usize = 15;
/// Zeros that last this many seconds are the new nature of a series.
const ZEROS_S_MAX: f32 = 172_800.0;
/// An error of this many usual ones is nothing special.
const ORDINARY_ERRORS: f32 = 4.0;
/// And one of so many that was never seen is a deviation by itself.
const FAR_ERRORS: f32 = 8.0;
/// A deviation begins when the strain was there for so many usual gaps without a pause, and for so many seconds.
const STRAINED_STEPS: f32 = 10.0;
const STRAINED_S_MIN: f32 = 300.0;
/// What a deviation that was over at once adds to the strain that the next one needs, as a share; at most so many
/// count, and they are forgotten at this rate a second, one over a week.
const FATIGUE: f32 = 0.25;
const FATIGUE_MAX: f32 = 4.0;
const FATIGUE_FORGET_RATE: f32 = 1.0 / 604_800.0;
/// A deviation that showed for so many usual gaps was over at once.
const BRIEF_STEPS: f32 = 6.0;

const _: () = assert!(size_of::<DeviationState>() <= DEVIATION_STATE_BYTES_MAX);

/// When a deviation begins and ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeviationSettings {
    /// A deviation begins at this combined score, `[0, 1]`, when the strain is at least `strain_ongoing`;
    /// default 0.5.
    pub combined_onset: f32,
    /// Or at this strain, whatever the score, at least 0; default 5.
    pub strain_onset: f32,
    /// It lasts while the strain is at least this, between 0 and `strain_onset`; default 3.
    pub strain_ongoing: f32,
    /// It ends when there was no sign of it for this many usual gaps between observations; default 12.
    pub calm_steps: f32,
    /// But not before this time, in milliseconds of event time, which should be a window; default 60,000.
    pub calm_ms_min: i64,
    /// And not after it; default 600,000.
    pub calm_ms_max: i64,
    /// A series is silent after this time at least, in milliseconds of event time; default 60,000.
    pub silent_ms_min: u32,
}

impl Default for DeviationSettings {
    fn default() -> Self {
        DeviationSettings {
            combined_onset: 0.5,
            strain_onset: 5.0,
            strain_ongoing: 3.0,
            calm_steps: 12.0,
            calm_ms_min: 60_000,
            calm_ms_max: 600_000,
            silent_ms_min: 60_000,
        }
    }
}

/// Which deviations of a series matter. Spread, flat lines and silence matter always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Interest {
    /// Drops and rises.
    #[default]
    Both,
    /// Drops: traffic.
    Drop,
    /// Rises: errors, latency.
    Rise,
}

impl Interest {
    /// Whether a deviation of the values in this direction matters.
    pub const fn wants(self, direction: Direction) -> bool {
        match self {
            Self::Both => true,
            Self::Drop => matches!(direction, Direction::Down),
            Self::Rise => matches!(direction, Direction::Up),
        }
    }
}

/// Words of [`Watch`], and what fills them up to whole vectors.
const WORDS: usize = 20;

/// Where one series stands, and the scorers that follow it from observation to observation; 116 bytes, of which an
/// observation that shows nothing touches the first 100.
#[repr(C)]
#[derive(Clone, Debug)]
pub struct DeviationState {
    /// A [`Watch`].
    words: [u32; WORDS],
    /// The upper halves of the latest residuals, oldest first.
    residuals: [u16; SHAPE_SAMPLES],
    stage: Stage,
    direction: Direction,
    scorer: Scorer,
    interest: Interest,
    /// When the present run of abnormal observations began, or the deviation that grew out of it, and the latest
    /// sign of abnormality, in seconds of Unix time. Of no meaning while calm.
    onset_s: u32,
    sign_s: u32,
    /// Deviations of late that were over at once, and when that was.
    brief: f32,
    brief_s: u32,
}

/// The scorers that follow a series from observation to observation.
#[derive(Clone, Copy, Debug)]
struct Watch {
    rhythm: Rhythm,
    flat: FlatLine,
    vanish: Vanish,
    spread: Spread,
}

words!(Watch { rhythm, flat, vanish, spread });

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
enum Stage {
    /// Nothing unusual.
    #[default]
    Calm,
    /// Unusual, and not yet enough so.
    Strained,
    /// A deviation.
    Deviating,
    /// A flat line has ended, and the errors that it made are still in the mean.
    Recovering,
}

/// What one observation shows.
#[derive(Clone, Copy)]
enum Sign {
    None,
    /// Enough for a deviation to last.
    Weak(Scorer),
    /// Enough for one to begin.
    Strong(Scorer, Direction),
}

/// A series from which nothing comes, or a deviation that ends with the series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Overdue {
    /// Of the silence, or of the deviation that was open when the series was given up.
    pub course: Course,
    /// For how long nothing came, in seconds, and the longest usual gap.
    pub gap_s: f32,
    /// The longest usual gap, in seconds.
    pub usual_s: f32,
}

impl Default for DeviationState {
    fn default() -> Self {
        Self::new(Interest::Both)
    }
}

impl DeviationState {
    /// A series without a deviation.
    pub const fn new(interest: Interest) -> Self {
        let mut words = [0; WORDS];
        // A spread begins as it should be.
        words[SPREAD_AT] = 1.0_f32.to_bits();
        words[SPREAD_AT + 1] = 1.0_f32.to_bits();
        DeviationState {
            words,
            residuals: [0; SHAPE_SAMPLES],
            stage: Stage::Calm,
            direction: Direction::Up,
            scorer: Scorer::Value,
            interest,
            onset_s: 0,
            sign_s: 0,
            brief: 0.0,
            brief_s: 0,
        }
    }

    /// Keeps a residual for the shape.
    #[inline(always)]
    fn keep(&mut self, residual: f32) {
        self.residuals.copy_within(1.., 0);
        self.residuals[SHAPE_SAMPLES - 1] = (residual.to_bits() >> 16) as u16;
    }

    /// Whether errors lie on one side by what is known already.
    #[inline(always)]
    fn is_off(&self) -> bool {
        self.is_deviating() & (self.scorer as u32 == Scorer::Value as u32)
    }

    /// Follows an observation that shows something, or comes after one that did.
    #[cold]
    #[inline(never)]
    fn follow(
        &mut self,
        settings: &DeviationSettings,
        at: WallMs,
        signs: u32,
        score: &Score,
        in_event: bool,
    ) -> Option<Course> {
        let sign = self.sign(settings, unix_s(at), signs, score);
        let was = self.scorer;
        if self.is_deviating() && was == Scorer::Silence {
            self.stage = Stage::Calm;
            return Some(self.course(Phase::Ended, was, in_event));
        }
        let phase = self.advance(settings, unix_s(at), sign)?;
        Some(self.course(phase, self.scorer, in_event))
    }

    /// Asks whether the series is silent when the time is `now` and nothing came: at the close of a window.
    pub fn overdue(&mut self, settings: &DeviationSettings, now: Moment, in_event: bool) -> Option<Overdue> {
        let silent = self.is_deviating() && self.scorer == Scorer::Silence;
        let told = |state: &Self, phase, gap_s, usual_s| {
            let course = state.course(phase, state.scorer, in_event);
            Some(Overdue { course, gap_s, usual_s })
        };
        match self.rhythm().ask(now, settings.silent_ms_min as f32 * 0.001) {
            Gap::Usual => None,
            Gap::Silent { gap_s, usual_s } if silent => told(self, Phase::Ongoing, gap_s, usual_s),
            Gap::Silent { gap_s, usual_s } => {
                (self.stage, self.scorer, self.direction) =
                    (Stage::Deviating, Scorer::Silence, Direction::Down);
                self.onset_s = unix_s(now.at).saturating_sub(gap_s as u32);
                told(self, Phase::Onset, gap_s, usual_s)
            }
            Gap::Gone => {
                self.change(|watch| watch.rhythm.forget());
                // Whatever was open ends, a silence that was asked for or a deviation of values that nobody saw the end of.
                let open = self.is_deviating();
                self.stage = Stage::Calm;
                if open { told(self, Phase::Ended, 0.0, 0.0) } else { None }
            }
        }
    }

    /// How a deviation ends whose values say nothing more; `None` if there is none.
    pub(crate) fn ended(&self, in_event: bool) -> Option<Course> {
        self.is_deviating().then(|| self.course(Phase::Ended, self.scorer, in_event))
    }

    /// Forgets all but how often the series comes: its values mean something else from now on.
    pub(crate) fn begin_anew(&mut self) {
        let rhythm = self.rhythm();
        *self = Self::new(self.interest);
        self.change(|watch| watch.rhythm = rhythm);
    }

    /// When the present deviation began: the first observation of the run that led to it. To the second.
    pub const fn onset(&self) -> WallMs {
        WallMs(self.onset_s as i64 * 1_000)
    }

    /// Whether there is a deviation now.
    pub fn is_deviating(&self) -> bool {
        self.stage == Stage::Deviating
    }

    /// Whether the value stands still as it never did: it then says nothing about what it measures.
    pub fn is_stuck(&self) -> bool {
        self.is_deviating() && self.scorer == Scorer::FlatLine
    }

    /// Whether a deviation matters to those who asked for some directions only.
    pub fn wants(&self, course: Course) -> bool {
        course.scorer != Scorer::Value || self.interest.wants(course.direction)
    }

    /// The latest residuals, oldest first.
    pub fn shape(&self) -> Shape {
        Shape::from_samples(&self.residuals.map(|short| f32::from_bits(u32::from(short) << 16)))
    }

    fn course(&self, phase: Phase, scorer: Scorer, in_event: bool) -> Course {
        Course { phase, direction: self.direction, in_event, scorer }
    }

    /// What the signs of an observation amount to.
    fn sign(&self, settings: &DeviationSettings, now_s: u32, signs: u32, score: &Score) -> Sign {
        let watch = self.watch();
        let strain = score.strain.abs();
        let weary = 1.0 + FATIGUE * self.brief_at(now_s).min(FATIGUE_MAX);
        let alarmed = strain >= settings.strain_onset * weary
            || (strain >= settings.strain_ongoing * weary && score.combined >= settings.combined_onset);
        let far = score.combined >= settings.combined_onset && self.brief_at(now_s) < 1.0;
        let has = |sign| signs & sign != 0;
        match () {
            () if !score.ready => Sign::None,
            () if has(STUCK) => Sign::Strong(Scorer::FlatLine, direction(score)),
            () if has(VANISHED) && watch.flat.run_s() <= ZEROS_S_MAX => {
                Sign::Strong(Scorer::Value, Direction::Down)
            }
            () if alarmed => Sign::Strong(Scorer::Value, direction(score)),
            () if has(FAR) && far => Sign::Strong(Scorer::Value, score.direction),
            () if has(STRAINED) && self.is_strained_for(now_s, STRAINED_STEPS * weary) => {
                Sign::Strong(Scorer::Value, direction(score))
            }
            () if has(STRAINED) => Sign::Weak(Scorer::Value),
            () if has(WILDER) => Sign::Strong(Scorer::Spread, Direction::Up),
            () if has(UNUSUAL) => Sign::Weak(Scorer::Spread),
            () => Sign::None,
        }
    }

    /// Whether every observation of so many usual gaps was under strain.
    fn is_strained_for(&self, now_s: u32, steps: f32) -> bool {
        let strained_s = now_s.saturating_sub(self.onset_s) as f32;
        self.stage == Stage::Strained
            && strained_s >= (steps * self.rhythm().interval_s()).max(STRAINED_S_MIN)
    }

    /// What is left of the deviations that were over at once.
    fn brief_at(&self, now_s: u32) -> f32 {
        let passed = now_s.saturating_sub(self.brief_s) as f32 * FATIGUE_FORGET_RATE;
        // The limit formula of an exponential, near enough for a habit.
        let share = (1.0 - passed / 8.0).max(0.0);
        let share = share * share * share * share;
        self.brief * share * share
    }

    fn watch(&self) -> Watch {
        read_row(&self.words)
    }

    /// The first of the scorers, by itself.
    fn rhythm(&self) -> Rhythm {
        read_row(&self.words)
    }

    fn change(&mut self, by: impl FnOnce(&mut Watch)) {
        let mut watch = self.watch();
        by(&mut watch);
        write_row(&mut self.words, watch);
    }

    fn advance(&mut self, settings: &DeviationSettings, now_s: u32, sign: Sign) -> Option<Phase> {
        // Time that ran backwards counts anew from where it is: it ends nothing early, and nothing never.
        (self.onset_s, self.sign_s) = (self.onset_s.min(now_s), self.sign_s.min(now_s));
        if let Sign::Strong(scorer, direction) = sign
            && self.begins(scorer, direction)
        {
            return Some(self.begin(now_s, scorer, direction));
        }
        // A sign of another scorer keeps nothing alive.
        let signed = match sign {
            Sign::None => false,
            Sign::Weak(scorer) | Sign::Strong(scorer, _) => !self.is_deviating() || scorer == self.scorer,
        };
        if signed {
            self.sign_s = now_s;
        }
        match self.stage {
            Stage::Calm | Stage::Strained => {
                if self.stage == Stage::Calm {
                    self.onset_s = now_s;
                }
                self.stage =
                    if matches!(sign, Sign::Weak(Scorer::Value)) { Stage::Strained } else { Stage::Calm };
                None
            }
            Stage::Recovering => {
                if !signed || self.is_calm(settings, now_s, self.onset_s) {
                    self.stage = Stage::Calm;
                }
                None
            }
            Stage::Deviating if self.scorer == Scorer::FlatLine && !signed => {
                (self.stage, self.onset_s) = (Stage::Recovering, now_s);
                Some(Phase::Ended)
            }
            Stage::Deviating if self.is_calm(settings, now_s, self.sign_s) => {
                let brief_s = BRIEF_STEPS * self.watch().rhythm.interval_s();
                let was_brief = (self.sign_s - self.onset_s) as f32 <= brief_s;
                if self.scorer == Scorer::Value {
                    self.brief = self.brief_at(now_s) + if was_brief { 1.0 } else { 0.0 };
                    self.brief_s = now_s;
                    // What lasted may have become the new level, with a spread of its own.
                    if !was_brief {
                        self.change(|watch| watch.spread.relearn());
                    }
                }
                self.stage = Stage::Calm;
                Some(Phase::Ended)
            }
            Stage::Deviating => Some(Phase::Ongoing),
        }
    }

    /// Whether a strong sign begins a deviation: where there is none; where one goes on that nobody wants; and where
    /// what passed for a drop or a rise turns out to be a value that stands still.
    fn begins(&self, scorer: Scorer, direction: Direction) -> bool {
        match self.stage {
            Stage::Calm | Stage::Strained => true,
            Stage::Recovering => scorer == Scorer::FlatLine,
            Stage::Deviating => {
                let unwanted = self.scorer == Scorer::Value && !self.interest.wants(self.direction);
                let turned = scorer == Scorer::Value && direction != self.direction && unwanted;
                let stands_still = scorer == Scorer::FlatLine && self.scorer != Scorer::FlatLine;
                let off = scorer == Scorer::Value && self.scorer == Scorer::Spread;
                turned || stands_still || off
            }
        }
    }

    fn begin(&mut self, now_s: u32, scorer: Scorer, direction: Direction) -> Phase {
        self.onset_s = match (self.stage, scorer) {
            (_, Scorer::FlatLine) => now_s.saturating_sub(self.watch().flat.run_s() as u32),
            (Stage::Strained, Scorer::Value) => self.onset_s,
            _ => now_s,
        };
        (self.stage, self.scorer, self.direction, self.sign_s) = (Stage::Deviating, scorer, direction, now_s);
        Phase::Onset
    }

    /// Whether it has been calm for long enough since `since_s`: some usual gaps, within bounds.
    fn is_calm(&self, settings: &DeviationSettings, now_s: u32, since_s: u32) -> bool {
        let steps_ms = (settings.calm_steps * self.watch().rhythm.interval_s() * 1_000.0) as i64;
        let calm_ms = steps_ms.min(settings.calm_ms_max).max(settings.calm_ms_min);
        (i64::from(now_s) - i64::from(since_s)) * 1_000 >= calm_ms
    }
}

/// What an observation shows of itself.
#[derive(Clone, Copy)]
struct Glance {
    x: f32,
    print: u32,
    beat: Beat,
    residual: f32,
    expected: f32,
    usual: f32,
    strain: f32,
    strain_ongoing: f32,
    /// Errors lie on one side by what is known already.
    off: bool,
}

/// Signs of what is unusual, as bits.
const STUCK: u32 = 1;
const VANISHED: u32 = 2;
const STRAINED: u32 = 4;
const WILDER: u32 = 8;
const UNUSUAL: u32 = 16;
/// An error far beyond the usual ones.
const FAR: u32 = 32;
/// A long gap has ended.
const RESTED: u32 = 64;

impl Watch {
    /// Shows the observation to the scorers that follow a series; the signs that they see.
    #[inline(always)]
    fn look(&mut self, glance: &Glance) -> u32 {
        let &Glance { x, expected, usual, residual, .. } = glance;
        let (step_s, rested) = self.rhythm.observe(glance.beat);
        let strained = glance.strain.abs() >= glance.strain_ongoing;
        let ordinary = !strained & (residual.abs() <= ORDINARY_ERRORS * usual);
        let stuck = self.flat.observe(x, glance.print, step_s, ordinary);
        let vanished = self.vanish.observe(x, expected, usual, step_s);
        // While errors lie on one side, their size tells of the level and not of the spread.
        let counts = !(strained | glance.off);
        let before = self.spread;
        let (unusual, wilder) = self.spread.observe(residual, usual, step_s);
        self.spread.rest(&before, counts);
        let sign = |shown: bool, sign: u32| choose(shown, sign, 0);
        sign(stuck, STUCK)
            | sign(vanished, VANISHED)
            | sign(strained, STRAINED)
            | sign(counts & wilder, WILDER)
            | sign(counts & unusual, UNUSUAL)
            | sign(residual.abs() > FAR_ERRORS * usual, FAR)
            | sign(rested, RESTED)
    }
}

/// Follows observations of at most `N` different series. The course of each is `None` while there is no deviation;
/// `Onset` and `Ended` once each, on the observation that showed it; `Ongoing` in between. Of what
/// `meanwhile` is called for, these are the last three.
#[inline(always)]
pub(crate) fn follow<const N: usize>(
    settings: &DeviationSettings,
    followed: &mut [Observation<'_>],
    scores: &Scores<N>,
    turn: impl Turn<N>,
    meanwhile: &mut impl FnMut(usize, usize),
) -> [Option<Course>; N] {
    let mut block = Block::<WORDS, N>::new();
    let last = followed.len() - 1;
    block.gather(turn, core::array::from_fn(|lane| &followed[lane.min(last)].deviation.words));
    let (mut off, mut now, mut hours, mut prints) = ([0_u32; N], [0_u32; N], [0_u32; N], [0_u32; N]);
    let mut moment = followed[0].moment;
    let mut beat = Beat::new(moment);
    for (lane, one) in followed.iter().enumerate().take(N) {
        meanwhile(6, lane);
        if one.moment != moment {
            moment = one.moment;
            beat = Beat::new(moment);
        }
        (now[lane], hours[lane]) = (beat.now_s, beat.hour);
        off[lane] = u32::from(one.deviation.is_off());
        prints[lane] = print(one.value);
    }
    let mut signs = [0_u32; N];
    for lane in 0..N {
        let mut watch: Watch = block.read(lane);
        signs[lane] = watch.look(&Glance {
            x: scores.x[lane],
            print: prints[lane],
            beat: Beat { now_s: now[lane], hour: hours[lane] },
            residual: scores.x[lane] - scores.expected[lane],
            expected: scores.expected[lane],
            usual: scores.usual[lane],
            strain: choose(scores.ready[lane] != 0, scores.strain[lane], 0.0),
            strain_ongoing: settings.strain_ongoing,
            off: off[lane] != 0,
        });
        block.write(lane, watch);
    }
    for (lane, one) in followed.iter().enumerate().take(N).filter(|(lane, _)| signs[*lane] & RESTED != 0) {
        let mut watch: Watch = block.read(lane);
        watch.rhythm.learn_long(&one.deviation.rhythm(), one.moment);
        block.write(lane, watch);
    }
    (0..N).for_each(|lane| meanwhile(7, lane));
    block.scatter(turn, followed.iter_mut().map(|one| &mut one.deviation.words));
    let mut courses = [None; N];
    for (lane, one) in followed.iter_mut().enumerate().take(N) {
        meanwhile(8, lane);
        one.deviation.keep(scores.residual[lane]);
        if signs[lane] & !RESTED | one.deviation.stage as u32 != 0 {
            let (at, in_event) = (one.moment.at, one.in_event);
            courses[lane] = one.deviation.follow(settings, at, signs[lane], &scores.score(lane), in_event);
        }
    }
    courses
}

/// The side on which the recent errors lie, or the latest one.
fn direction(score: &Score) -> Direction {
    match score.strain {
        s if s >= 1.0 => Direction::Up,
        s if s <= -1.0 => Direction::Down,
        _ => score.direction,
    }
}

/// As many seconds as 32 bits hold.
const SECONDS_MAX: i64 = u32::MAX as i64;

/// Seconds of Unix time, within what 32 bits hold: until the year 2106.
fn unix_s(at: WallMs) -> u32 {
    (at.0.clamp(0, SECONDS_MAX * 1_000) as u64 / 1_000) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::score::transpose::Anywhere;
    use crate::score::{Learning, SeriesState};

    const SETTINGS: DeviationSettings = DeviationSettings {
        combined_onset: 0.5,
        strain_onset: 6.0,
        strain_ongoing: 2.0,
        calm_steps: 12.0,
        calm_ms_min: 600_000,
        calm_ms_max: 600_000,
        silent_ms_min: 60_000,
    };

    /// Follows one observation of which this was said.
    fn step(state: &mut DeviationState, at: WallMs, x: f32, score: &Score) -> Option<Course> {
        let mut series = SeriesState::new(1);
        let (scorers, week) = series.parts();
        let observation = Observation {
            state: scorers,
            week,
            deviation: state,
            moment: Moment::new(at, 0),
            value: x.into(),
            learning: Learning::Normal,
            in_event: score.combined > 0.0,
        };
        let [course] =
            follow(&SETTINGS, &mut [observation], &Scores::<1>::said(x, score), Anywhere, &mut |_, _| ());
        course
    }

    /// One observation a minute with these strains; the phases that follow.
    fn live<const N: usize>(
        state: &mut DeviationState,
        from_min: i64,
        strains: [f32; N],
    ) -> [Option<Phase>; N] {
        let mut minute = from_min;
        strains.map(|strain| {
            let score = Score { strain, ready: true, expected: 100.0, ..Score::default() };
            let at = WallMs(minute * 60_000);
            minute += 1;
            step(state, at, 100.0 + strain, &score).map(|course| course.phase)
        })
    }

    #[test]
    fn a_deviation_begins_lasts_and_ends_once() {
        let mut state = DeviationState::default();
        let phases = live(&mut state, 100, [0.0, -3.0, -7.0, -7.0, -3.0]);
        assert_eq!(phases, [None, None, Some(Phase::Onset), Some(Phase::Ongoing), Some(Phase::Ongoing)]);
        assert_eq!(state.onset(), WallMs(101 * 60_000), "where the run began");
        let phases = live(&mut state, 105, [-0.5; 12]);
        assert_eq!(phases[8], Some(Phase::Ongoing));
        assert_eq!(phases[9], Some(Phase::Ended));
        assert_eq!(phases[10], None);
    }

    #[test]
    fn wavering_is_one_deviation() {
        let mut state = DeviationState::default();
        live(&mut state, 0, [7.0]);
        let phases = live(&mut state, 1, [1.0, 7.0, 0.0, 0.0, 7.0, 1.0, 2.5, 0.0]);
        assert_eq!(phases, [Some(Phase::Ongoing); 8]);
    }

    #[test]
    fn strain_without_alarm_is_none() {
        let mut state = DeviationState::default();
        assert_eq!(live(&mut state, 0, [3.0, 5.0, 3.0, 1.0, 3.0]), [None; 5]);
    }

    #[test]
    fn an_alarm_under_some_strain_begins_one_downwards() {
        let mut state = DeviationState::default();
        let score = Score { combined: 0.8, strain: -2.5, ready: true, ..Score::default() };
        let course = step(&mut state, WallMs(5), 0.0, &score).expect("an onset");
        let (direction, scorer) = (Direction::Down, Scorer::Value);
        assert_eq!(course, Course { phase: Phase::Onset, direction, in_event: true, scorer });
    }

    #[test]
    fn warm_up_is_no_deviation() {
        let score = Score { combined: 1.0, strain: 9.0, ready: false, ..Score::default() };
        assert_eq!(step(&mut DeviationState::default(), WallMs(0), 0.0, &score), None);
    }

    #[test]
    fn a_clock_that_jumps_keeps_the_order_of_phases() {
        let mut state = DeviationState::default();
        live(&mut state, 1_000, [7.0]);
        assert_eq!(live(&mut state, 10, [7.0, 7.0]), [Some(Phase::Ongoing); 2]);
        assert_eq!(live(&mut state, i64::MAX / 60_000, [0.0]), [Some(Phase::Ended)]);
    }

    #[test]
    fn a_new_state_is_that_of_new_scorers() {
        let (rhythm, flat, vanish, spread) = (Rhythm::new(), FlatLine::new(), Vanish::new(), Spread::new());
        let mut words = [0; WORDS];
        write_row(&mut words, Watch { rhythm, flat, vanish, spread });
        assert_eq!(DeviationState::default().words, words);
    }

    #[test]
    fn a_deviation_ends_with_its_series() {
        let mut state = DeviationState::default();
        for minute in 0..100 {
            live(&mut state, minute, [0.0]);
        }
        assert_eq!(live(&mut state, 100, [-7.0]), [Some(Phase::Onset)]);
        let later = Moment::new(WallMs(10 * 86_400_000), 0);
        let ended = state.overdue(&SETTINGS, later, false).expect("it ends");
        assert_eq!((ended.course.phase, ended.course.scorer), (Phase::Ended, Scorer::Value));
        assert!(state.overdue(&SETTINGS, later, false).is_none() && !state.is_deviating());
    }

    #[test]
    fn the_shape_is_the_last_eight_residuals() {
        let mut state = DeviationState::default();
        live(&mut state, 0, [9.0, 0.0, 0.0, 0.0, 0.0, -4.0, -8.0, -8.0, -8.0]);
        let samples = state.shape().to_samples();
        assert_eq!(samples[0], 0.0);
        assert!(samples[7] < -0.9);
    }
}
