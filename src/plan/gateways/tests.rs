use std::collections::BTreeSet;

use proptest::prelude::*;
use prost_reflect::Value;

use super::{
    hearing::{Heard, LeftAlone},
    redirect::decide,
    transform::account,
    *,
};
use crate::{
    map::generate,
    plan::{
        DevicePlan,
        session::{Activation, Carry},
    },
    proto,
};

fn facts() -> Facts {
    Facts {
        gateway_server: "gs.example.com".into(),
        frequency_plans: ["EU_863_870_TTN".to_owned()].into(),
        one_deployment: false,
    }
}

fn found(seed: u64) -> Found {
    let uri = |p: &&str| !matches!(*p, "target_cups_uri" | "ids");
    let leaves = mask::leaves(GET).into_iter().filter(uri);
    let mut message = generate::valid("Gateway", leaves, seed);
    at::set(&mut message, "ids.gateway_id", Value::String("roof-1".into()));
    at::set(&mut message, "frequency_plan_ids", Value::List(vec![Value::String("EU_863_870_TTN".into())]));
    at::set(&mut message, "target_cups_uri", Value::String("https://cups.example.com".into()));
    Found { id: "roof-1".into(), message, secrets: true }
}

proptest! {
    /// S9: every stored path is written, in a finding, or the server's own.
    #[test]
    fn no_field_is_dropped_without_a_word(seed: u64, drop: prop::sample::Index) {
        let mut found = found(seed);
        let stored = at::stored(&found.message);
        let gone = &stored[drop.index(stored.len())];
        if !gone.starts_with("ids") {
            at::clear(&mut found.message, gone);
        }
        let decided = transform(&found, &facts(), &Wishes::default());
        let written = at::stored(&decided.write.message);
        let named: Vec<_> = decided.findings.iter().flat_map(|f| &f.paths).collect();
        for path in at::stored(&found.message) {
            // With which key a server encrypts a secret is its own.
            let nobody = CONTACTS.iter().any(|c| path.starts_with(c) && account(&found.message, c).is_none());
            let ok = nobody || written.contains(&path) || is_left(&path) || path.ends_with(".key_id")
                || named.iter().any(|n| at::covers(n, &path))
                || (path.starts_with("claim_authentication_code") && !at::has(&found.message, "claim_authentication_code.secret.value"));
            prop_assert!(ok, "{path} is neither written nor named");
        }
        prop_assert_eq!(differences(&decided.write, &decided.write.message), Vec::<String>::new());
        let blocked: Vec<_> = decided.findings.iter().filter(|f| f.blocks() && f.kind != Kind::SecretUnreadable).collect();
        prop_assert!(blocked.is_empty(), "{:?}", blocked);
    }

    /// A change of anything that is copied is seen when the target is read back.
    #[test]
    fn every_difference_is_seen(seed: u64, which: prop::sample::Index) {
        let found = found(seed);
        let decided = transform(&found, &facts(), &Wishes::default());
        let stored: Vec<_> = at::stored(&decided.write.message).into_iter().filter(|p| p != "ids.gateway_id").collect();
        let gone = &stored[which.index(stored.len())];
        let mut there = decided.write.message.clone();
        at::clear(&mut there, gone);
        prop_assert!(!differences(&decided.write, &there).is_empty(), "{gone}");
    }

    /// S7: no finding shows a secret.
    #[test]
    fn findings_show_no_secret(seed: u64) {
        let mut found = found(seed);
        for at in ["lbs_lns_secret.value", "claim_authentication_code.secret.value", "target_cups_key.value"] {
            at::set(&mut found.message, at, Value::Bytes(b"NNSXS.CANARY.CANARY".to_vec().into()));
        }
        let decided = transform(&found, &facts(), &Wishes::default());
        let said = format!("{:?}", decided.findings);
        prop_assert!(!said.contains("CANARY") && !said.contains("78, 78, 83"), "{said}");
    }
}

