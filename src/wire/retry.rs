//! Trying again: only what is safe to repeat, later each time, and not for ever.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    client::Repeat,
    error::{Failure, Kind, Outcome},
};

/// How often and how long a call is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all, refusals for rate not counted; 1 means never again.
    pub attempts: u32,
    /// Refusals for rate that are waited out: each is the server at work, so this may be more.
    pub refusals: u32,
    /// Time for all attempts and waits together; the last attempt may run over it by its own deadline.
    pub total: Duration,
    /// Longest wait after the first failure; doubles with each.
    pub first: Duration,
    /// Longest wait of all.
    pub longest: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            refusals: 20,
            total: Duration::from_mins(10),
            first: Duration::from_millis(500),
            longest: Duration::from_secs(15),
        }
    }
}

impl RetryPolicy {
    /// One attempt, no waits.
    pub fn never() -> Self {
        Self { attempts: 1, refusals: 0, ..Self::default() }
    }

    /// Upper bound of the wait after the `n`-th failure (from 1): exponential.
    fn bound(&self, n: u32) -> Duration {
        self.first.saturating_mul(1u32.checked_shl(n - 1).unwrap_or(u32::MAX)).min(self.longest)
    }
}

/// The attempts of one call.
#[derive(Debug)]
pub(super) struct Tries {
    policy: RetryPolicy,
    repeat: Repeat,
    started: Instant,
    failures: u32,
    refusals: u32,
    outcome: Outcome,
}

impl Tries {
    pub fn new(policy: RetryPolicy, repeat: Repeat) -> Self {
        let started = Instant::now();
        Self { policy, repeat, started, failures: 0, refusals: 0, outcome: Outcome::NotApplied }
    }

    /// Attempts that have failed.
    pub fn made(&self) -> u32 {
        self.failures + self.refusals
    }

    /// Time that is left for waiting.
    pub fn left(&self) -> Duration {
        self.policy.total.saturating_sub(self.started.elapsed())
    }

    /// Could any of the attempts have taken effect?
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Counts a failure. `Some` when the call is to be tried again after that wait.
    pub fn failed(&mut self, failure: &Failure) -> Option<Duration> {
        if failure.outcome == Outcome::Unknown {
            self.outcome = Outcome::Unknown;
        }
        let refused = failure.kind == Kind::RateLimited;
        if refused {
            self.refusals += 1
        } else {
            self.failures += 1
        }
        let allowed = match self.repeat {
            Repeat::Safe => true,
            Repeat::OnlyIfNotApplied => self.outcome == Outcome::NotApplied,
            Repeat::Never => false,
        };
        let enough = if refused {
            self.refusals > self.policy.refusals
        } else {
            self.failures >= self.policy.attempts
        };
        if !allowed || !failure.kind.passes() || enough {
            return None;
        }
        let bound = match (refused, failure.paced) {
            // The throttle waits as the server says; somebody else empties the bucket when that was not enough.
            (true, true) if self.refusals == 1 => Duration::ZERO,
            (true, true) => self.policy.bound(self.refusals - 1),
            (true, false) => self.policy.bound(self.refusals),
            (false, _) => self.policy.bound(self.failures),
        };
        let wait = jitter(bound);
        (wait < self.left()).then_some(wait)
    }
}

/// Full jitter: any time from nothing to `bound`, so that callers that failed together do not come back together.
fn jitter(bound: Duration) -> Duration {
    // Without a random source all wait the whole time: slower, still right.
    let random = getrandom::u64().unwrap_or(u64::MAX);
    bound.mul_f64(random as f64 / u64::MAX as f64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy() -> RetryPolicy {
        RetryPolicy { first: Duration::from_millis(10), ..RetryPolicy::default() }
    }

    fn count(mut tries: Tries, failure: &Failure) -> u32 {
        while tries.failed(failure).is_some() {}
        tries.made()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_safe_is_tried_up_to_the_bound() {
        let lost = Failure::after(Kind::Unreachable, "cut");
        assert_eq!(count(Tries::new(policy(), Repeat::Safe), &lost), 5);
        let refused = Failure::before(Kind::RateLimited, "slow down");
        assert_eq!(count(Tries::new(policy(), Repeat::Safe), &refused), 21);
        assert_eq!(count(Tries::new(RetryPolicy::never(), Repeat::Safe), &lost), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_create_is_repeated_only_while_it_was_surely_not_applied() {
        let lost = Failure::after(Kind::Unreachable, "cut");
        let never_sent = Failure::before(Kind::Unreachable, "refused");
        assert_eq!(count(Tries::new(policy(), Repeat::OnlyIfNotApplied), &never_sent), 5);
        assert_eq!(count(Tries::new(policy(), Repeat::OnlyIfNotApplied), &lost), 1);
        assert_eq!(count(Tries::new(policy(), Repeat::Never), &never_sent), 1);
        // Once unknown, a later refusal does not make it known.
        let mut tries = Tries::new(policy(), Repeat::Safe);
        assert!(tries.failed(&lost).is_some());
        assert!(tries.failed(&never_sent).is_some());
        assert_eq!(tries.outcome(), Outcome::Unknown);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_pass_is_not_tried_again() {
        for kind in [Kind::NotFound, Kind::Protocol, Kind::Unauthenticated, Kind::Denied { missing: vec![] }]
        {
            assert_eq!(count(Tries::new(policy(), Repeat::Safe), &Failure::before(kind, "no")), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_ends_the_attempts_too() {
        let mut tries = Tries::new(RetryPolicy { total: Duration::from_secs(1), ..policy() }, Repeat::Safe);
        let lost = Failure::after(Kind::Deadline, "late");
        assert!(tries.failed(&lost).is_some());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(tries.left(), Duration::ZERO);
        assert!(tries.failed(&lost).is_none());
    }

    proptest! {
        #[test]
        fn waits_stay_within_their_bound(n in 1u32..100) {
            let policy = RetryPolicy::default();
            prop_assert!(policy.bound(n) <= policy.longest);
            prop_assert!(jitter(policy.bound(n)) <= policy.bound(n));
        }
    }
}
