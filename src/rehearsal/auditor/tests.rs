//! Each check fires on a planted breach, and stays quiet on a migration as it should be.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use prost_reflect::Value;

use super::*;
use crate::{
    map::path,
    model::device::{Record, Records},
    rehearsal::{
        air::{
            Downlink, Ether, SharedNetwork,
            samples::{self, abp, facts, key_of, multicast, otaa},
        },
        device::SimDevice,
        lorawan::MacVersion,
    },
};

mod counters;
mod v2;

/// A device, two networks that both hear it, and an auditor on both.
struct Bed {
    source: SharedNetwork,
    target: SharedNetwork,
    ether: Ether,
    auditor: Auditor,
    device: SimDevice,
}

type Make = fn(&mut Store) -> SimDevice;

const KINDS: [(&str, Make); 7] = [
    ("OTAA 1.0.2", |s| otaa(s, 1, MacVersion::V1_0_2)),
    ("OTAA 1.0.4", |s| otaa(s, 1, MacVersion::V1_0_4)),
    ("OTAA 1.1", |s| otaa(s, 1, MacVersion::V1_1)),
    ("ABP 1.0.3", |s| abp(s, 1, MacVersion::V1_0_3, |_| {})),
    ("ABP 1.1", |s| abp(s, 1, MacVersion::V1_1, |_| {})),
    ("ABP class C that resets", |s| {
        abp(s, 1, MacVersion::V1_0_3, |ns| {
            path::set(ns, "supports_class_c", Value::Bool(true));
            path::set_wrapped(ns, "mac_settings.resets_f_cnt", Value::Bool(true));
        })
    }),
    ("multicast", |s| multicast(s, 1)),
];

impl Bed {
    fn new(make: Make) -> Self {
        Self::with(make, Terms::default())
    }

    fn with(make: Make, terms: Terms) -> Self {
        let source = SharedNetwork::new(facts(0x13, "26000000/7"));
        let target = SharedNetwork::new(facts(0, "00000000/7"));
        // Later than any time in the records, and later with every frame.
        let ticks = std::sync::atomic::AtomicI64::new(0);
        let clock = move || -> Timestamp {
            let n = ticks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            samples::now().saturating_add(SignedDuration::from_secs(60 * n)).expect("in range")
        };
        let mut ether = Ether::new(clock);
        ether.add("source", Arc::new(source.clone()));
        ether.add("target", Arc::new(target.clone()));
        let device = make(&mut lock(&source));
        let auditor = Auditor::new(terms);
        auditor.attach(Source, &mut lock(&source), None);
        auditor.attach(Target, &mut lock(&target), None);
        let mut bed = Self { source, target, ether, auditor, device };
        if bed.device.joins() {
            bed.ether.join(&mut bed.device).expect("joins at the source");
        }
        bed.traffic();
        bed
    }

    /// The device sends, wants an answer, and hears from its application.
    fn traffic(&mut self) {
        if !self.device.is_multicast() {
            for confirmed in [true, false] {
                self.ether.uplink(&mut self.device, 5, b"data", confirmed).expect("one answer at most");
            }
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Mute(side) => samples::mute(&mut lock(self.side(side)), 1, true),
            Unmute(side) => samples::mute(&mut lock(self.side(side)), 1, false),
            Create(component) => {
                let Some(Record(mut record)) =
                    samples::records(&lock(&self.source), 1).get(component).cloned()
                else {
                    return;
                };
                path::clear(&mut record, "mac_settings.schedule_downlinks");
                for own in ["network_server_address", "application_server_address", "net_id"] {
                    path::clear(&mut record, own);
                }
                if component == Js {
                    path::clear(&mut record, "session");
                }
                let mut target = lock(&self.target);
                target.put(Table::of(component), &key_of(1), record).expect("memory");
            }
            Clear(side, component) => {
                lock(self.side(side)).remove(Table::of(component), &key_of(1)).expect("memory");
            }
        }
    }

