//! The rate limiter of V2: token buckets that are filled all at once once a second (`api/ratelimit/ratelimit.go`, on
//! `juju/ratelimit` `NewBucketWithQuantum` and `TakeMaxDuration`).

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

/// How often a bucket is filled.
const FILL: Duration = Duration::from_secs(1);
/// How long a call waits in the server for a token.
const MAX_WAIT: Duration = Duration::from_millis(500);

/// A bucket for each subject and each application.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    buckets: HashMap<(&'static str, String), Bucket>,
}

#[derive(Debug)]
struct Bucket {
    start: Instant,
    /// Below zero: tokens of later fills that are promised to calls which wait.
    available: i64,
    filled: u64,
}

impl Limiter {
    /// Takes a token of `rate` a second at `now`: how long to wait for it, or `None` for a refusal, which costs none.
    pub fn take(&mut self, rate: u32, what: &'static str, id: &str, now: Instant) -> Option<Duration> {
        let rate = i64::from(rate.max(1));
        let fresh = || Bucket { start: now, available: rate, filled: 0 };
        let bucket = self.buckets.entry((what, id.to_owned())).or_insert_with(fresh);
        bucket.take(rate, now)
    }
}

impl Bucket {
    fn take(&mut self, rate: i64, now: Instant) -> Option<Duration> {
        let age = now.saturating_duration_since(self.start);
        let fills = age.as_secs() / FILL.as_secs();
        let new = i64::try_from(fills.saturating_sub(self.filled)).unwrap_or(i64::MAX);
        self.available = self.available.saturating_add(new.saturating_mul(rate)).min(rate);
        self.filled = fills;
        let left = self.available - 1;
        if left >= 0 {
            self.available = left;
            return Some(Duration::ZERO);
        }
        // Whole fills until the token is there.
        let needed = u64::try_from((-left + rate - 1) / rate).unwrap_or(u64::MAX);
        let wait = Duration::from_secs(fills.saturating_add(needed)).saturating_sub(age);
        if wait > MAX_WAIT {
            return None;
        }
        self.available = left;
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn five_pass_and_then_none_before_the_half_second() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        for _ in 0..5 {
            assert_eq!(limiter.take(5, "client", "fleet", start), Some(Duration::ZERO));
        }
        assert_eq!(limiter.take(5, "client", "fleet", at(start, 499)), None);
        assert_eq!(limiter.take(5, "client", "other", at(start, 499)), Some(Duration::ZERO));
        assert_eq!(limiter.take(5, "application", "fleet", at(start, 499)), Some(Duration::ZERO));
        // From then on it waits in the server, and takes from the next five.
        for _ in 0..5 {
            let wait = limiter.take(5, "client", "fleet", at(start, 600));
            assert_eq!(wait, Some(Duration::from_millis(400)));
        }
        assert_eq!(limiter.take(5, "client", "fleet", at(start, 600)), None);
        assert_eq!(limiter.take(5, "client", "fleet", at(start, 1100)), None);
        assert_eq!(limiter.take(5, "client", "fleet", at(start, 2000)), Some(Duration::ZERO));
    }

    /// As measured: 60 calls, one each 200 ms or each 150 ms, whether the last is answered or not.
    #[test]
    fn one_call_each_200_ms_is_never_refused_and_each_150_ms_is_at_times() {
        for (pause, refused) in [(200, 0..=0), (150, 10..=12)] {
            let (mut limiter, start) = (Limiter::default(), Instant::now());
            let answers = (0..60).map(|n| limiter.take(5, "client", "fleet", at(start, n * pause)));
            let count = answers.filter(Option::is_none).count();
            assert!(refused.contains(&count), "{pause} ms: {count} refused");
        }
    }

    #[test]
    fn a_bucket_holds_no_more_than_a_second_is_worth() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        limiter.take(5, "client", "fleet", start).expect("full");
        let passed = (0..20).filter(|_| limiter.take(5, "client", "fleet", at(start, 60_000)).is_some());
        assert_eq!(passed.count(), 5);
    }
}
