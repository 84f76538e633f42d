//! References between relays and the devices that they serve follow the IDs of the copies.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{
        back::{self, Sides},
        relay,
    },
    *,
};
use crate::model::{
    device::{Record, Records},
    ids::DeviceId,
};

const SERVING: &str = "mac_settings.relay.mode.served.serving_device_id";
const RULES: &str = "mac_state.desired_parameters.relay.mode.serving.uplink_forwarding_rules";

/// Every field of `EndDevice`, at any depth, whose name says that it holds a device's ID.
fn id_fields(descriptor: &MessageDescriptor, seen: &mut BTreeSet<String>, found: &mut BTreeSet<String>) {
    if !seen.insert(descriptor.full_name().to_owned()) {
        return;
    }
    for field in descriptor.fields() {
        match field.kind() {
            Type::Message(inner) => id_fields(&inner, seen, found),
            Type::String if field.name().contains("device_id") => {
                let of = descriptor.full_name().trim_start_matches("ttn.lorawan.v3.");
                found.insert(format!("{of}.{}", field.name()));
            }
            _ => {}
        }
    }
}

#[test]
fn all_fields_that_name_a_device_are_known() {
    let mut found = BTreeSet::new();
    id_fields(&proto::descriptor("EndDevice"), &mut BTreeSet::new(), &mut found);
    let expected = [
        "EndDeviceIdentifiers.device_id",
        "MACCommand.RelayEndDeviceConfReq.Configuration.serving_device_id",
        "MACCommand.RelayUpdateUplinkListReq.device_id",
        "RelayUplinkForwardingRule.device_id",
        "ServedRelayParameters.serving_device_id",
        "ServedRelaySettings.serving_device_id",
    ];
    assert_eq!(found, expected.map(str::to_owned).into());
}

fn served_by(found: &mut Found, relay: &str) {
    for settings in ["mac_settings.relay", "mac_settings.desired_relay"] {
        path::clear(ns(found), settings);
        path::set(ns(found), &format!("{settings}.mode.served.serving_device_id"), text(relay));
        path::touch(ns(found), &format!("{settings}.mode.served.mode.always"));
    }
}

fn rule(device: &str) -> Value {
    let mut rule = proto::message("RelayUplinkForwardingRule");
    path::set(&mut rule, "device_id", text(device));
    Value::Message(rule)
}

/// One that serves two devices in its MAC state, and is served itself in its settings.
fn both(seed: u64) -> Found {
    let mut found = generated(seed);
    for of in ["current_parameters", "desired_parameters"] {
        let relay = format!("mac_state.{of}.relay");
        path::clear(ns(&mut found), &relay);
        let rules = vec![rule("meter-a"), rule(""), rule("meter-b")];
        path::set(
            ns(&mut found),
            &format!("{relay}.mode.serving.uplink_forwarding_rules"),
            Value::List(rules),
        );
    }
    for list in ["pending_requests", "queued_responses", "recent_uplinks", "recent_downlinks"] {
        path::clear(ns(&mut found), &format!("mac_state.{list}"));
    }
    served_by(&mut found, "roof");
    found
}

fn rules_of(message: &DynamicMessage) -> Vec<String> {
    let rules = path::get(message, RULES).map(std::borrow::Cow::into_owned);
    let rules = rules.and_then(|r| r.as_list().map(<[Value]>::to_vec)).unwrap_or_default();
    rules.iter().filter_map(Value::as_message).map(|rule| path::string(rule, "device_id")).collect()
}

fn renamed() -> (TargetFacts, Wishes) {
    let names = [("meter-a", "acme-a-2"), ("meter-b", "acme-meter-b"), ("roof", "eui-0102030405060708")];
    let along = names.map(|(from, to)| (from.to_owned(), to.to_owned())).into();
    let wishes = Wishes { id_prefix: "acme-".into(), ..wishes(SessionMode::Keep) };
    (TargetFacts { along, ..facts() }, wishes)
}

fn with_session(found: &Found) -> bool {
    found.records.ns.as_ref().is_some_and(|r| path::has(&r.0, "session") && path::has(&r.0, "mac_state"))
        && !path::flag(&found.records.ns.as_ref().expect("just seen").0, "multicast")
}

