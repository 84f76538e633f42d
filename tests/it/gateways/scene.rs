//! A fleet with gateways of all sorts, and what the target should hold of them.

use std::fs;

use prost_reflect::{DynamicMessage, Value};
use stackferry::{
    map::{generate, json, mask, path},
    proto,
    rehearsal::{Settings, store::Table},
};

use crate::world::{APP, Side, World, dev, fixture};

/// The gateway in which every field is set.
pub const FULL: &str = "roof-1";
/// One whose LNS secret is an API key of the source.
pub const MANAGED: &str = "roof-2";
/// Devices that move.
pub const MOVED: [usize; 2] = [1, 3];
/// The one that moves where it does not matter which.
pub const ONE: usize = 1;

pub fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

/// Puts a gateway into a deployment, with all rights for a user.
pub fn put(side: &Side, mut gateway: DynamicMessage, owner: &str) {
    let id = path::string(&gateway, "ids.gateway_id");
    for (contact, to) in [("administrative_contact", owner), ("technical_contact", owner)] {
        path::set(&mut gateway, &format!("{contact}.user_ids.user_id"), text(to));
    }
    let mut collaborator = proto::message("Collaborator");
    path::set(&mut collaborator, "ids.ids.user_ids.user_id", text(owner));
    let all = proto::enumeration("Right").get_value_by_name("RIGHT_ALL").expect("a right").number();
    path::set(&mut collaborator, "rights", Value::List(vec![Value::EnumNumber(all)]));
    let mut store = side.tts.store();
    store.put(Table::Gateways, &id, gateway).expect("memory");
    store.put(Table::Collaborators, &format!("gtw:{id}/usr:{owner}"), collaborator).expect("memory");
}

/// A gateway in which every field that a server keeps is set.
pub fn full(id: &str, seed: u64) -> DynamicMessage {
    let not = |p: &str| {
        let own =
            ["ids", "created_at", "updated_at", "deleted_at", "contact_info", "version_ids.runtime_version"];
        let later = ["frequency_plan_id", "target_cups_uri", "target_cups_key", "administrative_contact"];
        let more = ["technical_contact", "lbs_lns_secret.key_id", "claim_authentication_code.secret.key_id"];
        own.iter().chain(&later).chain(&more).any(|o| path::covers(o, p))
    };
    let leaves = mask::leaves("GatewayRegistry/Get").into_iter().filter(|p| !not(p));
    let mut gateway = generate::valid("Gateway", leaves, seed);
    path::set(&mut gateway, "ids.gateway_id", text(id));
    path::set(
        &mut gateway,
        "ids.eui",
        Value::Bytes(vec![0x58, 0xa0, 0xcb, 0xff, 0xfe, 0x80, 0x10, seed as u8].into()),
    );
    path::set(&mut gateway, "frequency_plan_ids", Value::List(vec![text("EU_863_870_TTN")]));
    path::set(&mut gateway, "gateway_server_address", text("gs.source.example"));
    path::set(
        &mut gateway,
        "lbs_lns_secret.value",
        Value::Bytes(format!("canary-lns-of-{id}").into_bytes().into()),
    );
    path::set(
        &mut gateway,
        "claim_authentication_code.secret.value",
        Value::Bytes(format!("canaryclaim{seed}").into_bytes().into()),
    );
    for (at, seconds) in [("valid_from", 1_700_000_000), ("valid_to", 1_900_000_000)] {
        let mut time = proto::message("google.protobuf.Timestamp");
        path::set(&mut time, "seconds", Value::I64(seconds));
        path::set(&mut gateway, &format!("claim_authentication_code.{at}"), Value::Message(time));
    }
    gateway
}

/// Two deployments; the source has two gateways of its administrator and those of the fixture.
pub fn world() -> World {
    let world = World::some(&MOVED);
    fill(&world);
    world
}

/// As [`world`], with a source whose CUPS may send gateways elsewhere.
pub fn world_of_cups() -> World {
    let source = Settings { allow_cups_uri_update: true, ..Settings::default() };
    let world = World::with(source, Settings::default()).with_devices(&MOVED);
    fill(&world);
    world
}

