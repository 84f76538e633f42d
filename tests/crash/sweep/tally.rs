//! What was covered, and what went wrong.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    Scope,
    cases::Case,
    point::{Moment, Point},
    scene::{Air, Played},
};

/// So many violations are enough to see what they have in common.
const ENOUGH: usize = 20;

#[derive(Debug, Default)]
struct Counts {
    before: usize,
    applied: usize,
    replied: usize,
    journal: usize,
    quiet: usize,
    untouched: usize,
    restarts: [usize; 3],
    violations: Vec<String>,
}

impl Counts {
    fn kills(&self) -> usize {
        self.before + self.applied + self.replied + self.journal
    }
}

/// Counts over all threads.
#[derive(Debug, Default)]
pub struct Tally(Mutex<Counts>);

impl Tally {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many kills ended as they should.
    pub fn kills(&self) -> usize {
        self.counts().kills()
    }

    /// A run that ended as it should.
    pub fn good(&self, point: Point, air: Air, played: &Played) {
        let mut counts = self.counts();
        if !played.killed {
            counts.untouched += 1;
            return;
        }
        match point {
            Point::Call(Moment::Before, _) => counts.before += 1,
            Point::Call(Moment::Applied, _) => counts.applied += 1,
            Point::Call(Moment::Replied, _) => counts.replied += 1,
            _ => counts.journal += 1,
        }
        counts.quiet += usize::from(air == Air::Quiet);
        let restarts = played.restarts.min(counts.restarts.len() - 1);
        counts.restarts[restarts] += 1;
    }

    /// A run that did not.
    pub fn violation(&self, case: &Case, point: Point, air: Air, why: &str) {
        let name = format!("{}:{point}:{air}", case.name());
        let scope = Scope::chosen();
        let text = format!(
            "{name}: {why}\n  again: STACKFERRY_SWEEP={scope} STACKFERRY_SWEEP_ONLY={name} cargo test --release --test crash sweep -- --nocapture"
        );
        println!("VIOLATION {text}");
        self.counts().violations.push(text);
    }

    /// True when going on tells nothing new.
    pub fn is_enough(&self) -> bool {
        self.counts().violations.len() >= ENOUGH
    }

    /// Says what was covered, and fails on any violation.
    pub fn close(&self, what: &str, time: Duration, cost: Duration) {
        println!("{what}: {self}, in {time:.0?} ({cost:.0?} of processor time)");
        let counts = self.counts();
        assert!(
            counts.violations.is_empty(),
            "{} violations:\n{}",
            counts.violations.len(),
            counts.violations.join("\n")
        );
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.counts();
        let (kills, Counts { before, applied, replied, journal, quiet, untouched, restarts, violations }) =
            (counts.kills(), &*counts);
        write!(
            f,
            "{kills} kills ({before} before a call, {applied} after it was applied, {replied} after its answer, {journal} at \
             a journal write; {quiet} without traffic), {untouched} runs untouched, ended after {restarts:?} runs with 0, 1, 2 \
             restarts, {} violations",
            violations.len()
        )
    }
}
