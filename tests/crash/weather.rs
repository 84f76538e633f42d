//! What servers do when they have a bad day: they fail, lie about their limits, answer late or not, and go away.
//!
//! Which call fails and how follows from the seed, the number of the run and the call itself (method, what it is about,
//! how often it was made), not from the order in which calls happen to arrive.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use stackferry::rehearsal::{CallInfo, Fault, Served, Tts, serve};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tonic::Code;

use crate::world::World;

/// What the configuration of every history gives one attempt.
pub const DEADLINE: Duration = Duration::from_secs(1);

/// SplitMix64 of a number: neighbouring seeds have nothing in common.
pub fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Numbers from a seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(mixed(seed))
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = mixed(self.0);
        self.0 % n
    }

    pub fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }
}

/// A deployment behind a port that can go away and come back, with all that is stored.
pub struct Front {
    pub addr: SocketAddr,
    restarts: UnboundedSender<Duration>,
    under_way: Arc<AtomicUsize>,
}

impl Front {
    /// `ip` should be nobody else's: while the port is closed, the system must not give it to another.
    pub fn new(world: &World, tts: &Arc<Tts>, ip: [u8; 4]) -> Self {
        let (tts, under_way) = (Arc::clone(tts), Arc::<AtomicUsize>::default());
        let first = world.runtime().block_on(serve(Arc::clone(&tts), SocketAddr::from((ip, 0)), None));
        let first = first.expect("loopback");
        let addr = first.addr;
        let (restarts, mut wanted) = unbounded_channel();
        let ended = Arc::clone(&under_way);
        world.runtime().spawn(async move {
            let mut served = first;
            while let Some(down) = wanted.recv().await {
                served.stop().await;
                tokio::time::sleep(down).await;
                served = up_again(&tts, addr).await;
                ended.fetch_sub(1, Ordering::SeqCst);
            }
        });
        Self { addr, restarts, under_way }
    }

    /// Cuts every connection, and answers nobody for this time.
    fn restart(&self, down: Duration) {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        self.restarts.send(down).ok();
    }