/// Puts the gateways there.
fn fill(world: &World) {
    put(&world.source, full(FULL, 1), "admin");
    let mut managed = full(MANAGED, 2);
    let key = "NNSXS.CANARYKEYOFTHESOURCE2345.CANARYSECRETOFTHELNS234567ABCDEFGHIJKLMN";
    path::set(&mut managed, "lbs_lns_secret.value", Value::Bytes(key.as_bytes().to_vec().into()));
    path::set(&mut managed, "target_cups_uri", text("https://elsewhere.example:443"));
    path::set(&mut managed, "target_cups_key.value", Value::Bytes(b"canary-of-the-redirect".to_vec().into()));
    put(&world.source, managed, "admin");
    let dump = fs::read_to_string(fixture("tts-fleet-application.json")).expect("the fixture");
    let dump: serde_json::Value = serde_json::from_str(&dump).expect("JSON");
    for gateway in dump["gateways"].as_array().expect("a list") {
        let mut gateway = json::from_json(&proto::descriptor("Gateway"), gateway).expect("a gateway");
        // Its own, `lnssecret2`, is in every line that ends with the field's name and goes on with a number.
        let secret = format!("canary-lns-of-{}", path::string(&gateway, "ids.gateway_id"));
        path::set(&mut gateway, "lbs_lns_secret.value", Value::Bytes(secret.into_bytes().into()));
        put(&world.source, gateway, "admin");
    }
}

/// The configuration with these gateways, and all that the devices of the fixture need.
pub fn config(world: &World, gateways: &str, more: &str) {
    config_for(world, &[ONE], gateways, more);
}

/// As [`config`], for these devices.
pub fn config_for(world: &World, devices: &[usize], gateways: &str, more: &str) {
    let devices: Vec<_> = devices.iter().map(|n| format!("\"{}\"", dev(*n))).collect();
    let devices = devices.join(", ");
    let text = format!(
        "devices = {{ ids = [{devices}] }}\n[gateways]\n{gateways}\n[transform]\nsession = \"keep\"\n\
         allow-loss = [\"picture\", \"queued-downlinks\"]\n{more}\n"
    );
    world.config_to(APP, &text);
}

pub fn gateway(side: &Side, id: &str) -> Option<DynamicMessage> {
    side.tts.store().get(Table::Gateways, id).cloned()
}

/// Names and rights of the API keys of a gateway.
pub fn keys(side: &Side, id: &str) -> Vec<(String, Vec<String>)> {
    let names = proto::enumeration("Right");
    let store = side.tts.store();
    let keys = store.iter(Table::ApiKeys).filter(|(key, _)| key.starts_with(&format!("gtw:{id}/")));
    let mut keys: Vec<_> = keys
        .map(|(_, key)| {
            let rights = path::get(key, "rights").expect("rights").into_owned();
            let rights = rights.as_list().expect("a list").iter().filter_map(Value::as_enum_number);
            let rights = rights.map(|n| names.get_value(n).expect("a right").name().to_owned()).collect();
            (path::string(key, "name"), rights)
        })
        .collect();
    keys.sort();
    keys
}

/// What the target should hold of a gateway of the source, but for an LNS secret that was made anew.
pub fn expected(world: &World, id: &str, target_id: &str) -> DynamicMessage {
    let mut gateway = gateway(&world.source, id).expect("it is there");
    path::set(&mut gateway, "ids.gateway_id", text(target_id));
    path::set(&mut gateway, "gateway_server_address", text("127.0.0.1"));
    for gone in [
        "frequency_plan_id",
        "contact_info",
        "target_cups_uri",
        "target_cups_key",
        "created_at",
        "updated_at",
    ] {
        path::clear(&mut gateway, gone);
    }
    gateway
}

/// As it is stored on the target, without what the server stamps.
pub fn stored(world: &World, id: &str) -> DynamicMessage {
    let mut gateway = gateway(&world.target, id).unwrap_or_else(|| panic!("{id} is there"));
    ["created_at", "updated_at"].iter().for_each(|at| path::clear(&mut gateway, at));
    gateway
}

#[track_caller]
pub fn same(there: &DynamicMessage, wanted: &DynamicMessage) {
    let differences = stackferry::map::diff::diff(there, wanted);
    assert!(differences.is_empty(), "{:?}", differences.iter().map(|d| &d.path).collect::<Vec<_>>());
}
