//! Waiting before a call: a fixed rate from the config, and what the servers' own headers teach.
//!
//! The Things Stack limits by method, entity and token (`pkg/ratelimit/grpc.go`), each bucket by GCRA: one more access
//! every 60 s / limit. Every answer that is limited carries `x-rate-limit-limit` (accesses a minute), `-available`,
//! `-reset` (seconds until the bucket is full) and `-retry` (whole seconds, rounded down: 0 may be 0.9 s).

use std::{
    collections::HashMap,
    fmt,
    num::NonZeroU32,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::HeaderMap;
use tokio::time::Instant;

use super::About;

/// The servers' limits are per minute: no honest bucket makes a caller wait longer for its next access.
const CEILING: Duration = Duration::from_mins(1);
/// `-retry` is cut down to whole seconds, so this much may be missing.
const ROUNDED_OFF: Duration = Duration::from_secs(1);
/// Buckets that are remembered at most; those that no longer hold anybody up go first.
const MAX_BUCKETS: usize = 10_000;

/// A rate of calls, such as `100/min`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Calls in each period, at least 1.
    count: u32,
    /// The period: a second, a minute or an hour.
    per: Duration,
}

impl Rate {
    /// `count` calls in each period.
    pub fn new(count: NonZeroU32, per: Duration) -> Self {
        Self { count: count.get(), per }
    }

    /// `count` calls each minute; 0 counts as 1.
    pub fn per_minute(count: u32) -> Self {
        Self { count: count.max(1), per: Duration::from_mins(1) }
    }

    /// `count` calls each second; 0 counts as 1.
    pub const fn per_second(count: u32) -> Self {
        Self { count: if count == 0 { 1 } else { count }, per: Duration::from_secs(1) }
    }

    /// Time from one call to the next at this rate.
    pub fn interval(&self) -> Duration {
        self.per / self.count
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per.as_secs() {
            1 => "s",
            60 => "min",
            _ => "h",
        };
        write!(f, "{}/{unit}", self.count)
    }
}

/// The `x-rate-limit-*` headers of an answer. A value that is no whole number counts as absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Limits {
    pub limit: Option<u64>,
    pub available: Option<u64>,
    pub reset: Option<u64>,
    pub retry: Option<u64>,
}

impl Limits {
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let number = |name| headers.get(name)?.to_str().ok()?.trim().parse().ok();
        Self {
            limit: number("x-rate-limit-limit"),
            available: number("x-rate-limit-available"),
            reset: number("x-rate-limit-reset"),
            // Proxies in front of a server say `Retry-After` (RFC 9110 §10.2.3).
            retry: number("x-rate-limit-retry").or_else(|| number("retry-after")),
        }
    }

    /// True when the server told how long to wait.
    pub fn present(&self) -> bool {
        self.available.is_some() || self.retry.is_some() || self.reset.is_some()
    }

    /// Time between two accesses; a second where the limit is unknown or absurd.
    fn interval(&self) -> Duration {
        match self.limit {
            Some(limit @ 1..) => CEILING / u32::try_from(limit).unwrap_or(u32::MAX),
            _ => Duration::from_secs(1),
        }
    }

    /// How long the server asks a refused caller to wait, clamped to what can be true.
    fn hold(&self) -> Duration {
        let hint = Duration::from_secs(self.retry.or(self.reset).unwrap_or_default());
        hint.saturating_add(self.interval().min(ROUNDED_OFF)).min(CEILING)
    }
}

/// Why a call waits; shown on the status line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitReason {
    /// The rate from the config.
    Rate,
    /// The server's rate limit.
    ServerLimit,
    /// An attempt failed; the next one comes later.
    BackOff,
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rate => "the rate of calls (limits)",
            Self::ServerLimit => "the server's rate limit",
            Self::BackOff => "trying again",
        })
    }
}

/// A queue of slots: the next caller may go at `next`, and those behind it `interval` later each.
#[derive(Debug, Clone, Copy)]
struct Slots {
    next: Instant,
    interval: Duration,
}

impl Slots {
    /// The wait until the next slot, which is then taken; or, when that is longer than `most`, the wait alone.
    fn take(&mut self, now: Instant, most: Duration) -> Result<Duration, Duration> {
        let at = self.next.max(now);
        let wait = at - now;
        if wait > most {
            return Err(wait);
        }
        self.next = at + self.interval;
        Ok(wait)
    }
}

/// All waits before calls to one side. Shared by the clients of its components.
#[derive(Debug)]
pub(super) struct Throttle {
    rate: Option<Mutex<Slots>>,
    buckets: Mutex<HashMap<(&'static str, About), Slots>>,
}

impl Throttle {
    pub fn new(rate: Option<Rate>) -> Self {
        let slots = |rate: Rate| Mutex::new(Slots { next: Instant::now(), interval: rate.interval() });
        Self { rate: rate.map(slots), buckets: Mutex::default() }
    }

    /// Takes a slot in the server's bucket for this call: how long to wait for it, or too long if over `most`.
    pub fn bucket(
        &self,
        method: &'static str,
        about: &About,
        now: Instant,
        most: Duration,
    ) -> Result<Duration, Duration> {
        match lock(&self.buckets).get_mut(&(method, about.clone())) {
            // A bucket that holds nobody up any more has filled by at least one access.
            Some(slots) if slots.next > now => slots.take(now, most),
            _ => Ok(Duration::ZERO),
        }
    }