    /// Waits until it answers again.
    pub fn wait(&self) {
        while self.under_way.load(Ordering::SeqCst) > 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

async fn up_again(tts: &Arc<Tts>, addr: SocketAddr) -> Served {
    loop {
        match serve(Arc::clone(tts), addr, None).await {
            Ok(served) => return served,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Codes by which a call fails without effect. A made-up `NOT_FOUND` or `ALREADY_EXISTS` lacks the details by which the
/// stack says what is not there, so that it is a failure like the others and no false statement.
const CODES: [Code; 14] = [
    Code::Cancelled,
    Code::Unknown,
    Code::InvalidArgument,
    Code::DeadlineExceeded,
    Code::NotFound,
    Code::AlreadyExists,
    Code::PermissionDenied,
    Code::ResourceExhausted,
    Code::FailedPrecondition,
    Code::Aborted,
    Code::Unimplemented,
    Code::Internal,
    Code::Unavailable,
    Code::Unauthenticated,
];
/// Codes that do not say whether the call had an effect: it had one all the same.
const LOST: [Code; 6] = [
    Code::Cancelled,
    Code::Unknown,
    Code::DeadlineExceeded,
    Code::Aborted,
    Code::Internal,
    Code::Unavailable,
];

/// How bad the weather of one history is.
#[derive(Debug, Clone, Copy)]
pub struct Climate {
    /// Of a thousand calls about a device, how many fail.
    pub intensity: u64,
    /// True: a server may ask for a wait of eleven days once in a history. The client waits a minute.
    pub eleven_days: bool,
}

/// The weather over both sides.
pub struct Weather {
    seed: u64,
    climate: Climate,
    fronts: [Front; 2],
    now: Mutex<Now>,
}

#[derive(Default)]
struct Now {
    /// The number of the run; 0 is calm.
    run: u64,
    made: HashMap<u64, u64>,
    restarts: u32,
    eleven_days: bool,
    of_run: BTreeMap<&'static str, u64>,
    total: BTreeMap<&'static str, u64>,
}

impl Weather {
    pub fn new(seed: u64, climate: Climate, fronts: [Front; 2]) -> Arc<Self> {
        Arc::new(Self { seed, climate, fronts, now: Mutex::default() })
    }

    fn now(&self) -> std::sync::MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bad weather for the run with this number, from 1; 0 is calm.
    pub fn turn(&self, run: u64) {
        self.fronts.iter().for_each(Front::wait);
        let mut now = self.now();
        let total = std::mem::take(&mut now.total);
        *now = Now { run, total, eleven_days: now.eleven_days, ..Now::default() };
    }

    /// What went wrong in this run, by kind.
    pub fn of_run(&self) -> BTreeMap<&'static str, u64> {
        self.now().of_run.clone()
    }

    /// What went wrong in all runs, by kind.
    pub fn total(&self) -> BTreeMap<&'static str, u64> {
        self.now().total.clone()
    }

    /// What happens to a call to this side (0: source).
    pub fn strike(&self, side: usize, call: &CallInfo) -> Option<Fault> {
        let mut now = self.now();
        if now.run == 0 {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        (self.seed, now.run, side, &call.method, &call.entity).hash(&mut hasher);
        let key = hasher.finish();
        let made = now.made.entry(key).or_default();
        *made += 1;
        let mut dice = Dice::new(key ^ mixed(*made));
        // What every run depends on fails less often, or no run would come as far as a device.
        let share = if call.entity.starts_with("end device:") { 1 } else { 8 };
        if dice.below(1000 * share) >= self.climate.intensity {
            return None;
        }
        let (name, fault) = self.draw(&mut dice, &mut now, side);
        *now.of_run.entry(name).or_default() += 1;
        *now.total.entry(name).or_default() += 1;
        Some(fault)
    }

    fn draw(&self, dice: &mut Dice, now: &mut Now, side: usize) -> (&'static str, Fault) {
        let between =
            |dice: &mut Dice, from: u64, to: u64| Duration::from_millis(from + dice.below(to - from));
        match dice.below(24) {
            0..=6 => {
                let code = *dice.of(&CODES);
                (name(code), Fault::Status(code))
            }
            7 | 8 => ("applied, another status", Fault::StatusAfter(*dice.of(&LOST))),
            9 | 10 => ("applied, cut", Fault::CutAfter),
            11 => ("cut", Fault::CutBefore),
            12 => ("cut in the answer", Fault::CutWithin),
            13 | 14 => ("reset", Fault::Reset),
            15 | 16 => ("slow", Fault::Delay(between(dice, 20, 300))),
            17 => ("no answer", Fault::Delay(DEADLINE * 4)),
            // Applied when nobody waits for it any more, and before anybody looks.
            18 => ("late", Fault::Late(DEADLINE + between(dice, 50, 500))),
            19 | 20 if now.restarts < 3 => {
                now.restarts += 1;
                self.fronts[side].restart(between(dice, 0, 1500));
                ("restart", if dice.below(2) == 0 { Fault::CutBefore } else { Fault::CutAfter })
            }
            21 if self.climate.eleven_days && !now.eleven_days => {
                now.eleven_days = true;
                ("rate limit of eleven days", Fault::RateLimited(headers("1000000", "100")))
            }
            22 => ("rate limit without a time", Fault::RateLimited(Vec::new())),
            23 => ("headers that lie", Fault::Headers(headers("1000000", "0"))),
            _ => ("rate limit of no time", Fault::RateLimited(headers("0", "4000000000"))),
        }
    }
}

fn headers(seconds: &str, limit: &str) -> Vec<(String, String)> {
    [("limit", limit), ("available", "0"), ("reset", seconds), ("retry", seconds)]
        .map(|(name, value)| (format!("x-rate-limit-{name}"), value.to_owned()))
        .into()
}

fn name(code: Code) -> &'static str {
    match code {
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::Unauthenticated => "UNAUTHENTICATED",
        _ => "another",
    }
}
