//! The way back: nothing of the source is lost, and no counter goes back.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{
    model::{device::Records, ids::DeviceId},
    plan::{
        MUTE,
        back::{self, Back, Sides},
        compare,
    },
};

/// A device on its way: what was found, what was written, and both sides as traffic has left them.
struct Moved {
    sealed: Found,
    now: Found,
    written: transform::Copy,
    there: Records,
    cleared: BTreeSet<Component>,
}

impl Moved {
    /// `heard` and `sent`: frames on the target since.
    fn new(seed: u64, mode: SessionMode, cleared: BTreeSet<Component>, heard: u64, sent: u64) -> Self {
        let sealed = generated(seed);
        let all = Wishes { allowed: Kind::ALL.to_vec(), ..wishes(mode) };
        let written = transform::device(&sealed, &facts(), &all).copy;
        let mut there = Records::default();
        for component in written.components().collect::<Vec<_>>() {
            let write = written.get(component).expect("it is written");
            let mut message = path::project(&write.message, &write.paths);
            path::apply(&mut message, &write.message, &["ids", transform::STARTED_AT]);
            *there.slot(component) = Some(Record(message));
        }
        if let Some(Record(ns)) = &mut there.ns
            && path::has(ns, "session")
        {
            raise(ns, "session.last_f_cnt_up", heard);
            raise(ns, "session.last_n_f_cnt_down", sent);
        }
        if let Some(Record(js)) = &mut there.js {
            raise(js, "last_join_nonce", sent);
        }
        let mut now = sealed.clone();
        for component in &cleared {
            *now.records.slot(*component) = None;
        }
        if let Some(Record(ns)) = &mut now.records.ns {
            path::set_wrapped(ns, MUTE, Value::Bool(false));
        }
        Self { sealed, now, written, there, cleared }
    }

    fn decide(&self) -> Result<Back, Box<Finding>> {
        let sides = Sides {
            written: &self.written,
            sealed: &self.sealed,
            now: &self.now,
            there: &self.there,
            cleared: &self.cleared,
            gone: &self.cleared,
        };
        let source = TargetFacts { hosts: self.sealed.hosts.clone(), ..facts() };
        back::decide(&sides, &source, &AppId::unchecked("source-app"), &DeviceId::unchecked("meter"))
    }
}

fn raise(message: &mut DynamicMessage, at: &str, by: u64) {
    let n = u32::try_from(path::number(message, at) + by).unwrap_or(u32::MAX);
    path::set(message, at, Value::U32(n));
}

/// What the source holds of a component after the rollback.
fn restored(moved: &Moved, back: &Back, component: Component) -> Option<DynamicMessage> {
    let mut record = moved.now.records.get(component).map(|r| r.0.clone());
    if let Some(write) = back.copy.get(component) {
        let into = record.get_or_insert_with(|| proto::message("EndDevice"));
        path::apply(into, &write.message, &write.paths);
        path::apply(into, &write.message, &[transform::STARTED_AT]);
    }
    record
}

fn cleared() -> impl Strategy<Value = BTreeSet<Component>> {
    let keys = [Component::Js, Component::As, Component::Ns];
    prop_oneof![Just(BTreeSet::new()), Just(keys.into()), Just(Component::ALL.into())]
}

fn session() -> impl Strategy<Value = SessionMode> {
    prop_oneof![Just(SessionMode::Keep), Just(SessionMode::Drop)]
}

