//! Devices that are registered in some of the components only, or elsewhere.

use super::*;
use crate::plan::{
    finding::Severity,
    session::{Activation, Carry},
};

/// The device of this seed with the records of a subset of components: bit 0 IS, 1 JS, 2 AS, 3 NS.
fn subset(seed: u64, bits: usize) -> Found {
    let mut found = generated(seed);
    for (i, component) in Component::ALL.into_iter().enumerate() {
        if bits & (1 << i) == 0 {
            *found.records.slot(component) = None;
        }
    }
    found
}

#[test]
fn each_of_the_fifteen_combinations_is_copied_as_it_is_and_reported() {
    for bits in 1..16_usize {
        let found = subset(0, bits);
        let there: Vec<_> = found.records.present().map(|(c, _)| c).collect();
        let has_js = there.contains(&Component::Js);
        let has_ns = there.contains(&Component::Ns);
        let mut wishes = wishes(SessionMode::Keep);
        wishes.allowed = Kind::ALL.iter().copied().filter(|k| !k.loss().is_empty()).collect();
        let done = transform::device(&found, &facts(), &wishes);
        assert_eq!(done.copy.components().collect::<Vec<_>>(), there, "{bits:04b}");
        let blocks: Vec<_> = done.findings.iter().filter(|f| f.blocks()).map(|f| f.kind).collect();
        assert_eq!(blocks, Vec::<Kind>::new(), "{bits:04b}");

        let strict = transform(&found, SessionMode::Keep);
        assert_eq!(has(&strict.findings, Kind::Partial), bits != 15, "{bits:04b}");
        if let Some(partial) = strict.findings.iter().find(|f| f.kind == Kind::Partial) {
            for component in Component::ALL {
                let named =
                    partial.text.split(':').next().is_some_and(|t| t.contains(&component.to_string()));
                assert_eq!(named, !there.contains(&component), "{bits:04b} {component}");
            }
        }
        assert_eq!(has(&strict.findings, Kind::ClearWithoutMute), has_js && !has_ns, "{bits:04b}");
        assert_eq!(has(&strict.findings, Kind::RootKeys), has_ns && !has_js, "{bits:04b}");
        let no_as = has_ns && !there.contains(&Component::As);
        assert_eq!(has(&strict.findings, Kind::AppSessionMissing), no_as, "{bits:04b}");
        let activation = if has_ns { Activation::Otaa } else { Activation::Unknown };
        assert_eq!(strict.activation, activation, "{bits:04b}");
    }
}

#[test]
fn personalized_devices_need_no_join_server_record() {
    for seed in [3, 4] {
        assert!(!has(&transform(&generated(seed), SessionMode::Keep).findings, Kind::Partial));
        let found = subset(seed, 0b1001);
        let done = transform(&found, SessionMode::Keep);
        let partial = done.findings.iter().find(|f| f.kind == Kind::Partial).expect("a finding");
        assert!(partial.text.starts_with("no record in AS:"), "{}", partial.text);
    }
}

#[test]
fn a_record_on_a_host_that_was_not_asked_stops_the_device() {
    let mut found = subset(0, 0b0111);
    found.elsewhere = vec![(Component::Ns, "other.example".to_owned())];
    let mut wishes = wishes(SessionMode::Keep);
    wishes.allowed = Kind::ALL.to_vec();
    let done = transform::device(&found, &facts(), &wishes);
    let finding = done.findings.iter().find(|f| f.kind == Kind::OtherCluster).expect("a finding");
    assert!(finding.blocks() && finding.text.contains("other.example"));
    assert!(!has(&done.findings, Kind::Partial), "it is not absent");
}

#[test]
fn an_external_join_server_stays_where_it_is() {
    let mut found = generated(0);
    found.external_js = true;
    path::set(is(&mut found), "join_server_address", text("js.example:8884"));
    let done = transform(&found, SessionMode::Drop);
    assert!(done.copy.js.is_none());
    assert_eq!(done.keep_at_source, [Component::Js]);
    let address = path::string(&done.copy.is.as_ref().expect("IS").message, "join_server_address");
    assert_eq!(address, "js.example:8884");
    let finding = done.findings.iter().find(|f| f.kind == Kind::ExternalJoinServer).expect("a finding");
    assert_eq!(finding.severity, Severity::Stop);
    assert_eq!(finding.paths, ["network_server_address", "application_server_address"]);
    assert!(!has(&done.findings, Kind::ClearWithoutMute));

    for field in ["network_server_address", "application_server_address"] {
        path::set(js(&mut found), field, text("TARGET.example:8884"));
    }
    path::clear(js(&mut found), "root_keys");
    let done = transform(&found, SessionMode::Drop);
    assert!(!done.findings.iter().any(Finding::blocks), "{:?}", done.findings);
    found.records.js = None;
    assert!(has(&transform(&found, SessionMode::Drop).findings, Kind::Unjoinable), "nobody has its keys");
}

#[test]
fn a_join_server_record_where_none_was_expected_is_told() {
    let mut found = generated(0);
    path::set(is(&mut found), "join_server_address", text("js.example"));
    let done = transform(&found, SessionMode::Keep);
    let finding = done.findings.iter().find(|f| f.kind == Kind::OtherCluster).expect("a finding");
    assert_eq!(finding.severity, Severity::Warning);
}

#[test]
fn euis_that_differ_are_told() {
    let mut found = generated(0);
    assert!(!has(&transform(&found, SessionMode::Keep).findings, Kind::EuisDiffer));
    path::set(js(&mut found), "ids.join_eui", bytes(&[5; 8]));
    let done = transform(&found, SessionMode::Keep);
    let finding = done.findings.iter().find(|f| f.kind == Kind::EuisDiffer).expect("a finding");
    assert_eq!(finding.paths, ["ids.join_eui"]);
    let js = done.copy.js.expect("JS").message;
    assert_eq!(path::bytes(&js, "ids.join_eui"), [5; 8], "each record keeps its own");
}

#[test]
fn root_keys_that_no_snapshot_can_hold_stay_at_the_source() {
    let mut found = generated(0);
    path::clear(js(&mut found), "root_keys");
    path::set(js(&mut found), "root_keys.app_key.encrypted_key", bytes(&[3; 24]));
    let done = transform(&found, SessionMode::Keep);
    assert_eq!((done.carry, done.keep_at_source), (Carry::Keep, vec![Component::Js]));
}

#[test]
fn without_network_server_record_unreadable_root_keys_can_never_be_moved() {
    let mut found = subset(0, 0b0111);
    path::clear(js(&mut found), "root_keys");
    let mut wishes = wishes(SessionMode::Keep);
    wishes.allowed = Kind::ALL.to_vec();
    let done = transform::device(&found, &facts(), &wishes);
    let stops: Vec<_> = done.findings.iter().filter(|f| f.blocks()).map(|f| f.kind).collect();
    assert_eq!(stops, [Kind::Unjoinable], "clearing its keys first would lose them for good");
}