#[test]
fn a_plan_that_has_another_name_is_renamed() {
    let mut found = found(1);
    at::set(&mut found.message, "frequency_plan_ids", Value::List(vec![Value::String("EU".into())]));
    let blocked = transform(&found, &facts(), &Wishes::default());
    assert!(blocked.findings.iter().any(|f| f.kind == Kind::FrequencyPlan && f.blocks()));
    let wishes = Wishes {
        frequency_plans: [("EU".to_owned(), "EU_863_870_TTN".to_owned())].into(),
        ..Wishes::default()
    };
    let renamed = transform(&found, &facts(), &wishes);
    assert!(renamed.findings.iter().all(|f| f.kind != Kind::FrequencyPlan));
    let plans = at::get(&renamed.write.message, "frequency_plan_ids").map(std::borrow::Cow::into_owned);
    assert_eq!(plans, Some(Value::List(vec![Value::String("EU_863_870_TTN".into())])));
}

#[test]
fn a_secret_that_is_encrypted_stops_it_unless_the_loss_is_allowed() {
    let mut found = found(1);
    at::clear(&mut found.message, "lbs_lns_secret");
    at::set(&mut found.message, "lbs_lns_secret.key_id", Value::String("is-key".into()));
    let stops = |wishes: &Wishes| {
        transform(&found, &facts(), wishes)
            .findings
            .iter()
            .any(|f| f.kind == Kind::SecretUnreadable && f.blocks())
    };
    assert!(stops(&Wishes::default()));
    assert!(!stops(&Wishes { allowed: vec![Kind::SecretUnreadable], ..Wishes::default() }));
}

#[test]
fn what_no_gateway_has_is_the_same_as_what_a_server_answers_for_it() {
    let mut plain = found(1).message;
    for gone in ["frequency_plan_ids", "version_ids", "schedule_anytime_delay", "lrfhss"] {
        at::clear(&mut plain, gone);
    }
    let found = Found { id: "roof-1".into(), message: plain, secrets: true };
    let decided = transform(&found, &facts(), &Wishes::default());
    let mut there = decided.write.message.clone();
    at::set(&mut there, "frequency_plan_ids", Value::List(vec![Value::String(String::new())]));
    ["version_ids", "schedule_anytime_delay"].iter().for_each(|at| at::touch(&mut there, at));
    at::set(&mut there, "administrative_contact.user_ids.user_id", Value::String("owner".into()));
    assert_eq!(differences(&decided.write, &there), Vec::<String>::new());
}

fn device(id: &str, carry: Carry, outside: bool, heard: &str) -> DevicePlan {
    DevicePlan {
        id: crate::model::ids::DeviceId::unchecked(id),
        target_id: id.into(),
        activation: Activation::Abp,
        carry,
        components: Vec::new(),
        verdict: crate::plan::Verdict::Move,
        findings: outside.then(|| Finding::new(Kind::OutsidePrefixes, "")).into_iter().collect(),
        calls: 0,
        was_begun: false,
        heard: hears(heard),
    }
}

fn hears(gateway: &str) -> Heard {
    Heard { gateways: [gateway.to_owned()].into(), broker: false }
}

#[test]
fn the_worst_devices_are_named_first_and_the_rest_is_counted() {
    // A device that is reset by hand keeps its address, too.
    let carry = |n| if n == 6 { Carry::Reset } else { Carry::Keep };
    let devices: Vec<_> = (0..9).map(|n| device(&format!("dev-{n}"), carry(n), n > 5, "elsewhere")).collect();
    let none = LeftAlone::default();
    let moving: BTreeSet<_> = ["roof-1".to_owned()].into();
    let findings = hearing::findings(&devices, &moving, &none);
    let [summary, worst] = findings.as_slice() else { panic!("{findings:?}") };
    assert!(summary.text.contains("of 9 devices") && summary.severity == Severity::Note, "{summary}");
    let names = "dev-6 (elsewhere), dev-7 (elsewhere), dev-8 (elsewhere), dev-0 (elsewhere) and 5 more";
    assert!(worst.text.contains("of which 3 have") && worst.text.ends_with(names), "{worst}");
    let joins: Vec<_> =
        (0..9).map(|n| device(&format!("dev-{n}"), Carry::Drop, false, "elsewhere")).collect();
    assert_eq!(
        hearing::findings(&joins, &moving, &none).len(),
        1,
        "a device that joins again is heard wherever it is"
    );
}