    fn steps(&mut self, steps: &[Step]) {
        for step in steps {
            self.step(*step);
        }
    }

    fn side(&self, side: Side) -> &SharedNetwork {
        match side {
            Source => &self.source,
            Target => &self.target,
        }
    }

    fn edit(&self, side: Side, component: Component, change: impl FnOnce(&mut DynamicMessage)) {
        samples::edit(&mut lock(self.side(side)), component, 1, change);
    }

    fn promises(&self) -> Vec<Promise> {
        self.auditor.finish().iter().map(|b| b.promise).collect()
    }
}

fn lock(network: &SharedNetwork) -> MutexGuard<'_, Store> {
    network.store.lock().expect("not poisoned")
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Mute(Side),
    Unmute(Side),
    Create(Component),
    Clear(Side, Component),
}

use Component::{As, Is, Js, Ns};
use Side::{Source, Target};
use Step::{Clear, Create, Mute, Unmute};

/// Mute-source: the sequence of the design.
const MUTE_SOURCE: [Step; 8] = [
    Mute(Source),
    Create(Is),
    Create(Js),
    Create(As),
    Create(Ns),
    Clear(Source, Js),
    Clear(Source, As),
    Clear(Source, Ns),
];

#[test]
fn a_correct_migration_is_quiet_and_the_device_is_alive_on_the_target() {
    for (kind, make) in KINDS {
        for busy in [false, true] {
            let mut bed = Bed::new(make);
            for step in MUTE_SOURCE {
                bed.step(step);
                if busy {
                    bed.traffic();
                }
            }
            assert_eq!(bed.auditor.finish(), [], "{kind}");
            let proof = prove_alive(&bed.ether, &mut bed.device).expect(kind);
            assert_eq!((proof.network.as_str(), proof.joined), ("target", bed.device.joins()), "{kind}");
            assert_eq!(bed.auditor.finish(), [], "{kind}");
        }
    }
}

#[test]
fn joins_between_any_two_steps_break_nothing() {
    for (kind, make) in KINDS.into_iter().filter(|(kind, _)| kind.starts_with("OTAA")) {
        for at in 0..MUTE_SOURCE.len() {
            let mut bed = Bed::new(make);
            for (i, step) in MUTE_SOURCE.into_iter().enumerate() {
                bed.step(step);
                if i == at {
                    bed.ether.join(&mut bed.device).expect("one answer at most");
                    bed.traffic();
                }
            }
            assert_eq!(bed.auditor.finish(), [], "{kind}, a join after step {at}");
            prove_alive(&bed.ether, &mut bed.device).expect(kind);
        }
    }
}

#[test]
fn s1_fires_when_the_source_is_cleared_too_early() {
    for (kind, make) in KINDS {
        let components: &[Component] = if kind.starts_with("OTAA") { &[Js, As, Ns] } else { &[As, Ns] };
        for cleared in components {
            // Every prefix of the creation that is not all of it.
            for created in 1..5 {
                let mut bed = Bed::new(make);
                bed.steps(&MUTE_SOURCE[..created]);
                bed.step(Clear(Source, *cleared));
                let breaches = bed.auditor.breaches();
                assert!(breaches.iter().any(|b| b.promise == Promise::S1), "{kind} {cleared} {created}");
                assert!(breaches.iter().all(|b| b.promise == Promise::S1), "{kind}: {breaches:?}");
            }
        }
    }
}

