//! One bucket of a server, as far as its answers tell it.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::StateInformationMiddleware,
    state::{InMemoryState, NotKeyed},
};
use tokio::time::Instant;

use super::{MINUTE, limits::Told};

/// Time since a limiter was made. Of tokio, so that a test can drive it.
#[derive(Debug, Clone)]
struct SinceMade(Instant);

impl Clock for SinceMade {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Lets calls through at a pace.
#[derive(Debug)]
pub(super) struct Pace {
    limiter: RateLimiter<NotKeyed, InMemoryState, SinceMade, StateInformationMiddleware>,
    interval: Duration,
    size: u32,
    /// When it was last asked, and how many more it would have let through.
    last: (Instant, u32),
}

impl Pace {
    /// One call every `interval`, at most `size` at once, `left` of them now.
    pub fn new(interval: Duration, size: u32, left: u32) -> Self {
        let interval = interval.max(Duration::from_nanos(1));
        let size = NonZeroU32::new(size).unwrap_or(NonZeroU32::MIN);
        let quota =
            Quota::with_period(interval).unwrap_or(Quota::per_second(NonZeroU32::MIN)).allow_burst(size);
        let now = Instant::now();
        let limiter = RateLimiter::direct_with_clock(quota, SinceMade(now)).with_middleware();
        let left = left.min(size.get());
        if let Some(used) = NonZeroU32::new(size.get() - left) {
            // It is new and takes as many as it holds.
            limiter.check_n(used).ok();
        }
        Self { limiter, interval, size: size.get(), last: (now, left) }
    }

    /// Takes a turn, or says how long there is none.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let taken = self.limiter.check();
        let left = taken.as_ref().map_or(0, |state| state.remaining_burst_capacity());
        self.last = (now, left);
        let wait = |from| Duration::from_nanos(1).max(from);
        taken.map(drop).map_err(|until| wait(until.wait_time_from(self.limiter.clock().now())))
    }

    /// How many it would let through now.
    pub fn left(&self, now: Instant) -> u32 {
        let (at, left) = self.last;
        let more = now.saturating_duration_since(at).as_nanos() / self.interval.as_nanos().max(1);
        left.saturating_add(u32::try_from(more).unwrap_or(u32::MAX)).min(self.size)
    }
}

/// What is known of one bucket.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    pace: Option<Pace>,
    /// The time between two accesses lies in here, as the answers so far tell.
    bounds: Bounds,
    /// Nobody goes before: the server said so.
    held_until: Option<Instant>,
    /// Calls that are under way.
    pub in_flight: u32,
    /// Those who wait stand in line.
    pub line: Arc<tokio::sync::Mutex<()>>,
}

impl Bucket {
    /// Takes an access, or says how long there is none.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        if let Some(until) = self.held_until {
            if until > now {
                return Err(until - now);
            }
            self.held_until = None;
        }
        self.pace.as_mut().map_or(Ok(()), |pace| pace.take(now))
    }

    /// Nobody goes for so long.
    pub fn hold(&mut self, hold: Duration, now: Instant) {
        self.held_until = self.held_until.max(Some(now + hold));
    }

    /// Learns from an answer. Calls that are under way have been counted by us and perhaps not by the server.
    pub fn learn(&mut self, told: Told, now: Instant) {
        let interval = paced(self.bounds.narrow(told));
        let theirs = told.available.saturating_sub(self.in_flight.saturating_sub(1));
        let fits = self.pace.as_ref().is_some_and(|pace| {
            let ours = pace.left(now);
            let same = pace.size == told.size && close(pace.interval, interval);
            same && ours <= theirs.saturating_add(1) && theirs <= ours.saturating_add(2)
        });
        if !fits {
            self.pace = Some(Pace::new(interval, told.size, theirs));
        }
    }

    /// Nothing is known of it any more.
    pub fn forget(&mut self) {
        (self.pace, self.bounds, self.held_until) = (None, Bounds::default(), None);
    }

    /// True when it holds nobody up and nobody is under way.
    pub fn is_idle(&self, now: Instant) -> bool {
        let full = self.pace.as_ref().is_none_or(|pace| pace.left(now) >= pace.size);
        full && self.in_flight == 0 && self.held_until.is_none_or(|until| until <= now)
    }
}