#[test]
fn packet_broker_is_no_gateway() {
    let mut metadata = proto::message("MACState.UplinkMessage.RxMetadata");
    at::set(&mut metadata, "gateway_ids.gateway_id", Value::String("packetbroker".into()));
    at::touch(&mut metadata, "packet_broker");
    let mut uplink = proto::message("MACState.UplinkMessage");
    at::set(&mut uplink, "rx_metadata", Value::List(vec![Value::Message(metadata)]));
    let mut ns = proto::message("EndDevice");
    at::set(&mut ns, "mac_state.recent_uplinks", Value::List(vec![Value::Message(uplink)]));
    assert_eq!(Heard::of(&ns), Heard { gateways: BTreeSet::new(), broker: true });
}

#[test]
fn devices_that_the_run_leaves_alone_are_named_where_gateways_that_move_hear_them() {
    let moving: BTreeSet<_> = ["roof-1".to_owned()].into();
    let one = [device("dev-1", Carry::Drop, false, "roof-1")];
    let left = LeftAlone {
        heard: [("left-1", "roof-1"), ("left-2", "roof-2")].map(|(id, by)| (id.to_owned(), hears(by))).into(),
        devices: 7,
    };
    let findings = hearing::findings(&one, &moving, &left);
    let [_, served] = findings.as_slice() else { panic!("{findings:?}") };
    let text = "of 7 devices of the application that this run leaves alone, of 2 that were looked at 1 are heard by gateways \
                that move: left-1";
    assert_eq!(served.text, text);
    assert_eq!(hearing::findings(&one, &BTreeSet::new(), &left).len(), 1, "no gateway moves");
}

#[test]
fn of_v2_it_is_said_that_nobody_knows_who_hears_a_kept_session() {
    let of = |carry, moving| hearing::of_ttn_v2(&[device("dev-1", carry, true, "")], moving);
    let blind = of(Carry::Keep, 0).expect("a warning");
    assert!(
        blind.severity == Severity::Warning && blind.text.contains("1 of them with a DevAddr outside"),
        "{blind}"
    );
    assert_eq!(of(Carry::Keep, 2).map(|f| f.severity), Some(Severity::Note));
    assert_eq!(of(Carry::Drop, 0), None);
}

/// A gateway that the source's CUPS manages, and the wish to have it sent.
fn managed() -> (Found, Wishes) {
    let mut found = found(1);
    redirect::REDIRECT.iter().for_each(|field| at::clear(&mut found.message, field));
    at::set(&mut found.message, "lbs_lns_secret.value", Value::Bytes(b"NNSXS.CANARY.CANARY".to_vec().into()));
    attribute(&mut found.message, "cups-last-seen", "2026-11-25T12:00:00Z");
    let api_keys = vec![GatewayKey::Lns, GatewayKey::Cups];
    (found, Wishes { cups_redirect: true, api_keys, ..Wishes::default() })
}

fn attribute(gateway: &mut DynamicMessage, name: &str, value: &str) {
    let attributes = at::get(gateway, "attributes").map(std::borrow::Cow::into_owned);
    let mut attributes = attributes.as_ref().and_then(Value::as_map).cloned().unwrap_or_default();
    attributes.insert(prost_reflect::MapKey::String(name.into()), Value::String(value.into()));
    at::set(gateway, "attributes", Value::Map(attributes));
}

