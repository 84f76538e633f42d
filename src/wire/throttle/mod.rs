//! Waiting before a call: a fixed rate from the config, what the servers' own headers teach, and what refusals teach where
//! there are none.
//!
//! The Things Stack limits by method, entity and token (`pkg/ratelimit/grpc.go`), each bucket by GCRA: one more access
//! every 60 s / limit. Every answer that is limited carries `x-rate-limit-limit` (accesses a minute, or the burst that the
//! operator set), `-available`, `-reset` (seconds until the bucket is full) and `-retry` (whole seconds, rounded down: 0 may
//! be 0.9 s). A proxy, or another deployment, may put all calls of a method into one bucket: the answers tell ([`Method`]).

mod bucket;
mod careful;
mod limits;
mod rate;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};

use super::About;
use bucket::{Bucket, Pace};
use careful::{Careful, Meter};
pub(super) use limits::Limits;
use limits::Told;
pub use rate::{Rate, WaitReason};

/// The servers' limits are per minute: no honest bucket makes a caller wait longer for its next access.
const MINUTE: Duration = Duration::from_mins(1);
/// Buckets of one method that are remembered at most; those that hold nobody up go first.
const MAX_BUCKETS: usize = 10_000;
/// After so many calls of a method it is judged whether all its entities share one bucket.
const ENOUGH: f64 = 10.0;

/// All waits before calls to one side. Shared by the clients of its components.
#[derive(Debug)]
pub(super) struct Throttle {
    fixed: Option<Fixed>,
    methods: Mutex<HashMap<&'static str, Method>>,
}

/// The rate from the config.
#[derive(Debug)]
struct Fixed {
    rate: Rate,
    per_method: bool,
    lines: Mutex<HashMap<&'static str, Arc<tokio::sync::Mutex<Pace>>>>,
}

/// What is known of the limits of one method.
#[derive(Debug)]
struct Method {
    /// True when the answers told that all its entities share one bucket.
    shared: bool,
    /// Calls that were answered and that a shared bucket would not have got back yet, and when that was so.
    level: (f64, Instant),
    /// The bucket of all its entities, if they share one.
    all: Bucket,
    /// Those of single entities that have calls under way, or little left.
    entities: HashMap<About, Bucket>,
    passed: Meter,
    careful: Option<Careful>,
    /// When a call was refused, until one is not.
    refused: Option<Instant>,
}

/// Leave to make one call, until it is dropped.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    throttle: &'a Throttle,
    method: &'static str,
    about: About,
    sent: Instant,
}

impl Pass<'_> {
    /// The method of the call.
    pub fn method(&self) -> &'static str {
        self.method
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if let Some(method) = lock(&self.throttle.methods).get_mut(self.method) {
            method.release(&self.about, Instant::now());
        }
    }
}

impl Throttle {
    /// `per_method`: the rate is that of each method, else of all calls together.
    pub fn new(rate: Option<Rate>, per_method: bool) -> Self {
        let fixed = rate.map(|rate| Fixed { rate, per_method, lines: Mutex::default() });
        Self { fixed, methods: Mutex::default() }
    }

    /// Waits for the turn of a call: first come, first served. `waits` is told of each wait as it begins.
    ///
    /// # Errors
    /// Why and how long it would have to wait, if that is longer than `most`.
    pub async fn turn(
        &self,
        method: &'static str,
        about: &About,
        most: Duration,
        mut waits: impl FnMut(WaitReason, Duration),
    ) -> Result<Pass<'_>, (WaitReason, Duration)> {
        let began = Instant::now();
        let mut wait = async |reason, wait: Duration| {
            if wait > most.saturating_sub(began.elapsed()) {
                return Err((reason, wait));
            }
            waits(reason, wait);
            sleep(wait).await;
            Ok(())
        };
        if let Some(fixed) = &self.fixed {
            let line = fixed.line(method);
            let mut pace = timeout(most, line.lock()).await.map_err(|_| (WaitReason::Rate, most))?;
            while let Err(time) = pace.take(Instant::now()) {
                wait(WaitReason::Rate, time).await?;
            }
        }
        let line = self.line(method, about);
        let left = most.saturating_sub(began.elapsed());
        let _first = timeout(left, line.lock()).await.map_err(|_| (WaitReason::ServerLimit, left))?;
        loop {
            let now = Instant::now();
            let taken = self.of(method, now, |method| method.take(about, now));
            match taken {
                Ok(()) => return Ok(Pass { throttle: self, method, about: about.clone(), sent: now }),
                Err((reason, time)) => wait(reason, time).await?,
            }
        }
    }

    /// Learns from an answer; `refused` when it was refused for its rate.
    pub fn learn(&self, pass: &Pass<'_>, limits: &Limits, refused: bool) {
        let now = Instant::now();
        let refused = refused.then_some(pass.sent);
        self.of(pass.method, now, |method| method.learn(&pass.about, limits, refused, now));
    }

    fn of<T>(&self, method: &'static str, now: Instant, f: impl FnOnce(&mut Method) -> T) -> T {
        f(lock(&self.methods).entry(method).or_insert_with(|| Method::new(now)))
    }

    fn line(&self, method: &'static str, about: &About) -> Arc<tokio::sync::Mutex<()>> {
        let now = Instant::now();
        self.of(method, now, |method| {
            // Who waits for the pace of a method waits in one line.
            let bucket = if method.careful.is_some() { &mut method.all } else { method.bucket(about, now) };
            Arc::clone(&bucket.line)
        })
    }
}