/// A little slower than the server allows, so that what the network does to the times of calls costs no refusals.
fn paced(interval: Duration) -> Duration {
    interval.mul_f64(1.02)
}

fn close(a: Duration, b: Duration) -> bool {
    a.abs_diff(b) * 50 <= a.max(b)
}

/// The time between two accesses. `-limit` is how many fit into the bucket, which is what flows in each minute unless the
/// operator set a burst of its own; how long it takes to fill tells it apart.
#[derive(Debug, Default, Clone, Copy)]
struct Bounds {
    least: Duration,
    most: Option<Duration>,
}

impl Bounds {
    /// Takes an answer in, and gives the best guess.
    fn narrow(&mut self, told: Told) -> Duration {
        let used = told.size - told.available;
        if let (Some(reset), true) = (told.reset.filter(|reset| *reset <= 3600), used > 1) {
            // `reset` is rounded down, and the last of the accesses that are used may be half back.
            let (least, most) =
                (Duration::from_secs(reset) / used, Duration::from_secs(reset + 1) / (used - 1));
            self.least = self.least.max(least);
            self.most = Some(self.most.map_or(most, |known| known.min(most)));
            if self.most.is_some_and(|most| self.least > most) {
                // Another instance, or another limit than a moment ago.
                *self = Self { least, most: Some(most) };
            }
        }
        let usual = MINUTE / told.size;
        usual.max(self.least).min(self.most.unwrap_or(MINUTE)).min(MINUTE)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(size: u32, available: u32, reset: u64) -> Told {
        Told { size, available, reset: Some(reset) }
    }

    #[test]
    fn the_time_to_fill_tells_a_burst_from_a_rate() {
        // 100 a minute, as usual.
        assert_eq!(Bounds::default().narrow(told(100, 40, 36)), Duration::from_millis(600));
        // 100 a minute and 10 at once.
        let mut bounds = Bounds::default();
        bounds.narrow(told(10, 2, 4));
        let interval = bounds.narrow(told(10, 0, 5));
        assert!(
            (Duration::from_millis(500)..=Duration::from_millis(667)).contains(&interval),
            "{interval:?}"
        );
        // Lies do not last.
        assert!(bounds.narrow(told(10, 0, 1_000_000)) <= MINUTE);
        assert!(bounds.narrow(told(10, 0, 3000)) <= MINUTE);
        let interval = bounds.narrow(told(10, 0, 5));
        assert!(interval <= Duration::from_millis(667), "{interval:?}");
    }

    proptest! {
        #[test]
        fn a_pace_is_never_exceeded(millis in 1u64..2000, size in 1u32..20, gaps in prop::collection::vec(0u64..3000, 1..60)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            runtime.expect("builds").block_on(async {
                let interval = Duration::from_millis(millis);
                let (mut pace, start, mut taken) = (Pace::new(interval, size, size), Instant::now(), 0u32);
                for gap in gaps {
                    tokio::time::advance(Duration::from_millis(gap)).await;
                    while pace.take(Instant::now()).is_ok() {
                        taken += 1;
                    }
                    let allowed = u128::from(size) + start.elapsed().as_nanos() / interval.as_nanos();
                    prop_assert!(u128::from(taken) <= allowed, "{taken} of {allowed}");
                    prop_assert_eq!(pace.left(Instant::now()), 0);
                    let wait = pace.take(Instant::now()).expect_err("none is left");
                    prop_assert!(wait <= interval);
                }
                Ok(())
            })?;
        }
    }
}
