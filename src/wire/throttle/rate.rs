//! Rates, and why a call waits.

use std::{fmt, num::NonZeroU32, time::Duration};

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

/// Why a call waits; shown on the status line and counted in the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WaitReason {
    /// The rate from the config.
    Rate,
    /// The server's rate limit.
    ServerLimit,
    /// The server refused for its rate without saying what it allows, or in spite of it: what passes is found out.
    SlowedDown,
    /// An attempt failed; the next one comes later.
    BackOff,
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rate => "the rate of calls (limits)",
            Self::ServerLimit => "the server's rate limit",
            Self::SlowedDown => "slowed down after refusals",
            Self::BackOff => "trying again",
        })
    }
}

#[test]
fn a_rate_has_an_interval_and_a_text() {
    let rate = |count, per| Rate::new(NonZeroU32::new(count).expect("not zero"), Duration::from_secs(per));
    assert_eq!(rate(100, 60).to_string(), "100/min");
    assert_eq!(rate(5, 1).interval(), Duration::from_millis(200));
    assert_eq!(rate(3600, 3600).interval(), Duration::from_secs(1));
}