#[test]
fn references_follow_the_ids_of_the_copies() {
    let (facts, wishes) = renamed();
    let mut seen = 0;
    for found in (0..40).map(both).filter(with_session) {
        let done = transform::device(&found, &facts, &wishes);
        let written = &done.copy.ns.as_ref().expect("it has an NS record").message;
        assert_eq!(path::string(written, SERVING), "eui-0102030405060708");
        assert_eq!(rules_of(written), ["acme-a-2", "", "acme-meter-b"]);
        assert!(!has(&done.findings, Kind::RelayPeer), "{:?}", done.findings);
        let own = found.records.ns.as_ref().expect("it has an NS record").device_id();
        assert_eq!(
            path::string(written, "ids.device_id"),
            format!("acme-{own}"),
            "its own ID is none of them"
        );
        seen += 1;
    }
    assert!(seen > 5, "{seen} devices with a session");
}

#[test]
fn generated_references_are_those_of_the_source_by_the_rule() {
    let (facts, wishes) = renamed();
    for found in (0..60).map(generated) {
        let Some(record) = &found.records.ns else { continue };
        let mut expected = record.0.clone();
        // All of them stay behind: each is called as it would be if it came later.
        let finding = relay::follow(&mut expected, &facts, &wishes);
        let done = transform::device(&found, &facts, &wishes);
        let written = &done.copy.ns.as_ref().expect("it has an NS record").message;
        for at in path::stored(written).iter().filter(|p| p.contains("relay")) {
            assert_eq!(path::get(written, at), path::get(&expected, at), "{at}");
        }
        let named = done.findings.iter().find(|f| f.kind == Kind::RelayPeer);
        assert!(named.is_none() || finding.is_some());
    }
}

#[test]
fn who_does_not_move_along_is_named() {
    let (mut facts, wishes) = renamed();
    facts.along.remove("meter-b");
    facts.along.remove("roof");
    let found = (0..40).map(both).find(with_session).expect("one with a session");
    let done = transform::device(&found, &facts, &wishes);
    let finding = done.findings.iter().find(|f| f.kind == Kind::RelayPeer).expect("a finding");
    assert!(finding.text.contains("meter-b, roof") && !finding.text.contains("meter-a"), "{finding}");
    assert!(!finding.blocks());
    assert!(finding.paths.contains(&format!("{RULES}.2.device_id")), "{:?}", finding.paths);
    let written = &done.copy.ns.as_ref().expect("it has an NS record").message;
    assert_eq!(path::string(written, SERVING), "acme-roof", "as it would be called there");
}

/// The target has counted on; what it has of the MAC state comes back with the names of the source.
#[test]
fn the_way_back_gives_them_their_names_again() {
    let (facts, wishes) = renamed();
    let found = (0..40)
        .map(both)
        .find(|f| with_session(f) && path::flag(&f.records.ns.as_ref().expect("one").0, "supports_join"))
        .expect("one with a session");
    let written = transform::device(&found, &facts, &wishes).copy;
    let record = |c: Component| written.get(c).map(|w| Record(w.message.clone()));
    let mut there = Records {
        is: record(Component::Is),
        js: record(Component::Js),
        as_: record(Component::As),
        ns: None,
    };
    let mut live = written.ns.clone().expect("it has an NS record").message;
    let up = path::number(&live, "session.last_f_cnt_up");
    path::set(&mut live, "session.last_f_cnt_up", Value::U32(u32::try_from(up + 3).expect("small")));
    let down = path::number(&live, "session.last_n_f_cnt_down");
    path::set(&mut live, "session.last_n_f_cnt_down", Value::U32(u32::try_from(down + 1).expect("small")));
    path::set(&mut live, "mac_settings.schedule_downlinks.value", Value::Bool(false));
    there.ns = Some(Record(live));
    let none = BTreeSet::new();
    let sides =
        Sides { written: &written, sealed: &found, now: &found, there: &there, cleared: &none, gone: &none };
    let source = TargetFacts { along: BTreeMap::new(), ..super::facts() };
    let back = back::decide(&sides, &source, &AppId::unchecked("source-app"), &DeviceId::unchecked("relay"));
    let back = back.map_err(|finding| finding.to_string()).expect("it may return");
    let ns = &back.copy.ns.as_ref().expect("it has counted on").message;
    assert_eq!(rules_of(ns), ["meter-a", "", "meter-b"]);
}