#[test]
fn s1_fires_when_the_target_holds_something_else() {
    type Plant = (Component, fn(&mut DynamicMessage));
    let plants: [Plant; 9] = [
        (Js, |r| samples_bytes(r, "root_keys.app_key.key", 7)),
        (Ns, |r| samples_bytes(r, "session.keys.nwk_s_enc_key.key", 7)),
        (Ns, |r| path::clear(r, "session")),
        (Ns, |r| samples_bytes(r, "session.keys.f_nwk_s_int_key.key", 7)),
        (As, |r| samples_bytes(r, "session.keys.app_s_key.key", 7)),
        (As, |r| path::clear(r, "formatters")),
        (Is, |r| path::clear(r, "name")),
        (Ns, |r| path::set(r, "frequency_plan_id", Value::String("US_902_928_FSB_2".into()))),
        (Ns, |r| path::set(r, "mac_state.current_parameters.rx1_delay", Value::EnumNumber(3))),
    ];
    for (i, (component, plant)) in plants.into_iter().enumerate() {
        let mut bed = Bed::new(KINDS[2].1);
        bed.steps(&MUTE_SOURCE[..5]);
        bed.edit(Target, component, plant);
        let before = bed.auditor.breaches();
        bed.step(Clear(Source, Js));
        let breaches = bed.auditor.breaches();
        let s1 = breaches.iter().filter(|b| b.promise == Promise::S1).count();
        // A device that can join may have dropped its session on the way.
        assert_eq!(s1 > 0, i != 2, "plant {i}: {breaches:?}");
        assert!(before.iter().all(|b| b.promise != Promise::S1));
    }
}

fn samples_bytes(record: &mut DynamicMessage, at: &str, byte: u8) {
    path::set(record, at, Value::Bytes(vec![byte; 16].into()));
}

#[test]
fn s1_fires_when_keys_are_blanked_in_place() {
    for (component, at) in [(Js, "root_keys"), (As, "session.keys.app_s_key"), (Ns, "session")] {
        for created in [1, 5] {
            let mut bed = Bed::new(KINDS[0].1);
            bed.steps(&MUTE_SOURCE[..created]);
            if created > 1 {
                // The target holds all but this.
                bed.edit(Target, component, |r| samples_bytes(r, &format!("{}.key", first_key(at)), 9));
            }
            let before = bed.auditor.breaches().len();
            bed.edit(Source, component, |r| path::clear(r, at));
            let breaches = bed.auditor.breaches();
            assert!(breaches[before..].iter().any(|b| b.promise == Promise::S1), "{at}: {breaches:?}");
        }
    }
}

fn first_key(at: &str) -> &str {
    match at {
        "root_keys" => "root_keys.app_key",
        "session" => "session.keys.f_nwk_s_int_key",
        at => at,
    }
}

#[test]
fn s1_fires_when_a_device_that_cannot_join_loses_its_session() {
    let mut bed = Bed::new(KINDS[3].1);
    bed.steps(&MUTE_SOURCE[..5]);
    bed.edit(Target, Ns, |r| {
        path::clear(r, "session");
        path::clear(r, "mac_state");
    });
    bed.step(Clear(Source, As));
    assert!(bed.promises().contains(&Promise::S1));
}

#[test]
fn s1_excuses_what_the_run_may_replace_and_a_swap() {
    let replaced = BTreeSet::from(["frequency_plan_id".to_owned()]);
    let mut bed = Bed::with(KINDS[0].1, Terms { replaced, ..Terms::default() });
    bed.steps(&MUTE_SOURCE[..5]);
    bed.edit(Target, Ns, |r| path::set(r, "frequency_plan_id", Value::String("EU_863_870".into())));
    bed.steps(&MUTE_SOURCE[5..]);
    assert_eq!(bed.auditor.finish(), []);

    let mut bed = Bed::with(KINDS[0].1, Terms { swap: true, ..Terms::default() });
    bed.step(Mute(Source));
    let seal = samples::records(&lock(&bed.source), 1);
    bed.steps(&MUTE_SOURCE[5..]);
    assert_eq!(bed.promises(), [Promise::S3], "as long as it is nowhere");
    restore(&bed.target, &seal);
    prove_alive(&bed.ether, &mut bed.device).expect("alive");
}

fn restore(network: &SharedNetwork, seal: &Records) {
    for (component, Record(record)) in seal.present() {
        let mut record = record.clone();
        path::clear(&mut record, "mac_settings.schedule_downlinks");
        lock(network).put(Table::of(component), &key_of(1), record).expect("memory");
    }
}

