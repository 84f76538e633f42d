//! The rate limiter of The Things Stack: GCRA (`throttled`), one bucket a key (`pkg/ratelimit`).

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// How many accesses a minute a bucket allows, and how many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Accesses in a period.
    pub calls: u32,
    /// The period: a minute on a real server.
    pub per: Duration,
    /// Accesses at once; 0 means as many as in a period (`max-burst` of the stack).
    pub burst: u32,
    /// True when the buckets are per method, entity and token, as on a real server; false to share one bucket between
    /// all entities of a method.
    pub per_entity: bool,
}

impl RateLimit {
    /// The stack's way: a bucket per method, entity and token, full at the start.
    pub fn per_entity(calls: u32, per: Duration) -> Self {
        Self { calls, per, burst: 0, per_entity: true }
    }
}

/// What the limiter says of one access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    pub limited: bool,
    pub limit: u32,
    pub available: u32,
    pub reset: Duration,
    pub retry: Duration,
}

impl Answer {
    /// The four headers; seconds are cut down, as by the real server.
    pub fn headers(&self) -> Vec<(String, String)> {
        [
            ("x-rate-limit-limit", u64::from(self.limit)),
            ("x-rate-limit-available", u64::from(self.available)),
            ("x-rate-limit-reset", self.reset.as_secs()),
            ("x-rate-limit-retry", self.retry.as_secs()),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_string()))
        .into()
    }
}

/// Buckets by key: the theoretical arrival time of each.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    arrivals: HashMap<String, Instant>,
}

impl Limiter {
    /// One access to `key` at `now`.
    pub fn access(&mut self, limit: RateLimit, key: &str, now: Instant) -> Answer {
        let interval = limit.per / limit.calls.max(1);
        let burst = if limit.burst == 0 { limit.calls } else { limit.burst }.max(1);
        let tolerance = interval * burst;
        let arrival = self.arrivals.get(key).copied().unwrap_or(now).max(now);
        let next = arrival + interval;
        let answer = |limited, arrival: Instant, retry| {
            let used = arrival.saturating_duration_since(now);
            Answer {
                limited,
                limit: burst,
                available: (tolerance.saturating_sub(used).as_nanos() / interval.as_nanos().max(1)) as u32,
                reset: used,
                retry,
            }
        };
        match next.checked_duration_since(now + tolerance).filter(|over| !over.is_zero()) {
            Some(over) => answer(true, arrival, over),
            None => {
                self.arrivals.insert(key.to_owned(), next);
                answer(false, next, Duration::ZERO)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_one_access_an_interval() {
        let limit = RateLimit { calls: 60, per: Duration::from_secs(60), burst: 3, per_entity: true };
        let mut limiter = Limiter::default();
        let start = Instant::now();
        let available: Vec<_> =
            (0..3).map(|_| limiter.access(limit, "bucket", start)).map(|a| a.available).collect();
        assert_eq!(available, [2, 1, 0]);
        let refused = limiter.access(limit, "bucket", start);
        assert!(refused.limited);
        assert_eq!((refused.reset, refused.retry), (Duration::from_secs(3), Duration::from_secs(1)));
        assert!(!limiter.access(limit, "another", start).limited);
        assert!(!limiter.access(limit, "bucket", start + Duration::from_secs(1)).limited);
        assert!(limiter.access(limit, "bucket", start + Duration::from_secs(1)).limited);
    }
}
