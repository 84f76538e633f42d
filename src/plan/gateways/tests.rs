use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{hearing::Heard, *};
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

fn device(id: &str, carry: Carry, outside: bool) -> DevicePlan {
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
    }
}

#[test]
fn the_worst_devices_are_named_first_and_the_rest_is_counted() {
    let heard = |id: &str| Heard { gateways: [id.to_owned()].into(), broker: false };
    let devices: Vec<_> = (0..9).map(|n| device(&format!("dev-{n}"), Carry::Keep, n > 5)).collect();
    let all = devices.iter().map(|d| (d.id.to_string(), heard("elsewhere"))).collect();
    let moving: BTreeSet<_> = ["roof-1".to_owned()].into();
    let findings = hearing::findings(&devices, &all, &moving);
    let [summary, worst] = findings.as_slice() else { panic!("{findings:?}") };
    assert!(summary.text.contains("of 9 devices") && summary.severity == Severity::Note, "{summary}");
    let names = "dev-6 (elsewhere), dev-7 (elsewhere), dev-8 (elsewhere), dev-0 (elsewhere) and 5 more";
    assert!(worst.text.contains("of which 3 have") && worst.text.ends_with(names), "{worst}");
    let joins: Vec<_> = (0..9).map(|n| device(&format!("dev-{n}"), Carry::Drop, false)).collect();
    assert_eq!(
        hearing::findings(&joins, &all, &moving).len(),
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