impl Fixed {
    fn line(&self, method: &'static str) -> Arc<tokio::sync::Mutex<Pace>> {
        let key = if self.per_method { method } else { "" };
        let new = || Arc::new(tokio::sync::Mutex::new(Pace::new(self.rate.interval(), 1, 1)));
        Arc::clone(lock(&self.lines).entry(key).or_insert_with(new))
    }
}

impl Method {
    fn new(now: Instant) -> Self {
        Self {
            shared: false,
            level: (0.0, now),
            all: Bucket::default(),
            entities: HashMap::new(),
            passed: Meter::new(Duration::from_secs(10)),
            careful: None,
            refused: None,
        }
    }

    fn bucket(&mut self, about: &About, now: Instant) -> &mut Bucket {
        if self.shared {
            return &mut self.all;
        }
        if self.entities.len() >= MAX_BUCKETS {
            self.entities.retain(|_, bucket| !bucket.is_idle(now));
        }
        self.entities.entry(about.clone()).or_default()
    }

    fn take(&mut self, about: &About, now: Instant) -> Result<(), (WaitReason, Duration)> {
        // First, as its turns come back soonest: one that is taken in vain is lost.
        if let Some(careful) = &mut self.careful {
            careful.take(now).map_err(|wait| (WaitReason::SlowedDown, wait))?;
        }
        self.bucket(about, now).take(now).map_err(|wait| (WaitReason::ServerLimit, wait))?;
        self.all.in_flight += 1;
        self.entities.entry(about.clone()).or_default().in_flight += 1;
        Ok(())
    }

    fn release(&mut self, about: &About, now: Instant) {
        self.all.in_flight = self.all.in_flight.saturating_sub(1);
        if let Some(bucket) = self.entities.get_mut(about) {
            bucket.in_flight = bucket.in_flight.saturating_sub(1);
            if bucket.is_idle(now) {
                self.entities.remove(about);
            }
        }
    }

    /// `refused`: when the call was sent, if it was refused for its rate.
    fn learn(&mut self, about: &About, limits: &Limits, refused: Option<Instant>, now: Instant) {
        let told = limits.told();
        if let Some(told) = told {
            self.judge(told, now);
        }
        let shared = self.shared;
        let bucket = self.bucket(about, now);
        if let Some(told) = told.filter(|told| shared || told.available < told.size / 2) {
            bucket.learn(told, now);
        }
        let Some(sent) = refused else {
            self.refused = None;
            self.passed.count(now);
            self.careful.take_if(|careful| careful.passed(now));
            return;
        };
        if limits.present() {
            bucket.hold(limits.hold(), now);
        }
        // Refused although it had waited as it was told: the headers are absent, or do not tell the truth.
        if !limits.present() || self.refused.is_some_and(|before| sent >= before) {
            match &mut self.careful {
                Some(careful) => careful.refused(sent, now),
                none => *none = Some(Careful::new(self.passed.rate(now), now)),
            }
        }
        self.refused = Some(now);
    }

    /// Finds out whether all entities share one bucket: then it lacks what they took together.
    fn judge(&mut self, told: Told, now: Instant) {
        let (level, at) = self.level;
        let size = f64::from(told.size);
        let back = now.saturating_duration_since(at).as_secs_f64() * size / MINUTE.as_secs_f64();
        let level = ((level - back).max(0.0) + 1.0).min(size);
        self.level = (level, now);
        let used = f64::from(told.size - told.available);
        if level < ENOUGH.min(size / 2.0).max(2.0) {
            return;
        }
        if self.shared && used * 2.0 < level {
            self.shared = false;
            self.all.forget();
        } else if used >= level * 0.75 {
            self.shared = true;
        }
    }
}

/// How long the next call of a method would wait when the first one got this answer.
pub(super) fn wait_after(method: &'static str, about: &About, limits: &Limits, refused: bool) -> Duration {
    let (throttle, now) = (Throttle::new(None, true), Instant::now());
    throttle.of(method, now, |method| {
        method.learn(about, limits, refused.then_some(now), now);
        method.take(about, now).map_or_else(|(_, wait)| wait, |()| Duration::ZERO)
    })
}

/// The data behind these locks is whole between any two statements, so a panic elsewhere does not spoil it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
