//! What becomes of a session: the table of DESIGN.md's rules, one row a test case.

use proptest::prelude::*;

use super::*;
use crate::{
    map::generate::Variant,
    plan::{
        finding::Severity,
        session::{Activation, Carry},
    },
};

fn decided(seed: u64, mode: SessionMode, inside: bool, reset: bool) -> Transformed {
    let found = generated(seed);
    let mut wishes = wishes(mode);
    wishes.allowed = vec![Kind::PendingSession];
    if reset {
        wishes.abp_reset.insert(transform::device_id(&found));
    }
    transform::device(&found, &if inside { facts() } else { foreign() }, &wishes)
}

fn expected(activation: Activation, mode: SessionMode, inside: bool, reset: bool) -> Carry {
    match (activation, mode) {
        (Activation::Abp | Activation::Multicast, _) if reset => Carry::Reset,
        (Activation::Abp | Activation::Multicast, _) => Carry::Keep,
        (_, SessionMode::Keep) => Carry::Keep,
        (_, SessionMode::Auto) if inside => Carry::Keep,
        _ => Carry::Drop,
    }
}

#[test]
fn the_table_of_session_decisions() {
    for seed in 0..5 {
        let activation = match Variant::of(seed) {
            Variant::Abp => Activation::Abp,
            Variant::Multicast => Activation::Multicast,
            _ => Activation::Otaa,
        };
        for mode in [SessionMode::Keep, SessionMode::Drop, SessionMode::Auto] {
            for (inside, reset) in [(true, false), (true, true), (false, false), (false, true)] {
                let done = decided(seed, mode, inside, reset);
                let row = format!("{activation:?} {mode:?} inside {inside} reset {reset}");
                assert_eq!(done.activation, activation, "{row}");
                let carry = expected(activation, mode, inside, reset);
                assert_eq!(done.carry, carry, "{row}");
                holds_what_was_decided(&done, &row);
                let goes = matches!(carry, Carry::Keep | Carry::Reset);
                assert_eq!(has(&done.findings, Kind::OutsidePrefixes), goes && !inside, "{row}");
                assert_eq!(has(&done.findings, Kind::SessionDropped), carry == Carry::Drop, "{row}");
                assert_eq!(has(&done.findings, Kind::CountersReset), carry == Carry::Reset, "{row}");
                assert_eq!(
                    has(&done.findings, Kind::NotReset),
                    reset && activation == Activation::Otaa,
                    "{row}"
                );
                let stops: Vec<_> = done.findings.iter().filter(|f| f.blocks()).collect();
                assert!(stops.is_empty(), "{row}: {stops:?}");
            }
        }
    }
}

fn holds_what_was_decided(done: &Transformed, row: &str) {
    let ns = &done.copy.ns.as_ref().expect("NS").message;
    let as_ = &done.copy.as_.as_ref().expect("AS").message;
    let ns_holds = |p: &str| path::has(ns, p);
    let as_holds = |p: &str| path::has(as_, p);
    match done.carry {
        Carry::Keep => {
            assert!(
                ns_holds("session.dev_addr") && ns_holds("mac_state") && ns_holds("ids.dev_addr"),
                "{row}"
            );
            assert!(as_holds("session.keys.app_s_key.key") && as_holds("session.last_a_f_cnt_down"), "{row}");
            assert!(ns_holds("session.last_n_f_cnt_down") && ns_holds("session.started_at"), "{row}");
        }
        Carry::Reset => {
            assert!(
                ns_holds("session.keys.f_nwk_s_int_key.key") && as_holds("session.keys.app_s_key.key"),
                "{row}"
            );
            assert!(path::flag(ns, "mac_settings.resets_f_cnt"), "{row}");
            for p in ["mac_state", "session.last_f_cnt_up", "session.last_n_f_cnt_down", "session.started_at"]
            {
                assert!(!ns_holds(p), "{row}: {p}");
            }
            assert!(!as_holds("session.last_a_f_cnt_down"), "{row}");
        }
        Carry::Drop | Carry::Nothing => {
            for p in ["session", "mac_state", "ids.dev_addr"] {
                assert!(!ns_holds(p) && !as_holds(p), "{row}: {p}");
            }
            let js = &done.copy.js.as_ref().expect("JS").message;
            assert!(path::has(js, "root_keys.app_key.key") && path::has(js, "last_join_nonce"), "{row}");
        }
    }
    assert!(!ns_holds("pending_session") && !ns_holds("pending_mac_state"), "{row}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_personalized_session_keeps_its_counters_whatever_the_mode(round in 0_u64..1000, multicast: bool, drop: bool) {
        let seed = round * 5 + if multicast { 4 } else { 3 };
        let mode = if drop { SessionMode::Drop } else { SessionMode::Auto };
        let found = generated(seed);
        let done = transform::device(&found, &foreign(), &wishes(mode));
        prop_assert_eq!(done.carry, Carry::Keep);
        let (was, is) = (&found.records.ns.as_ref().expect("NS").0, &done.copy.ns.as_ref().expect("NS").message);
        for p in ["session.last_f_cnt_up", "session.last_n_f_cnt_down", "session.last_conf_f_cnt_down", "mac_state"] {
            prop_assert_eq!(path::get(was, p), path::get(is, p), "{}", p);
        }
        prop_assert!(!path::flag(is, "mac_settings.resets_f_cnt") || path::flag(was, "mac_settings.resets_f_cnt"));
    }
}

