//! The throttle against limiters of every kind, in a time that the test drives.

use std::{cell::RefCell, rc::Rc};

use futures_util::{StreamExt as _, stream};
use http::HeaderMap;
use proptest::prelude::*;

use super::*;

const GET: &str = "/ttn.lorawan.v3.EndDeviceRegistry/Get";

fn limits(limit: &str, available: &str, reset: &str, retry: &str) -> Limits {
    let mut headers = HeaderMap::new();
    for (name, value) in [("limit", limit), ("available", available), ("reset", reset), ("retry", retry)] {
        let name: http::HeaderName = format!("x-rate-limit-{name}").parse().expect("valid");
        headers.insert(name, value.parse().expect("valid"));
    }
    Limits::from_headers(&headers)
}

/// What the headers of a limiter say.
#[derive(Clone, Copy, PartialEq)]
enum Says {
    Truth,
    Nothing,
    /// Always the same: limit, available, reset and retry.
    Lies([&'static str; 4]),
}

/// GCRA as The Things Stack has it: one bucket an entity, or one for all.
struct Server {
    per_minute: u32,
    burst: u32,
    per_entity: bool,
    says: Says,
    arrivals: HashMap<String, Instant>,
    refusals: usize,
    passed: usize,
}

type Shared = Rc<RefCell<Server>>;

impl Server {
    fn new(per_minute: u32, per_entity: bool) -> Self {
        let arrivals = HashMap::new();
        Self {
            per_minute,
            burst: per_minute,
            per_entity,
            says: Says::Truth,
            arrivals,
            refusals: 0,
            passed: 0,
        }
    }

    fn shared(self) -> Shared {
        Rc::new(RefCell::new(self))
    }

    fn call(&mut self, about: &About) -> (Limits, bool) {
        let key = if self.per_entity { about.to_string() } else { String::new() };
        let (now, interval) = (Instant::now(), MINUTE / self.per_minute);
        let tolerance = interval * self.burst;
        let arrival = self.arrivals.get(&key).copied().unwrap_or(now).max(now);
        let over =
            (arrival + interval).checked_duration_since(now + tolerance).filter(|over| !over.is_zero());
        let arrival = if over.is_none() { arrival + interval } else { arrival };
        self.arrivals.insert(key, arrival);
        self.refusals += usize::from(over.is_some());
        self.passed += usize::from(over.is_none());
        let used = arrival - now;
        let left = (tolerance.saturating_sub(used)).as_nanos() / interval.as_nanos();
        let said = match self.says {
            Says::Truth => limits(
                &self.burst.to_string(),
                &left.to_string(),
                &used.as_secs().to_string(),
                &over.unwrap_or_default().as_secs().to_string(),
            ),
            Says::Nothing => Limits::default(),
            Says::Lies([limit, available, reset, retry]) => limits(limit, available, reset, retry),
        };
        (said, over.is_some())
    }
}

/// Makes a call about each, so many at once, each until it passes. Returns the time that it took.
async fn work(server: &Shared, throttle: &Throttle, calls: Vec<About>, at_once: usize) -> Duration {
    let began = Instant::now();
    let call = async |about: About| {
        loop {
            let turn = throttle.turn(GET, &about, Duration::from_mins(10), |_, _| {}).await;
            let pass = turn.expect("nobody waits for ever");
            sleep(Duration::from_millis(10)).await;
            let (limits, refused) = server.borrow_mut().call(&about);
            sleep(Duration::from_millis(10)).await;
            throttle.learn(&pass, &limits, refused);
            if !refused {
                break;
            }
            drop(pass);
            sleep(Duration::from_millis(100)).await;
        }
    };
    stream::iter(calls).map(call).buffer_unordered(at_once).for_each(|()| async {}).await;
    began.elapsed()
}

fn throttle() -> Throttle {
    Throttle::new(None, true)
}

fn devices(count: usize) -> Vec<About> {
    devices_of("fleet", count)
}

fn devices_of(app: &str, count: usize) -> Vec<About> {
    (0..count).map(|n| About::device(app, format!("meter-{n}"))).collect()
}

fn seconds(n: f64) -> Duration {
    Duration::from_secs_f64(n)
}

#[tokio::test(start_paused = true)]
async fn one_bucket_for_all_is_found_out_and_used_whole() {
    let (server, throttle) = (Server::new(100, false).shared(), throttle());
    let time = work(&server, &throttle, devices(600), 16).await;
    // 100 at once, 500 at 100 a minute.
    assert!(time <= seconds(300.0 * 1.05), "{time:?}");
    assert!(server.borrow().refusals <= 2, "{} refusals", server.borrow().refusals);
}

#[tokio::test(start_paused = true)]
async fn a_bucket_for_each_entity_holds_nobody_up() {
    let (server, throttle) = (Server::new(100, true).shared(), throttle());
    let time = work(&server, &throttle, devices(3200), 16).await;
    assert!(time <= seconds(200.0 * 0.02 * 1.1), "{time:?}");
    assert_eq!(server.borrow().refusals, 0);
    // Nothing is remembered of those that are done.
    assert!(lock(&throttle.methods).get(GET).is_some_and(|m| m.entities.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn two_applications_share_one_bucket_fairly() {
    let (server, shared) = (Server::new(100, false).shared(), throttle());
    let (one, other) = (devices_of("one", 200), devices_of("other", 200));
    let (one, other) = tokio::join!(work(&server, &shared, one, 8), work(&server, &shared, other, 8));
    assert!(one.abs_diff(other) < seconds(10.0), "{one:?} {other:?}");
    // Where each has a bucket of its own, a busy one holds no other up.
    let (server, apart) = (Server::new(100, true).shared(), throttle());
    let app = |app, count| vec![About::application(app); count];
    let busy = work(&server, &apart, app("busy", 150), 16);
    let (busy, quiet) = tokio::join!(busy, work(&server, &apart, app("quiet", 50), 1));
    assert!(quiet < seconds(3.0), "{quiet:?}");
    assert!((seconds(29.0)..seconds(33.0)).contains(&busy), "{busy:?}");
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_its_own_is_told_from_the_rate() {
    let (server, throttle) = (Server { burst: 10, ..Server::new(100, false) }.shared(), throttle());
    let time = work(&server, &throttle, devices(310), 16).await;
    assert!(time <= seconds(180.0 * 1.05), "{time:?}");
    assert!(server.borrow().refusals <= 20, "{} refusals", server.borrow().refusals);
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_changes_is_followed() {
    let (server, throttle) = (Server::new(100, false).shared(), throttle());
    let set = |limit| {
        let mut server = server.borrow_mut();
        (server.per_minute, server.burst, server.refusals) = (limit, limit, 0);
    };
    work(&server, &throttle, devices(200), 16).await;
    set(20);
    work(&server, &throttle, devices(40), 16).await;
    assert!(server.borrow().refusals <= 20, "{} refusals", server.borrow().refusals);
    set(6000);
    // The answer to the first of these says so.
    let time = work(&server, &throttle, devices(500), 16).await;
    assert!(time <= seconds(8.0), "{time:?}");
}

#[tokio::test(start_paused = true)]
async fn without_headers_refusals_teach() {
    let server = Server { says: Says::Nothing, burst: 5, ..Server::new(300, false) };
    let (server, throttle) = (server.shared(), throttle());
    let time = work(&server, &throttle, devices(1200), 16).await;
    // Five a second at best, of which more than half are used, with few refusals.
    assert!(time <= seconds(240.0 * 2.0), "{time:?}");
    assert!(server.borrow().refusals < 240, "{} refusals", server.borrow().refusals);
}

#[tokio::test(start_paused = true)]
async fn lies_hold_nobody_for_ever_and_hurt_nobody() {
    let lies = [
        ["0", "0", "0", "0"],
        ["100", "0", "1000000", "1000000"],
        ["1000000", "1000000", "0", "0"],
        ["-5", "0", "1e9", "NaN"],
        ["1", "0", "0", "18446744073709551615"],
    ];
    for lie in lies {
        let server = Server { says: Says::Lies(lie), ..Server::new(600, false) }.shared();
        work(&server, &throttle(), devices(40), 4).await;
        assert_eq!(server.borrow().passed, 40, "{lie:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_belies_the_one_before_is_no_panic() {
    let (throttle, about) = (throttle(), About::nothing());
    let answers =
        [("10", "0", "3600", "0"), ("4294967295", "0", "x", "0"), ("18446744073709551615", "1", "0", "0")];
    for (limit, available, reset, retry) in answers {
        let pass = throttle.turn(GET, &about, MINUTE * 5, |_, _| {}).await.expect("a minute at most");
        throttle.learn(&pass, &limits(limit, available, reset, retry), false);
    }
}

#[tokio::test(start_paused = true)]
async fn instances_that_disagree_cost_time_and_no_device() {
    let new = || Server::new(100, false).shared();
    let (one, other, throttle) = (new(), new(), throttle());
    let half = devices(300);
    let time = tokio::join!(work(&one, &throttle, half.clone(), 8), work(&other, &throttle, half, 8));
    assert!(time.0.max(time.1) <= seconds(300.0 * 1.1), "{time:?}");
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_too_long_is_not_begun() {
    let throttle = Throttle::new(Some(Rate::per_minute(1)), true);
    let about = About::nothing();
    let turn = async |most| throttle.turn(GET, &about, most, |_, _| {}).await.map(drop);
    assert_eq!(turn(Duration::ZERO).await, Ok(()));
    let began = Instant::now();
    assert_eq!(turn(seconds(5.0)).await.map_err(|(reason, _)| reason), Err(WaitReason::Rate));
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(turn(MINUTE * 2).await, Ok(()));
    assert_eq!(began.elapsed(), MINUTE);
    // Each method has a rate of its own, or all share it.
    assert!(throttle.turn("/other", &about, Duration::ZERO, |_, _| {}).await.is_ok());
    let shared = Throttle::new(Some(Rate::per_minute(1)), false);
    assert!(shared.turn(GET, &about, Duration::ZERO, |_, _| {}).await.is_ok());
    assert!(shared.turn("/other", &about, Duration::ZERO, |_, _| {}).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_waits_for_what_was_rounded_off() {
    let after = |limits| wait_after(GET, &About::nothing(), &limits, true);
    assert_eq!(after(limits("100", "0", "59", "0")), Duration::from_millis(600));
    assert_eq!(after(limits("10", "0", "59", "5")), Duration::from_secs(6));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    /// Whatever the server allows and says, every call passes, and never faster than the config allows.
    #[test]
    fn every_call_passes(
        per_minute in 6u32..2000,
        burst in 1u32..200,
        per_entity: bool,
        silent: bool,
        at_once in 1usize..32,
        fixed in prop::option::of(60u32..1000),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("builds").block_on(async {
            let says = if silent { Says::Nothing } else { Says::Truth };
            let server = Server { burst, says, ..Server::new(per_minute, per_entity) }.shared();
            let throttle = Throttle::new(fixed.map(Rate::per_minute), true);
            let time = work(&server, &throttle, devices(60), at_once).await;
            prop_assert_eq!(server.borrow().passed, 60);
            if let Some(fixed) = fixed {
                prop_assert!(time >= Rate::per_minute(fixed).interval() * 59);
            }
            Ok(())
        })?;
    }
}
