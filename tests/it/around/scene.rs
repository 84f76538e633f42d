//! An application with everything, and what it should be on the target.

use std::collections::BTreeMap;

use prost_reflect::{DynamicMessage, MapKey, Value};
use stackferry::{
    map::{generate, mask, path},
    proto,
    rehearsal::store::Table,
};

use crate::world::{APP, World, dev};

/// The application on the target.
pub const TARGET: &str = "acme";
/// Devices that move, and one that does not.
pub const MOVED: [usize; 2] = [1, 3];
const STAYS: usize = 5;

/// Every kind of belonging with its table and the field that the server stamps.
pub const TABLES: [Table; 5] =
    [Table::ActivationSettings, Table::PackageDefaults, Table::Packages, Table::PubSubs, Table::Webhooks];

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

/// A message in which everything that can be set is set.
fn full(name: &str, rpc: &str, seed: u64, ids: &[(&str, Value)]) -> DynamicMessage {
    let own =
        |p: &str| ["ids", "created_at", "updated_at", "health_status"].iter().any(|o| path::covers(o, p));
    let mut message = generate::valid(name, mask::leaves(rpc).into_iter().filter(|p| !own(p)), seed);
    for (at, value) in ids {
        path::set(&mut message, at, value.clone());
    }
    message
}

fn put(world: &World, table: Table, key: &str, message: DynamicMessage) {
    world.source.tts.store().put(table, key, message).expect("memory");
}

fn app_ids(at: &str) -> (String, Value) {
    (format!("{at}.application_id"), text(APP))
}

/// A struct with a token in it.
fn data(token: &str) -> Value {
    let mut value = proto::message("google.protobuf.Value");
    path::set(&mut value, "string_value", text(token));
    let mut data = proto::message("google.protobuf.Struct");
    path::set(
        &mut data,
        "fields",
        Value::Map([(MapKey::String("token".into()), Value::Message(value))].into()),
    );
    Value::Message(data)
}

/// Two deployments; the source's application has everything. It holds secrets of all sorts, which are canaries.
pub fn everything() -> World {
    everything_in(World::empty())
}

/// As [`everything`], in this empty world.
pub fn everything_in(world: World) -> World {
    let world = world.with_devices(&[MOVED[0], MOVED[1], STAYS]);
    for (key, paused, seed) in [("hook-full", false, 1), ("hook-paused", true, 2)] {
        let (at, app) = app_ids("ids.application_ids");
        let ids = [(at.as_str(), app), ("ids.webhook_id", text(key))];
        let mut hook = full("ApplicationWebhook", "ApplicationWebhookRegistry/Set", seed, &ids);
        path::set(
            &mut hook,
            "base_url",
            text(&format!("https://user:canary-{key}@example.com/in?token=canary-{key}")),
        );
        path::set(&mut hook, "paused", Value::Bool(paused));
        path::touch(&mut hook, "health_status.status.healthy");
        put(&world, Table::Webhooks, &format!("{APP}.{key}"), hook);
    }
    for seed in 0..2 {
        let key = format!("pubsub-{seed}");
        let (at, app) = app_ids("ids.application_ids");
        let ids = [(at.as_str(), app), ("ids.pub_sub_id", text(&key))];
        let mut broker = full("ApplicationPubSub", "ApplicationPubSubRegistry/Set", seed, &ids);
        for provider in ["nats", "mqtt"] {
            let at = format!("provider.{provider}.server_url");
            if path::has(&broker, &at) {
                path::set(&mut broker, &at, text(&format!("{provider}://user:canary-{seed}@example.com:9")));
            }
        }
        if path::has(&broker, "provider.mqtt") {
            path::clear(&mut broker, "provider.mqtt.client_id");
        }
        put(&world, Table::PubSubs, &format!("{APP}.{key}"), broker);
    }
    let mut lora_cloud = proto::message("ApplicationPackageDefaultAssociation");
    path::set(&mut lora_cloud, "ids.application_ids.application_id", text(APP));
    path::set(&mut lora_cloud, "ids.f_port", Value::U32(199));
    path::set(&mut lora_cloud, "package_name", text("lora-cloud-device-management-v1"));
    path::set(&mut lora_cloud, "data", data("canary-of-the-application"));
    put(&world, Table::PackageDefaults, &format!("{APP}.199"), lora_cloud);
    for number in [MOVED[0], MOVED[1], STAYS] {
        let mut own = proto::message("ApplicationPackageAssociation");
        path::set(&mut own, "ids.end_device_ids.application_ids.application_id", text(APP));
        path::set(&mut own, "ids.end_device_ids.device_id", text(&dev(number)));
        path::set(&mut own, "ids.f_port", Value::U32(197));
        path::set(&mut own, "package_name", text("lora-cloud-geolocation-v3"));
        path::set(&mut own, "data", data(&format!("canary-of-device-{number}")));
        put(&world, Table::Packages, &format!("{APP}.{}.197", dev(number)), own);
    }
    let mut settings = proto::message("ApplicationActivationSettings");
    path::set(&mut settings, "kek_label", text("acme-kek"));
    path::set(&mut settings, "kek.key", Value::Bytes((1..=16).collect::<Vec<u8>>().into()));
    path::set(&mut settings, "home_net_id", Value::Bytes(vec![0, 0, 0x13].into()));
    path::set(&mut settings, "application_server_id", text("as.example.com"));
    put(&world, Table::ActivationSettings, APP, settings);
    let mut store = world.source.tts.store();
    let mut link = store.get(Table::Links, APP).cloned().expect("the fixture has one");
    path::set_wrapped(&mut link, "skip_payload_crypto", Value::Bool(true));
    store.put(Table::Links, APP, link).expect("memory");
    drop(store);
    world
}

