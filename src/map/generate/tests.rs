use std::collections::HashSet;

use prost::Message as _;
use prost_reflect::{DynamicMessage, Kind, ReflectMessage as _, Value};

use super::*;
use crate::{
    map::{mask, options, owner, path},
    model::device::Component,
};

/// Enough seeds for each variant to go through the members of every `oneof`.
const SEEDS: u64 = 30;

#[test]
fn over_thirty_seeds_every_path_that_can_be_set_is_set() {
    for (component, rpc) in [
        (Component::Is, "EndDeviceRegistry/Update"),
        (Component::Js, "JsEndDeviceRegistry/Set"),
        (Component::As, "AsEndDeviceRegistry/Set"),
        (Component::Ns, "NsEndDeviceRegistry/Set"),
    ] {
        let devices: Vec<_> = (0..SEEDS).map(|seed| device(seed, component)).collect();
        let unset: HashSet<_> = mask::leaves(rpc)
            .into_iter()
            .filter(|leaf| !devices.iter().any(|device| path::has(device, leaf)))
            .collect();
        let unreached = UNREACHED.iter().filter(|(c, _, _)| *c == component).map(|(_, path, _)| *path);
        assert_eq!(unset, unreached.collect(), "{component}");
    }
}

#[test]
fn a_generated_device_is_the_same_each_time_and_survives_the_wire() {
    for seed in 0..SEEDS {
        for component in Component::ALL {
            let one = device(seed, component);
            assert_eq!(one, device(seed, component));
            let back = DynamicMessage::decode(one.descriptor(), one.encode_to_vec().as_slice());
            assert_eq!(back.expect("decodes"), one, "seed {seed}, {component}");
        }
    }
}

#[test]
fn devices_of_different_seeds_share_no_identifier() {
    let mut seen = HashSet::new();
    for seed in 0..1000 {
        let device = device(seed, Component::Is);
        assert!(seen.insert(path::string(&device, "ids.device_id")));
        assert!(seen.insert(hex::encode(path::bytes(&device, "ids.dev_eui"))));
    }
}

#[test]
fn generated_devices_keep_the_rules() {
    for seed in 0..SEEDS {
        for component in Component::ALL {
            let broken = broken_rules(&device(seed, component), "");
            assert_eq!(broken, Vec::<String>::new(), "seed {seed}, {component}");
        }
    }
}

#[test]
fn the_mask_of_everything_writable_carries_a_generated_device_whole() {
    for seed in 0..SEEDS {
        for component in Component::ALL {
            let device = device(seed, component);
            let mut mask = owner::writable(component);
            mask.push("ids".to_owned());
            assert!(path::project(&device, &mask) == device, "seed {seed}, {component}");
        }
    }
}

#[test]
fn network_server_and_application_server_agree_on_the_session() {
    for seed in 0..SEEDS {
        let (ns, app) = (device(seed, Component::Ns), device(seed, Component::As));
        for same in ["session.dev_addr", "session.keys.session_key_id", "ids.dev_eui"] {
            assert_eq!(path::get(&ns, same), path::get(&app, same), "seed {seed}: {same}");
        }
        assert_eq!(path::has(&ns, "session.keys.session_key_id"), Variant::of(seed).joins());
        assert_eq!(records(seed).js.is_some(), Variant::of(seed).joins());
    }
}

/// A small reading of the rules of its own: lengths, patterns, bounds, and members of enums.
fn broken_rules(message: &DynamicMessage, prefix: &str) -> Vec<String> {
    let mut broken = Vec::new();
    for field in message.descriptor().fields() {
        let at = format!("{prefix}{}", field.name());
        let rules = options::rules(&field);
        let rule = |path: &str| rules.as_ref().and_then(|r| path::get(r, path).map(|v| v.into_owned()));
        let required = rule("message.required").and_then(|v| v.as_bool()).unwrap_or_default();
        if !message.has_field(&field) {
            // A member of a oneof that another displaced is not missing.
            if required && field.containing_oneof().is_none() {
                broken.push(format!("{at} is missing"));
            }
            continue;
        }
        let items: Vec<Value> = match message.get_field(&field).as_ref() {
            Value::List(list) => list.clone(),
            Value::Map(map) => map.values().cloned().collect(),
            value => vec![value.clone()],
        };
        let count = |name: &str| rule(name).and_then(|v| v.as_u64());
        if count("repeated.max_items").is_some_and(|n| items.len() as u64 > n)
            || count("repeated.min_items").is_some_and(|n| (items.len() as u64) < n)
            || count("map.max_pairs").is_some_and(|n| items.len() as u64 > n)
        {
            broken.push(format!("{at} has {} items", items.len()));
        }
        let of_items = rules.as_ref().and_then(|r| path::child(r, "repeated.items"));
        let of_items = of_items.or_else(|| rules.as_ref().and_then(|r| path::child(r, "map.values")));
        for item in &items {
            if let Some(rules) = of_items.as_ref().or(rules.as_ref())
                && !keeps(item, rules)
            {
                broken.push(at.clone());
            }
            if let (Value::EnumNumber(number), Kind::Enum(descriptor)) = (item, field.kind())
                && descriptor.get_value(*number).is_none()
            {
                broken.push(format!("{at} is {number}"));
            }
            if let Value::Message(inner) = item {
                broken.extend(broken_rules(inner, &format!("{at}.")));
            }
        }
    }
    broken
}

fn keeps(value: &Value, rules: &DynamicMessage) -> bool {
    let number = |kind: &str, name: &str| path::get(rules, &format!("{kind}.{name}"))?.as_f64();
    let bounded = |kind: &str, n: f64| {
        let (lte, gte) = (number(kind, "lte"), number(kind, "gte"));
        match (lte, gte) {
            // Bounds that cross mean what is outside of them.
            (Some(l), Some(g)) if g > l => n <= l || n >= g,
            _ => lte.is_none_or(|l| n <= l) && gte.is_none_or(|g| n >= g),
        }
    };
    match value {
        Value::String(text) => {
            let pattern = path::string(rules, "string.pattern");
            let max = path::number(rules, "string.max_len");
            (pattern.is_empty() || regex::Regex::new(&pattern).expect("a pattern").is_match(text))
                && (max == 0 || text.chars().count() as u64 <= max)
        }
        Value::Bytes(raw) => {
            let (len, max) = (path::number(rules, "bytes.len"), path::number(rules, "bytes.max_len"));
            let min = path::number(rules, "bytes.min_len");
            let size = raw.len() as u64;
            (len == 0 || size == len) && (max == 0 || size <= max) && size >= min
        }
        Value::U32(n) => bounded("uint32", f64::from(*n)),
        Value::U64(n) => bounded("uint64", *n as f64),
        Value::I32(n) => bounded("int32", f64::from(*n)),
        Value::F32(n) => bounded("float", f64::from(*n)),
        Value::F64(n) => bounded("double", *n),
        Value::Message(wrapper) if path::is_leaf(&wrapper.descriptor()) => {
            wrapper.get_field_by_name("value").is_none_or(|v| keeps(&v, rules))
        }
        _ => true,
    }
}