#[test]
fn a_session_without_readable_keys_stops_the_device() {
    for key in ["session.keys.app_s_key", "session.keys.f_nwk_s_int_key"] {
        for wrapped in [false, true] {
            let mut found = generated(0);
            let record = if key.contains("app") { as_(&mut found) } else { ns(&mut found) };
            path::clear(record, key);
            if wrapped {
                path::set(record, &format!("{key}.encrypted_key"), bytes(&[3; 24]));
                path::set(record, &format!("{key}.kek_label"), text("kek-7"));
            }
            let done = transform(&found, SessionMode::Keep);
            let finding = done.findings.iter().find(|f| f.kind == Kind::AppKeyUnreadable).expect("a finding");
            assert_eq!((finding.severity, &finding.paths[..]), (Severity::Stop, &[key.to_owned()][..]));
            assert!(!has(&transform(&found, SessionMode::Drop).findings, Kind::AppKeyUnreadable));
        }
    }
}

#[test]
fn lorawan_1_1_needs_its_three_network_keys_and_both_root_keys() {
    for key in ["s_nwk_s_int_key", "nwk_s_enc_key"] {
        let mut found = generated(1);
        path::clear(ns(&mut found), &format!("session.keys.{key}"));
        assert!(has(&transform(&found, SessionMode::Keep).findings, Kind::AppKeyUnreadable), "{key}");
    }
    for (seed, key, lacks) in
        [(1, "nwk_key", true), (1, "app_key", true), (0, "nwk_key", false), (0, "app_key", true)]
    {
        let mut found = generated(seed);
        path::clear(js(&mut found), &format!("root_keys.{key}"));
        assert_eq!(
            has(&transform(&found, SessionMode::Keep).findings, Kind::RootKeys),
            lacks,
            "{seed} {key}"
        );
    }
}

#[test]
fn sessions_that_differ_or_miss_stop_the_device() {
    let mut found = generated(0);
    path::set(as_(&mut found), "session.keys.session_key_id", bytes(&[1; 16]));
    assert!(has(&transform(&found, SessionMode::Keep).findings, Kind::SessionMismatch));
    let mut found = generated(0);
    path::set(as_(&mut found), "session.dev_addr", bytes(&[1; 4]));
    assert!(has(&transform(&found, SessionMode::Keep).findings, Kind::SessionMismatch));
    path::clear(as_(&mut found), "session");
    let done = transform(&found, SessionMode::Keep);
    assert!(has(&done.findings, Kind::AppSessionMissing) && !has(&done.findings, Kind::SessionMismatch));
    assert!(!done.findings.iter().any(|f| f.kind == Kind::SessionMismatch));
}

#[test]
fn a_device_without_root_keys_is_never_copied_as_joinable() {
    let mut found = generated(0);
    path::clear(js(&mut found), "root_keys");
    let mut wishes = wishes(SessionMode::Keep);
    wishes.allowed = Kind::ALL.to_vec();
    let kept = transform::device(&found, &facts(), &wishes);
    let finding = kept.findings.iter().find(|f| f.kind == Kind::RootKeys).expect("a finding");
    assert!(finding.text.contains("70B3D57ED0000001") && finding.severity == Severity::Warning, "{finding}");
    assert!(kept.copy.js.is_none() && kept.keep_at_source == [Component::Js]);
    let is = kept.copy.is.expect("IS");
    assert!(!path::has(&is.message, "join_server_address"));

    wishes.session = SessionMode::Drop;
    let dropped = transform::device(&found, &facts(), &wishes);
    let finding = dropped.findings.iter().find(|f| f.kind == Kind::Unjoinable).expect("a finding");
    assert!(
        finding.blocks(),
        "without session and keys it would never be heard: no loss that can be allowed"
    );
}

#[test]
fn a_join_whose_accept_was_not_sent_is_left_and_one_whose_was_is_waited_for() {
    let mut found = generated(2);
    path::clear(ns(&mut found), "pending_session");
    let queued = transform(&found, SessionMode::Keep);
    assert!(
        has(&queued.findings, Kind::PendingJoin),
        "before the accept is sent there is no pending session"
    );
    assert!(!queued.findings.iter().any(Finding::blocks));

    let mut found = generated(2);
    path::clear(ns(&mut found), "pending_mac_state.queued_join_accept");
    let sent = transform(&found, SessionMode::Keep);
    let finding = sent.findings.iter().find(|f| f.kind == Kind::PendingSession).expect("a finding");
    assert_eq!(finding.severity, Severity::Wait);
}