#[test]
fn s2_fires_when_both_sides_are_live() {
    for (kind, make) in KINDS {
        let mut bed = Bed::new(make);
        for step in &MUTE_SOURCE[1..4] {
            bed.step(*step);
            assert_eq!(bed.auditor.breaches(), [], "{kind}: not live without its NS record");
        }
        bed.step(Create(Ns));
        assert_eq!(bed.auditor.breaches()[0].promise, Promise::S2, "{kind}");

        let mut bed = Bed::new(make);
        bed.steps(&MUTE_SOURCE[..5]);
        assert_eq!(bed.auditor.breaches(), [], "{kind}");
        bed.step(Unmute(Source));
        assert_eq!(bed.auditor.breaches()[0].promise, Promise::S2, "{kind}");
        let error = prove_alive(&bed.ether, &mut bed.device).expect_err("both answer");
        assert!(error.contains("networks"), "{kind}: {error}");
    }
}

#[test]
fn s3_fires_when_a_device_ends_up_muted_or_gone() {
    for (kind, make) in KINDS {
        let mut bed = Bed::new(make);
        bed.step(Mute(Source));
        assert_eq!(bed.auditor.breaches(), [], "{kind}: it may still go on");
        assert_eq!(bed.promises(), [Promise::S3], "{kind}");

        // The muted value was copied.
        let mut bed = Bed::new(make);
        bed.steps(&MUTE_SOURCE[..5]);
        bed.step(Mute(Target));
        bed.steps(&MUTE_SOURCE[5..]);
        assert!(bed.promises().contains(&Promise::S3), "{kind}");
        prove_alive(&bed.ether, &mut bed.device).expect_err(kind);
    }
}

#[test]
fn s3_fires_when_the_target_makes_an_abp_device_of_one_that_joins() {
    let mut bed = Bed::new(KINDS[0].1);
    bed.steps(&MUTE_SOURCE[..5]);
    bed.edit(Target, Ns, |r| path::clear(r, "supports_join"));
    assert!(bed.promises().contains(&Promise::S3));
}

#[test]
fn a_rollback_is_watched_the_other_way_round() {
    let mut bed = Bed::new(KINDS[2].1);
    bed.steps(&MUTE_SOURCE);
    bed.traffic();
    bed.auditor.protect(Target);
    bed.step(Mute(Target));
    let newest = samples::records(&lock(&bed.target), 1);
    restore(&bed.source, &newest);
    bed.steps(&[Clear(Target, Js), Clear(Target, As), Clear(Target, Ns), Clear(Target, Is)]);
    assert_eq!(bed.auditor.finish(), []);
    assert_eq!(prove_alive(&bed.ether, &mut bed.device).expect("alive").network, "source");

    let mut bed = Bed::new(KINDS[2].1);
    bed.steps(&MUTE_SOURCE);
    bed.auditor.protect(Target);
    bed.step(Clear(Target, Js));
    assert!(bed.promises().contains(&Promise::S1));
}

#[test]
fn one_store_holds_both_sides_of_a_swap() {
    let mut store = Store::in_memory();
    otaa(&mut store, 1, MacVersion::V1_0_3);
    let auditor = Auditor::new(Terms { swap: true, ..Terms::default() });
    auditor.attach(Source, &mut store, Some(samples::APPLICATION));
    auditor.attach(Target, &mut store, Some("elsewhere"));
    let records = samples::records(&store, 1);
    for (component, Record(record)) in records.present() {
        store.put(Table::of(component), "elsewhere.meter-1", record.clone()).expect("memory");
    }
    assert_eq!(auditor.breaches()[0].promise, Promise::S2);
}