/// The devices that move, by a rule that gives them another ID.
pub fn config(world: &World, copy: &str, more: &str) {
    config_of(world, &MOVED, copy, more);
}

/// As [`config`], for these devices.
pub fn config_of(world: &World, devices: &[usize], copy: &str, more: &str) {
    let devices: Vec<_> = devices.iter().map(|n| format!("\"{}\"", dev(*n))).collect();
    let devices = devices.join(", ");
    let text = format!(
        "devices = {{ ids = [{devices}] }}\n{copy}\n[transform]\ndevice-id = {{ prefix = \"acme-\" }}\n\
         session = \"keep\"\nallow-loss = [\"picture\", \"queued-downlinks\"]\n{more}\n"
    );
    world.config_whole(TARGET, &text);
}

/// What the tables hold, without what a server stamps; secrets included.
pub fn held(side: &crate::world::Side) -> BTreeMap<String, DynamicMessage> {
    let store = side.tts.store();
    let entries = TABLES.into_iter().chain([Table::Links, Table::ApiKeys]).flat_map(|table| {
        store.iter(table).map(move |(key, message)| {
            let mut message = message.clone();
            for at in ["created_at", "updated_at", "health_status"] {
                if path::exists(&prost_reflect::ReflectMessage::descriptor(&message), at) {
                    path::clear(&mut message, at);
                }
            }
            (format!("{table:?} {key}"), message)
        })
    });
    entries.collect()
}

/// What the target should hold of what the source holds; `keys` are the new API keys of webhooks by their ID.
pub fn expected(world: &World, keys: &BTreeMap<String, String>) -> BTreeMap<String, DynamicMessage> {
    let mut out = BTreeMap::new();
    for (name, mut message) in held(&world.source) {
        let (table, key) = name.split_once(' ').expect("both");
        if table == "ApiKeys" || key.contains(&dev(STAYS)) {
            continue;
        }
        let key = key.replacen(APP, TARGET, 1).replace("dev-", "acme-dev-");
        for at in ["ids.application_ids.application_id", "ids.end_device_ids.application_ids.application_id"]
        {
            if path::has(&message, at) {
                path::set(&mut message, at, text(TARGET));
            }
        }
        let device = path::string(&message, "ids.end_device_ids.device_id");
        if !device.is_empty() {
            path::set(&mut message, "ids.end_device_ids.device_id", text(&format!("acme-{device}")));
        }
        if path::has(&message, "downlink_api_key") {
            let new = keys.get(&path::string(&message, "ids.webhook_id")).cloned().unwrap_or_default();
            path::set(&mut message, "downlink_api_key", text(&new));
        }
        out.insert(format!("{table} {key}"), message);
    }
    out
}

/// The API keys for downlinks on the target, by the webhook in whose name they were made. Each has one right.
pub fn downlink_keys(world: &World) -> BTreeMap<String, String> {
    let store = world.target.tts.store();
    let rights = proto::enumeration("Right");
    let only = rights.get_value_by_name("RIGHT_APPLICATION_TRAFFIC_DOWN_WRITE").expect("a right").number();
    let prefix = format!("app:{TARGET}/");
    let made =
        store.iter(Table::ApiKeys).filter(|(key, _)| key.starts_with(&prefix)).map(|(key, message)| {
            let has = path::get(message, "rights").expect("rights").into_owned();
            assert_eq!(has, Value::List(vec![Value::EnumNumber(only)]), "{key}");
            let name = path::string(message, "name");
            (name.split(' ').next().expect("a name").to_owned(), path::string(message, "key"))
        });
    let all: Vec<_> = made.collect();
    let by_hook: BTreeMap<_, _> = all.iter().cloned().collect();
    assert_eq!(by_hook.len(), all.len(), "one key for each webhook");
    by_hook
}

/// Everything is on the target, field by field as it is at the source.
#[track_caller]
pub fn all_copied(world: &World) {
    let keys = downlink_keys(world);
    let mut there = held(&world.target);
    there.retain(|name, _| !name.starts_with("ApiKeys"));
    let wanted = expected(world, &keys);
    assert_eq!(there.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    for (name, wanted) in wanted {
        let differences = stackferry::map::diff::diff(&there[&name], &wanted);
        assert!(
            there[&name] == wanted,
            "{name}: {:?}",
            differences.iter().map(|d| &d.path).collect::<Vec<_>>()
        );
    }
}

/// Calls that changed something on both sides, but for the lock's.
pub fn writes(world: &World) -> (usize, usize) {
    (world.source.writes().len(), world.target.writes().len())
}
