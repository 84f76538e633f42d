//! The planner, held against its rules: properties over generated devices, tables over small ones.

mod back;
mod fidelity;
mod handover;
mod plans;
mod relay;
mod sealed;
mod secrets;

mod presence;
mod queue;

mod sessions;
mod ttn_v2;

use std::collections::BTreeMap;

use prost::Message as _;
use prost_reflect::{DynamicMessage, Kind as Type, MessageDescriptor, ReflectMessage as _, Value};

use super::{
    facts::{Hosts, IdFrom, SessionMode, TargetFacts, Wishes},
    finding::{Finding, Kind},
    transform::{self, Found, Transformed},
};
use crate::{
    map::{
        generate::{self, Rng},
        options, owner, path,
    },
    model::{
        device::{Component, Record},
        ids::{AppId, Eui64},
    },
    proto,
};

/// Device IDs and EUIs of generated devices start alike (`map::generate`); so do their DevAddrs.
const PLAN: &str = "EU_863_870_TTN";

pub(in crate::plan) fn wishes(session: SessionMode) -> Wishes {
    Wishes {
        copy: Default::default(),
        people: Default::default(),
        paused: false,
        target_app: AppId::unchecked("target-app"),
        session,
        abp_reset: Default::default(),
        frequency_plans: BTreeMap::new(),
        default_frequency_plan: None,
        id_prefix: String::new(),
        id_from: IdFrom::Id,
        id_rename: false,
        versions: Default::default(),
        attributes: BTreeMap::new(),
        allowed: Vec::new(),
    }
}

/// A target that takes every generated device and owns the DevAddr block 26000000/8 of all of them.
fn facts() -> TargetFacts {
    let host = "target.example".to_owned();
    TargetFacts {
        hosts: Hosts { ns: host.clone(), as_: host.clone(), js: host, known_as: Vec::new() },
        dev_addr_prefixes: vec!["26000000/8".parse().expect("valid")],
        join_eui_prefixes: vec![(Eui64([0; 8]), 0)],
        frequency_plans: [(PLAN.to_owned(), "EU_863_870".to_owned())].into(),
        phy_versions: [("EU_863_870".to_owned(), (1..30).collect())].into(),
        ..TargetFacts::default()
    }
}

/// The same target in a DevAddr block of its own.
fn foreign() -> TargetFacts {
    TargetFacts { dev_addr_prefixes: vec!["01000000/8".parse().expect("valid")], ..facts() }
}

fn generated(seed: u64) -> Found {
    let host = generate::HOST.to_owned();
    Found {
        records: generate::records(seed),
        hosts: Hosts { ns: host.clone(), as_: host.clone(), js: host, known_as: Vec::new() },
        ..Found::default()
    }
}

fn transform(found: &Found, session: SessionMode) -> Transformed {
    transform::device(found, &facts(), &wishes(session))
}

fn has(findings: &[Finding], kind: Kind) -> bool {
    findings.iter().any(|f| f.kind == kind)
}

fn ns(found: &mut Found) -> &mut DynamicMessage {
    &mut found.records.ns.as_mut().expect("an NS record").0
}

fn as_(found: &mut Found) -> &mut DynamicMessage {
    &mut found.records.as_.as_mut().expect("an AS record").0
}

fn js(found: &mut Found) -> &mut DynamicMessage {
    &mut found.records.js.as_mut().expect("a JS record").0
}

fn is(found: &mut Found) -> &mut DynamicMessage {
    &mut found.records.is.as_mut().expect("an IS record").0
}

/// Adds to a record what its component tells but cannot be told, and takes much of the rest away: also messages that are
/// left without contents.
fn roughen(found: &mut Found, seed: u64) {
    let mut rng = Rng::new(seed);
    for component in Component::ALL {
        let Some(Record(message)) = found.records.slot(component) else { continue };
        for stored in path::stored(message) {
            let keep = stored.starts_with("ids.") || stored == "supports_join" || stored == "multicast";
            if !keep && rng.chance(40) {
                path::clear(message, &stored);
            }
        }
        for unwritable in owner::unwritable(component) {
            if !unwritable.path.starts_with("ids.") && rng.chance(30) {
                fill(message, &unwritable.path, rng.number());
            }
        }
    }
}

/// Stores a random value at `path`.
fn fill(message: &mut DynamicMessage, path: &str, seed: u64) {
    let descriptor = proto::descriptor("EndDevice");
    if let Some(field) = field_at(&descriptor, path)
        && let Some(value) = generate::field(&field, seed)
    {
        path::set(message, path, value);
    }
}

fn field_at(descriptor: &MessageDescriptor, path: &str) -> Option<prost_reflect::FieldDescriptor> {
    let (head, rest) = path.split_once('.').map_or((path, None), |(h, r)| (h, Some(r)));
    if descriptor.oneofs().any(|o| o.name() == head) {
        return field_at(descriptor, rest?);
    }
    let field = descriptor.get_field_by_name(head)?;
    match (field.kind(), rest) {
        (_, None) => Some(field),
        (Type::Message(inner), Some(rest)) => field_at(&inner, rest),
        _ => None,
    }
}

/// An empty message that stands for nothing else than being there.
fn is_empty(message: &DynamicMessage, path: &str) -> bool {
    path::child(message, path).is_some_and(|m| {
        let descriptor = m.descriptor();
        m.fields().next().is_none() && options::wrapped(&descriptor).is_none()
    })
}

fn bytes(bytes: &[u8]) -> Value {
    Value::Bytes(bytes.to_vec().into())
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

/// The message as a newer server would send it: with a field that this build does not know.
fn newer(message: &DynamicMessage) -> DynamicMessage {
    let mut bytes = message.encode_to_vec();
    prost::encoding::string::encode(9999, &"from a newer server".to_owned(), &mut bytes);
    DynamicMessage::decode(message.descriptor(), bytes.as_slice()).expect("a message")
}
