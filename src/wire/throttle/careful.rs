//! What passes at a server that refuses for its rate and does not say what it allows: half as much after a refusal, a little
//! more with every second without one.

use std::time::Duration;

use tokio::time::Instant;

use super::bucket::Pace;

/// Calls a second to which refusals slow down at least. Where less is allowed, the waits of the calls that are tried again tell
/// (`wire::retry`).
const SLOWEST: f64 = 1.0;
/// What counts as passed before the first refusal at least, in calls a second: little is known after the first calls.
const LEAST: f64 = 2.0;
/// Every second without a refusal adds so much of what passed before the first one.
const STEP: f64 = 0.05;
/// With so many times what passed before the first refusal it is over.
const OVER: f64 = 2.0;

/// Calls of the last seconds, older ones less.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meter {
    span: Duration,
    count: f64,
    at: Option<Instant>,
}

impl Meter {
    pub fn new(span: Duration) -> Self {
        Self { span, count: 0.0, at: None }
    }

    pub fn count(&mut self, now: Instant) {
        self.count = self.seen(now) + 1.0;
        self.at = Some(now);
    }

    fn seen(&self, now: Instant) -> f64 {
        let Some(at) = self.at else { return 0.0 };
        self.count * (-now.saturating_duration_since(at).as_secs_f64() / self.span.as_secs_f64()).exp()
    }

    /// In each second.
    pub fn rate(&self, now: Instant) -> f64 {
        self.seen(now) / self.span.as_secs_f64()
    }
}

/// Additive increase, multiplicative decrease.
#[derive(Debug)]
pub(super) struct Careful {
    /// Calls a second.
    rate: f64,
    /// What passed before the first refusal.
    before: f64,
    changed: Instant,
    refused: Instant,
    pace: Pace,
}

impl Careful {
    /// After the first refusal; `rate`: what passed until then, in calls a second.
    pub fn new(rate: f64, now: Instant) -> Self {
        let before = rate.max(LEAST);
        let mut careful =
            Self { rate: before, before, changed: now, refused: now, pace: Pace::new(Duration::ZERO, 1, 0) };
        careful.set(before / 2.0, now);
        careful
    }

    fn set(&mut self, rate: f64, now: Instant) {
        self.rate = rate.max(SLOWEST);
        self.changed = now;
        self.pace = Pace::new(Duration::from_secs_f64(1.0 / self.rate), 1, 0);
    }

    /// Takes a turn, or says how long there is none.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        self.pace.take(now)
    }

    /// A call that was sent then was refused. Those that were under way at the last refusal tell nothing new.
    pub fn refused(&mut self, sent: Instant, now: Instant) {
        if sent >= self.refused {
            self.refused = now;
            self.set(self.rate / 2.0, now);
        }
    }

    /// A call has passed. True when nobody needs to be careful any longer.
    pub fn passed(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.changed) >= Duration::from_secs(1) {
            self.set(self.rate + STEP * self.before, now);
        }
        self.rate >= OVER * self.before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn half_after_a_refusal_and_slowly_more_until_it_is_over() {
        let second = Duration::from_secs(1);
        let mut careful = Careful::new(10.0, Instant::now());
        assert_eq!(careful.rate, 5.0);
        // Sixteen were under way: one decrease.
        careful.refused(Instant::now() - second, Instant::now());
        assert_eq!(careful.rate, 5.0);
        tokio::time::advance(second).await;
        careful.refused(Instant::now(), Instant::now());
        assert_eq!(careful.rate, 2.5);
        let mut seconds = 0;
        loop {
            tokio::time::advance(second).await;
            seconds += 1;
            if careful.passed(Instant::now()) {
                break;
            }
            assert!(!careful.passed(Instant::now()), "a second call in the same second adds nothing");
        }
        assert_eq!(seconds, 35);
    }

    #[tokio::test(start_paused = true)]
    async fn it_never_stands_still() {
        let mut careful = Careful::new(0.0, Instant::now());
        for _ in 0..50 {
            tokio::time::advance(Duration::from_secs(1)).await;
            careful.refused(Instant::now(), Instant::now());
        }
        assert!(careful.take(Instant::now()).expect_err("a new pace begins empty") <= Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_meter_forgets() {
        let mut meter = Meter::new(Duration::from_secs(10));
        for _ in 0..100 {
            tokio::time::advance(Duration::from_millis(100)).await;
            meter.count(Instant::now());
        }
        assert!((5.0..10.0).contains(&meter.rate(Instant::now())));
        assert!(meter.rate(Instant::now() + Duration::from_mins(2)) < 0.01);
    }
}