#[test]
fn a_proof_fails_where_a_device_is_not_served_as_it_should_be() {
    // Cannot decrypt.
    let mut bed = Bed::new(KINDS[3].1);
    bed.edit(Source, As, |r| samples_bytes(r, "session.keys.app_s_key.key", 7));
    let error = prove_alive(&bed.ether, &mut bed.device).expect_err("wrong AppSKey");
    assert!(error.contains("decrypts its uplink to something else"), "{error}");
    // An old FCntDown.
    let mut bed = Bed::new(KINDS[3].1);
    bed.traffic();
    bed.edit(Source, Ns, |r| path::clear(r, "session.last_n_f_cnt_down"));
    bed.edit(Source, Ns, |r| path::clear(r, "mac_state.recent_downlinks"));
    let error = prove_alive(&bed.ether, &mut bed.device).expect_err("a repeated counter");
    assert!(error.contains("FCntDown"), "{error}");
    // An old JoinNonce.
    let mut bed = Bed::new(KINDS[1].1);
    bed.edit(Source, Js, |r| path::clear(r, "last_join_nonce"));
    let error = prove_alive(&bed.ether, &mut bed.device).expect_err("a repeated JoinNonce");
    assert!(error.contains("JoinNonce"), "{error}");
    // No Join Server.
    let mut bed = Bed::new(KINDS[1].1);
    bed.step(Clear(Source, Js));
    let error = prove_alive(&bed.ether, &mut bed.device).expect_err("no join");
    assert!(error.contains("no network answers its next join-request"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any order of the same steps: the auditor is quiet only if the order keeps the promises.
    #[test]
    fn only_safe_orders_are_quiet(
        kind in 0..KINDS.len(), steps in Just(MUTE_SOURCE.to_vec()).prop_shuffle(),
    ) {
        let mut bed = Bed::new(KINDS[kind].1);
        let otaa = bed.device.joins();
        // What is cleared before it is copied is not copied at all: take the copies of before.
        let seal = samples::records(&lock(&bed.source), 1);
        let mut at = BTreeMap::new();
        for (i, step) in steps.iter().enumerate() {
            at.insert(format!("{step:?}"), i);
            match step {
                Create(component) => {
                    if let Some(Record(record)) = seal.get(*component) {
                        lock(&bed.target).put(Table::of(*component), &key_of(1), record.clone()).expect("memory");
                    }
                }
                Mute(_) if samples::records(&lock(&bed.source), 1).ns.is_none() => {}
                step => bed.step(*step),
            }
        }
        let when = |step: Step| at[&format!("{step:?}")];
        let created: Vec<usize> = [Create(Is), Create(As), Create(Ns)].into_iter()
            .chain(otaa.then_some(Create(Js))).map(when).collect();
        let cleared: Vec<usize> = [Clear(Source, As), Clear(Source, Ns)].into_iter()
            .chain(otaa.then_some(Clear(Source, Js))).map(when).collect();
        let clear_last = created.iter().max() < cleared.iter().min();
        // The session, and with the JS record the root key, become live with the NS record.
        let silent_first = when(Mute(Source)).min(when(Clear(Source, Ns))) < when(Create(Ns));
        prop_assert_eq!(bed.auditor.finish().is_empty(), clear_last && silent_first, "{:?}", steps);
    }
}

/// What waited in the queue of a muted group has counters that were used up elsewhere meanwhile: the network counts it anew
/// before it sends again.
#[test]
fn a_group_is_alive_also_when_its_queue_is_counted_anew_first() {
    let mut bed = Bed::new(|s| multicast(s, 1));
    let down = Downlink { f_port: 5, payload: b"data", confirmed: false };
    bed.step(Mute(Source));
    assert!(matches!(bed.ether.downlink("source", &mut bed.device, down), Ok(None)), "it waits");
    assert!(prove_alive(&bed.ether, &mut bed.device).is_err(), "a muted group is served by nobody");
    bed.edit(Source, Ns, |ns| {
        let used = path::number(ns, "session.last_n_f_cnt_down") as u32 + 9;
        path::set(ns, "session.last_n_f_cnt_down", Value::U32(used));
    });
    bed.step(Unmute(Source));
    assert_eq!(prove_alive(&bed.ether, &mut bed.device).map(|proof| proof.network), Ok("source".into()));
}