#[test]
fn a_gateway_that_cups_cannot_send_is_left_with_the_reason() {
    type Change = fn(&mut Found);
    let cases: [(&str, Change); 7] = [
        ("", |_| {}),
        // A new key for the source's own CUPS, which nobody has asked for yet, is in the way of nothing.
        ("", |found| {
            at::set(&mut found.message, "target_cups_key.value", Value::Bytes(b"new".to_vec().into()))
        }),
        ("another CUPS", |found| {
            at::set(&mut found.message, "target_cups_uri", Value::String("https://x:443".into()))
        }),
        ("says so already", |found| {
            at::set(
                &mut found.message,
                "target_cups_uri",
                Value::String("https://gs.example.com:443".into()),
            );
        }),
        ("no EUI", |found| at::clear(&mut found.message, "ids.eui")),
        ("never seen it", |found| at::clear(&mut found.message, "attributes")),
        ("no secret", |found| at::clear(&mut found.message, "lbs_lns_secret")),
    ];
    for (why, change) in cases {
        let (mut found, wishes) = managed();
        at::set(&mut found.message, "ids.eui", Value::Bytes(vec![1; 8].into()));
        change(&mut found);
        let decided = decide(&found, &facts(), &wishes);
        match decided.finding("roof-1") {
            None => assert!(decided == Redirect::Set && why.is_empty(), "{why}: {decided:?}"),
            Some(said) => {
                assert!(!why.is_empty() && said.text.contains(why) && !said.blocks(), "{why}: {said}")
            }
        }
        assert_eq!(decide(&found, &facts(), &Wishes::default()), Redirect::Off);
    }
}

#[test]
fn a_gateway_that_is_sent_gets_the_new_lns_key_whatever_it_had() {
    let (mut found, wishes) = managed();
    at::set(&mut found.message, "ids.eui", Value::Bytes(vec![1; 8].into()));
    at::set(&mut found.message, "lbs_lns_secret.value", Value::Bytes(b"a secret of its own".to_vec().into()));
    let decided = transform(&found, &facts(), &wishes);
    assert!(decided.lns_secret && !at::has(&decided.write.message, "lbs_lns_secret"));
    assert!(decided.findings.iter().any(|f| f.kind == Kind::Replaced && f.paths == ["lbs_lns_secret"]));
    let kept = transform(&found, &facts(), &Wishes { cups_redirect: false, ..wishes });
    assert!(!kept.lns_secret && at::has(&kept.write.message, "lbs_lns_secret"));
}

#[test]
fn what_servers_note_of_a_gateway_is_no_edit() {
    let (mut found, wishes) = managed();
    at::set(&mut found.message, "update_location_from_status", Value::Bool(true));
    let decided = transform(&found, &facts(), &wishes);
    let said = format!("{:?}", at::get(&decided.write.message, "attributes"));
    assert!(!said.contains("cups-last-seen"), "it is the source's: {said}");
    let was = Write { message: found.message.clone(), paths: Vec::new() };
    let mut now = found.message.clone();
    for name in ["cups-last-seen", "cups-station", "model", "firmware"] {
        attribute(&mut now, name, "later");
    }
    at::clear(&mut now, "antennas");
    assert_eq!(edited(&was, &now), Vec::<String>::new());
    assert!(!differences(&was, &now).is_empty(), "but a copy has to be equal");
    attribute(&mut now, "site", "another");
    assert_eq!(edited(&was, &now), ["attributes.site"]);
}

#[test]
fn address_and_key_of_cups_go_there_and_back_together() {
    let (mut found, _) = managed();
    let there = redirect::there("roof-1", "fd00::1", "NNSXS.CANARY.CANARY");
    assert_eq!(at::string(&there.message, "target_cups_uri"), "https://[fd00::1]:443");
    assert!(redirect::is_so(&there, &there.message) && !redirect::is_so(&there, &found.message));
    let back = redirect::back(&found.message);
    assert!(redirect::is_so(&back, &found.message) && back.paths == there.paths);
    at::set(&mut found.message, "target_cups_key.value", Value::Bytes(b"rotated".to_vec().into()));
    assert!(!redirect::is_so(&back, &found.message));
    assert!(
        redirect::is_so(&redirect::back(&found.message), &found.message),
        "a new key of the source's own comes back"
    );
}