    /// Takes a slot of the fixed rate.
    pub fn rate(&self, now: Instant, most: Duration) -> Result<Duration, Duration> {
        self.rate.as_ref().map_or(Ok(Duration::ZERO), |slots| lock(slots).take(now, most))
    }

    /// Learns from the headers of an answer; `refused` when it was refused for its rate.
    ///
    /// It holds back for a bounded time only. Answers that overtake each other cost one refusal at worst.
    pub fn learn(&self, method: &'static str, about: &About, limits: &Limits, refused: bool, now: Instant) {
        let mut buckets = lock(&self.buckets);
        let hold = match limits {
            limits if refused && limits.present() => limits.hold(),
            Limits { available: Some(0), .. } => limits.interval(),
            Limits { available: Some(_), .. } => {
                buckets.remove(&(method, about.clone()));
                return;
            }
            _ => return,
        };
        if buckets.len() >= MAX_BUCKETS {
            buckets.retain(|_, slots| slots.next > now);
        }
        if buckets.len() >= MAX_BUCKETS {
            return;
        }
        let slots = buckets.entry((method, about.clone())).or_insert(Slots { next: now, interval: hold });
        slots.interval = limits.interval();
        slots.next = slots.next.max(now + hold);
    }
}

/// The data behind these locks is whole between any two statements, so a panic elsewhere does not spoil it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GET: &str = "/ttn.lorawan.v3.ApplicationRegistry/Get";
    const LONG: Duration = Duration::from_hours(1);

    fn limits(limit: &str, available: &str, reset: &str, retry: &str) -> Limits {
        let mut headers = HeaderMap::new();
        for (name, value) in [("limit", limit), ("available", available), ("reset", reset), ("retry", retry)]
        {
            let name: http::HeaderName = format!("x-rate-limit-{name}").parse().expect("valid");
            headers.insert(name, value.parse().expect("valid"));
        }
        Limits::from_headers(&headers)
    }

    #[test]
    fn a_rate_has_an_interval_and_a_text() {
        let rate =
            |count, per| Rate::new(NonZeroU32::new(count).expect("not zero"), Duration::from_secs(per));
        assert_eq!(rate(100, 60).to_string(), "100/min");
        assert_eq!(rate(5, 1).interval(), Duration::from_millis(200));
        assert_eq!(rate(3600, 3600).interval(), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_bucket_spaces_the_calls_that_wait_and_no_others() {
        let (throttle, now) = (Throttle::new(None), Instant::now());
        let about = About::application("fleet");
        throttle.learn(GET, &about, &limits("100", "0", "59", "0"), false, now);
        let waits: Vec<_> = (0..3).map(|_| throttle.bucket(GET, &about, now, LONG)).collect();
        assert_eq!(waits, [600, 1200, 1800].map(|ms| Ok(Duration::from_millis(ms))));
        // Another application, and another method, have buckets of their own.
        assert_eq!(throttle.bucket(GET, &About::application("other"), now, LONG), Ok(Duration::ZERO));
        assert_eq!(throttle.bucket("/other", &about, now, LONG), Ok(Duration::ZERO));
        // Later it holds nobody up.
        assert_eq!(throttle.bucket(GET, &about, now + CEILING, LONG), Ok(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_waits_for_what_was_rounded_off() {
        let (throttle, now, about) = (Throttle::new(None), Instant::now(), About::nothing());
        throttle.learn(GET, &about, &limits("100", "0", "59", "0"), true, now);
        assert_eq!(throttle.bucket(GET, &about, now, LONG), Ok(Duration::from_millis(600)));
        let slow = About::application("slow");
        throttle.learn(GET, &slow, &limits("10", "0", "59", "5"), true, now);
        assert_eq!(throttle.bucket(GET, &slow, now, LONG), Ok(Duration::from_secs(6)));
    }

    #[tokio::test(start_paused = true)]
    async fn headers_that_lie_hold_nobody_for_longer_than_a_minute() {
        let now = Instant::now();
        for lie in [
            limits("100", "0", "1000000", "1000000"),
            limits("0", "0", "0", "18446744073709551615"),
            limits("1", "0", "0", "0"),
            limits("-5", "0", "1e9", "NaN"),
        ] {
            let throttle = Throttle::new(None);
            throttle.learn(GET, &About::nothing(), &lie, true, now);
            let wait = throttle.bucket(GET, &About::nothing(), now, LONG).expect("bounded");
            assert!(wait > Duration::ZERO && wait <= CEILING, "{lie:?} {wait:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_too_long_takes_no_slot() {
        let (throttle, now) = (Throttle::new(Some(Rate::per_minute(1))), Instant::now());
        assert_eq!(throttle.rate(now, Duration::ZERO), Ok(Duration::ZERO));
        assert_eq!(throttle.rate(now, Duration::from_secs(5)), Err(CEILING));
        assert_eq!(throttle.rate(now, LONG), Ok(CEILING));
    }

    proptest! {
        #[test]
        fn the_fixed_rate_is_never_exceeded(count in 1u32..500, gaps in prop::collection::vec(0u64..2000, 1..50)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("builds");
            let _guard = runtime.enter();
            let (rate, start) = (Rate::per_minute(count), Instant::now());
            let throttle = Throttle::new(Some(rate));
            let (mut now, mut last) = (start, None::<Instant>);
            for gap in gaps {
                now += Duration::from_millis(gap);
                let at = now + throttle.rate(now, LONG * 1000).expect("no bound");
                prop_assert!(last.is_none_or(|last| at - last >= rate.interval()));
                last = Some(at);
            }
        }
    }
}