#[test]
fn a_session_of_the_application_server_alone() {
    let mut found = generated(0);
    path::clear(ns(&mut found), "session");
    path::clear(ns(&mut found), "mac_state");
    let stale = transform(&found, SessionMode::Keep);
    assert_eq!(stale.carry, Carry::Nothing);
    assert!(
        stale.findings.iter().any(|f| f.component == Some(Component::As) && f.kind == Kind::SessionDropped)
    );

    found.records.ns = None;
    assert_eq!(transform(&found, SessionMode::Keep).carry, Carry::Keep);
    assert_eq!(transform(&found, SessionMode::Drop).carry, Carry::Nothing);
    found.records.js = None;
    assert_eq!(transform(&found, SessionMode::Drop).carry, Carry::Keep, "nothing says that it can join");
    path::clear(as_(&mut found), "session.keys.app_s_key");
    assert!(has(&transform(&found, SessionMode::Keep).findings, Kind::AppKeyUnreadable));
}

#[test]
fn the_session_key_id_of_a_device_that_never_joined_is_refused_so_it_stays() {
    let mut found = generated(3);
    for record in [ns(&mut found).clone(), as_(&mut found).clone()] {
        assert!(!path::has(&record, "session.keys.session_key_id"));
    }
    path::set(ns(&mut found), "session.keys.session_key_id", bytes(&[9; 16]));
    path::set(as_(&mut found), "session.keys.session_key_id", bytes(&[9; 16]));
    let done = transform(&found, SessionMode::Keep);
    assert!(!done.findings.iter().any(Finding::blocks));
    for component in [Component::Ns, Component::As] {
        let write = done.copy.get(component).expect("written");
        assert!(!path::has(&write.message, "session.keys.session_key_id"));
        let told = |f: &Finding| f.component == Some(component) && f.paths == ["session.keys.session_key_id"];
        assert!(done.findings.iter().any(told));
    }
}

#[test]
fn a_kept_session_does_not_change_its_frequency_plan() {
    let found = generated(0);
    let mut wishes = wishes(SessionMode::Keep);
    wishes.frequency_plans = [(PLAN.to_owned(), "EU_OTHER".to_owned())].into();
    let mut facts = facts();
    facts.frequency_plans.insert("EU_OTHER".to_owned(), "EU_863_870".to_owned());
    let kept = transform::device(&found, &facts, &wishes);
    assert!(has(&kept.findings, Kind::SessionPlanChange));
    wishes.session = SessionMode::Drop;
    let dropped = transform::device(&found, &facts, &wishes);
    assert!(!has(&dropped.findings, Kind::SessionPlanChange));
    assert_eq!(path::string(&dropped.copy.ns.expect("NS").message, "frequency_plan_id"), "EU_OTHER");
}

#[test]
fn a_device_that_does_not_fit_the_target_is_stopped() {
    let found = generated(0);
    let mut facts = facts();
    facts.phy_versions.insert("EU_863_870".to_owned(), [1].into());
    assert!(has(&transform::device(&found, &facts, &wishes(SessionMode::Drop)).findings, Kind::PhyVersion));
    facts.frequency_plans = [("EU_863_870_X".to_owned(), "EU_863_870".to_owned())].into();
    let done = transform::device(&found, &facts, &wishes(SessionMode::Drop));
    let finding = done.findings.iter().find(|f| f.kind == Kind::FrequencyPlan).expect("a finding");
    assert!(finding.fix.contains("EU_863_870_X"), "{}", finding.fix);
    facts.join_eui_prefixes = vec![(Eui64([1; 8]), 64)];
    assert!(has(
        &transform::device(&found, &facts, &wishes(SessionMode::Drop)).findings,
        Kind::JoinEuiNotServed
    ));
}

#[test]
fn defaults_that_differ_are_told_for_kept_sessions_unless_the_device_has_its_own() {
    let mut found = generated(0);
    path::clear(ns(&mut found), "mac_settings");
    let phy = path::number(ns(&mut found), "lorawan_phy_version") as i32;
    let (mut ours, theirs) = (proto::message("MACSettings"), proto::message("MACSettings"));
    path::set_wrapped(&mut ours, "desired_rx1_delay", Value::EnumNumber(5));
    let mut facts = facts();
    facts.mac_defaults.insert((PLAN.to_owned(), phy), (ours, theirs));
    let differ = |found: &Found, mode| {
        transform::device(found, &facts, &wishes(mode))
            .findings
            .into_iter()
            .find(|f| f.kind == Kind::DefaultsDiffer)
    };
    assert_eq!(
        differ(&found, SessionMode::Keep).expect("a finding").paths,
        ["mac_settings.desired_rx1_delay"]
    );
    assert_eq!(differ(&found, SessionMode::Drop), None);
    path::set_wrapped(ns(&mut found), "mac_settings.desired_rx1_delay", Value::EnumNumber(1));
    assert_eq!(differ(&found, SessionMode::Keep), None);
}