/// Only what there is can be cleared.
fn there_is(seed: u64, cleared: BTreeSet<Component>) -> BTreeSet<Component> {
    let found = generated(seed);
    cleared.into_iter().filter(|c| found.records.get(*c).is_some()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn everything_that_was_cleared_comes_back(seed in 0u64..4000, mode in session(), c in cleared()) {
        let moved = Moved::new(seed, mode, there_is(seed, c), 0, 0);
        let Ok(back) = moved.decide() else { return Ok(()) };
        for component in &moved.cleared {
            let before = &moved.sealed.records.get(*component).expect("it was there").0;
            let after = restored(&moved, &back, *component).expect("it is restored");
            let mut paths = owner::writable(*component);
            paths.retain(|p| !path::covers("pending_session", p) && !path::covers("pending_mac_state", p));
            paths.retain(|p| !path::covers("picture", p) && !path::covers(MUTE, p.trim_end_matches(".value")));
            let lost = crate::map::diff::diff(&path::project(before, &paths), &path::project(&after, &paths));
            let lost: Vec<_> = lost
                .into_iter()
                .map(|d| d.path)
                .filter(|p| !back.findings.iter().any(|f| f.paths.iter().any(|q| path::covers(q, p))))
                // Only a join gives a key ID.
                .filter(|p| p != "session.keys.session_key_id" || path::flag(before, "supports_join"))
                .collect();
            prop_assert!(lost.is_empty(), "{} of seed {}: {:?}", component, seed, lost);
        }
    }

    #[test]
    fn nothing_is_written_where_nothing_has_happened(seed in 0u64..4000, mode in session()) {
        let moved = Moved::new(seed, mode, BTreeSet::new(), 0, 0);
        let Ok(back) = moved.decide() else { return Ok(()) };
        prop_assert!(back.restore.is_empty(), "{:?}", back.restore);
    }

    #[test]
    fn no_counter_and_no_nonce_goes_back(
        seed in 0u64..4000,
        c in cleared(),
        heard in 0u64..9,
        sent in 0u64..9,
        meanwhile in 0u64..9,
    ) {
        let mut moved = Moved::new(seed, SessionMode::Keep, there_is(seed, c), heard, sent);
        if let Some(Record(ns)) = &mut moved.now.records.ns
            && path::has(ns, "session")
        {
            raise(ns, "session.last_f_cnt_up", meanwhile);
        }
        let Ok(back) = moved.decide() else { return Ok(()) };
        let ns = restored(&moved, &back, Component::Ns);
        let resets = ns.as_ref().is_some_and(|ns| path::flag(ns, "mac_settings.resets_f_cnt"));
        let js = restored(&moved, &back, Component::Js);
        let counters = compare::COUNTERS.iter().filter(|_| !resets).map(|p| (Component::Ns, *p, &ns));
        let nonces = compare::NONCES.iter().map(|p| (Component::Js, *p, &js));
        for (component, at, after) in counters.chain(nonces) {
            let Some(after) = after else { continue };
            let sides = [moved.there.get(component), moved.now.records.get(component)];
            for side in sides.into_iter().flatten() {
                prop_assert!(path::number(after, at) >= path::number(&side.0, at), "{} of seed {}", at, seed);
            }
        }
        if let (Some(js), Some(there)) = (&js, &moved.there.js) {
            prop_assert!(compare::used_nonces(js).is_superset(&compare::used_nonces(&there.0)));
        }
    }

    /// What is written is enough: once the source holds it, nothing is behind any more.
    #[test]
    fn what_is_written_is_enough(seed in 0u64..4000, c in cleared(), heard in 0u64..9, sent in 0u64..9) {
        let moved = Moved::new(seed, SessionMode::Keep, there_is(seed, c), heard, sent);
        let Ok(back) = moved.decide() else { return Ok(()) };
        for component in &back.restore {
            let write = back.copy.get(*component).expect("it is written");
            let after = Record(restored(&moved, &back, *component).expect("it is there"));
            prop_assert!(!compare::is_behind(*component, write, &after, false), "{} of seed {}", component, seed);
        }
    }

    /// The source is live only once the target is gone: a record that is made again is made muted.
    #[test]
    fn a_restored_record_is_muted(seed in 0u64..4000, mode in session()) {
        let moved = Moved::new(seed, mode, there_is(seed, Component::ALL.into()), 1, 1);
        let Ok(back) = moved.decide() else { return Ok(()) };
        if let Some(write) = &back.copy.ns {
            prop_assert_eq!(path::wrapped_flag(&write.message, MUTE), Some(false));
            prop_assert!(write.paths.iter().any(|p| path::covers(p, MUTE)));
        }
    }
}

#[test]
fn most_generated_devices_can_come_back() {
    let back = (0..300).filter(|seed| {
        let moved = Moved::new(*seed, SessionMode::Keep, there_is(*seed, Component::ALL.into()), 1, 1);
        moved.decide().is_ok()
    });
    let back = back.count();
    assert!(back > 200, "{back} of 300: the properties above say little");
}

#[test]
fn a_join_that_no_uplink_followed_waits() {
    let mut moved = Moved::new(1, SessionMode::Drop, BTreeSet::new(), 0, 0);
    let ns = moved.there.ns.get_or_insert_with(|| Record(proto::message("EndDevice")));
    path::set(&mut ns.0, "pending_session.dev_addr", bytes(&[1, 2, 3, 4]));
    let finding = moved.decide().expect_err("it waits");
    assert_eq!(finding.kind, Kind::PendingSession);
    assert_eq!(finding.severity, crate::plan::finding::Severity::Wait);
}

#[test]
fn what_somebody_did_to_the_source_keeps_the_device_on_the_target() {
    // Registered anew where it was cleared.
    let mut moved = Moved::new(2, SessionMode::Keep, there_is(2, [Component::As].into()), 0, 0);
    moved.now.records.as_ = moved.sealed.records.as_.clone();
    assert_eq!(moved.decide().expect_err("it stays").kind, Kind::ChangedMeanwhile);
    // Removed where it was not.
    let mut moved = Moved::new(2, SessionMode::Keep, BTreeSet::new(), 0, 0);
    moved.now.records.as_ = None;
    assert_eq!(moved.decide().expect_err("it stays").kind, Kind::ChangedMeanwhile);
}
