//! The whole fleet of a real listing, with the odd devices in it.

use prost_reflect::{DynamicMessage, MapKey, Value};
use stackferry::{
    map::{path, ttn_v2::is_cleared},
    rehearsal::store::Table,
};

use crate::world::{
    is_muted,
    v2::{KINDS, PLAIN, V2_APP, V2World, WatchedV2},
};

/// IDs that The Things Stack does not take are renamed; a description that is too long may be lost.
const ALL: &str = r#"
[[application]]
source = "fleet-v2"

[transform]
frequency-plan = { default = "EU_863_870_TTN" }
device-id = { rename = "auto" }
allow-loss = ["long-description"]
"#;

/// What no configuration lets go: no keys at all, and a template.
const ODD: [&str; 2] = ["bare", "roj-template"];

#[test]
fn a_fleet_moves_and_a_second_run_writes_nothing() {
    let world = V2World::fleet();
    world.config(ALL);
    let ids = world.ids();
    let ran = world.run().expect(3);
    for finding in ["no-keys", "join-template", "dev-eui-twice", "not-copied"] {
        assert!(ran.said().contains(finding), "{finding} is not said:\n{}", ran.said());
    }
    for id in ids.iter().filter(|id| !ODD.contains(&id.as_str())) {
        let device = world.device(id).expect("nothing is deleted");
        assert!(is_cleared(device.message(), false), "{id} has its AppKey still");
    }
    assert_eq!(world.target_keys(Table::Is).len(), ids.len() - ODD.len());
    for key in world.target_keys(Table::Ns) {
        let ns = world.target.tts.store().get(Table::Ns, &key).cloned().expect("listed");
        assert!(!is_muted(&ns), "{key} is muted still");
    }
    let before = world.writes();
    world.run().expect(3);
    assert_eq!(world.writes(), before, "S6: the second run wrote");
    world.call("verify", &[]).expect(0);
}

#[test]
fn every_field_arrives_as_stated() {
    let world = V2World::some(&["attrs-odd", "abp-003", "abp_16_004", "node-001"]);
    world.edit("node-001", |device| path::set(device, "description", Value::String("on the roof".into())));
    world.config(&ALL.replace("rename", "prefix = \"acme-\", rename"));
    let abp = world.device("abp-003").expect("it is there");
    let otaa = world.device("node-001").expect("it is there");
    world.run().expect(0);

    let is = world.on_target(Table::Is, "acme-abp-003").expect("moved");
    let location = user_location(&is);
    assert_eq!(path::number(&location, "source"), 3, "SOURCE_REGISTRY");
    let at = |field: &str| match path::get(&location, field).map(|v| v.into_owned()) {
        Some(Value::F64(degrees)) => degrees,
        other => panic!("{field}: {other:?}"),
    };
    assert_eq!((at("latitude"), at("longitude")), (52.3761, 4.8892), "as they were typed in");
    let odd = world.on_target(Table::Is, "acme-attrs-odd").expect("moved");
    assert_eq!(
        attribute(&odd, "serial-no"),
        world.device("attrs-odd").expect("there").attributes()["Serial No"]
    );

    let ns = world.on_target(Table::Ns, "acme-abp-003").expect("moved");
    assert_eq!(path::string(&ns, "frequency_plan_id"), "EU_863_870_TTN");
    assert_eq!(path::number(&ns, "lorawan_version"), 3, "MAC_V1_0_2");
    assert_eq!(path::number(&ns, "mac_settings.rx1_delay.value"), 1);
    assert_eq!(path::wrapped_flag(&ns, "mac_settings.supports_32_bit_f_cnt"), Some(true));
    assert_eq!(path::wrapped_flag(&ns, "mac_settings.resets_f_cnt"), None);
    assert_eq!(path::bytes(&ns, "session.dev_addr"), abp.dev_addr().expect("a session").0);
    let short = world.on_target(Table::Ns, "acme-abp-16-004").expect("moved under another name");
    assert_eq!(path::wrapped_flag(&short, "mac_settings.supports_32_bit_f_cnt"), Some(false));
    assert_eq!(path::wrapped_flag(&short, "mac_settings.resets_f_cnt"), Some(true));

    let js = world.on_target(Table::Js, "acme-node-001").expect("moved");
    let key = otaa.app_key().expect("OTAA");
    assert_eq!(path::bytes(&js, "root_keys.app_key.key"), *key);
    let is = world.on_target(Table::Is, "acme-node-001").expect("moved");
    assert_eq!(path::string(&is, "description"), "on the roof");
    let link = world.target.tts.store().get(Table::Links, V2_APP).cloned().expect("set");
    let script = path::string(&link, "default_formatters.up_formatter_parameter");
    assert!(script.contains("function Decoder") && script.contains("decodeUplink"), "{script}");
}

/// An entry of a map of texts.
fn attribute(is: &DynamicMessage, name: &str) -> String {
    let map = path::get(is, "attributes").map(|v| v.into_owned());
    let Some(Value::Map(map)) = map else { return String::new() };
    map.get(&MapKey::String(name.to_owned())).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn user_location(is: &DynamicMessage) -> DynamicMessage {
    let map = path::get(is, "locations").map(|v| v.into_owned());
    let Some(Value::Map(map)) = map else { panic!("no locations") };
    map[&MapKey::String("user".to_owned())].as_message().cloned().expect("a location")
}

#[test]
fn a_fleet_on_the_air_is_never_live_twice_nor_nowhere() {
    for (session, seed) in [("auto", 1), ("keep", 2), ("drop", 3), ("auto", 4), ("drop", 5)] {
        let watched = WatchedV2::new(V2World::some(&KINDS), seed);
        watched.world.config(&PLAIN.replace(
            "[transform]",
            &format!("[transform]\nsession = \"{session}\"\ndevice-id = {{ rename = \"auto\" }}"),
        ));
        watched.until_done("run");
        watched.stir(200);
        if session == "drop" {
            crate::world::traffic::lock(&watched.field).join_all();
        }
        watched.prove("target");
    }
}

#[test]
fn odd_ids_are_told_with_a_proposal_and_changed_only_when_asked_for() {
    let world = V2World::some(&["x1", "dup-name-1", "dup_name-1", "rec_one"]);
    world.config(PLAIN);
    let ran = world.call("plan", &[]).expect(3);
    assert!(ran.out.contains("x1") && ran.out.contains("bad-id"), "{}", ran.out);
    assert!(ran.out.contains("id-clash"), "{}", ran.out);
    assert!(!ran.out.contains("invalid-field"), "said twice: {}", ran.out);
    world.config(&PLAIN.replace("[transform]", "[transform]\ndevice-id = { rename = \"auto\" }"));
    let told = "with another ID: 3: dup_name-1 → dup-name-1-2, rec_one → rec-one, x1 → dev-x1";
    world.call("plan", &[]).expect(0).says(told);
    world.run().expect(0);
    let names = world.target_keys(Table::Is);
    assert_eq!(names.len(), 4, "{names:?}");
    let kept = |id: &str| {
        let found = names.iter().filter_map(|key| world.target.tts.store().get(Table::Is, key).cloned());
        found.filter(|is| attribute(is, "old-id") == id).count()
    };
    assert_eq!(["x1", "dup_name-1", "rec_one"].map(kept), [1, 1, 1], "{names:?}");
}
