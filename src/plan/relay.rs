//! A device that a relay serves names the relay, and a relay names the devices that it serves, each by its device ID in the
//! same application: in `mac_settings`, in the parameters of the MAC state and in MAC commands under way (upstream
//! `api/ttn/lorawan/v3/end_device.proto` and `lorawan.proto`; the Network Server looks these IDs up in
//! `pkg/networkserver/relay.go`). They follow the IDs that the copies get. The frames in the MAC state name none: what is
//! stored of a relay there is empty.

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};

use super::{
    Input,
    facts::{IdFrom, TargetFacts, Wishes},
    finding::{Finding, Kind},
    identity,
    transform::{Copy, Found},
};
use crate::{
    map::path,
    model::{device::Component, ids::is_id},
};

/// Fields that name another device of the application. A test holds them against all of `EndDevice`.
const FIELDS: &[&str] = &["device_id", "serving_device_id"];
/// The device's own identifiers have a field of the same name.
const OWN: &str = "EndDeviceIdentifiers";

/// IDs at the source → IDs on the target, of the devices that this journal moves or has moved.
pub fn along(inputs: &[Input], facts: &TargetFacts, wishes: &Wishes) -> BTreeMap<String, String> {
    let there = |input: &Input| match &input.begun {
        Some(begun) => begun.target_id.clone(),
        None => identity::target_id(&input.found, facts, wishes),
    };
    inputs.iter().map(|input| (input.id.as_str().to_owned(), there(input))).collect()
}

/// Gives the references of a copy the IDs of the target; names those that lead nowhere there.
pub fn follow(message: &mut DynamicMessage, facts: &TargetFacts, wishes: &Wishes) -> Option<Finding> {
    let mut missing = BTreeSet::new();
    let mut paths = Vec::new();
    visit(message, "", &mut |at, id| {
        if !facts.along.contains_key(id) {
            missing.insert(id.clone());
            paths.push(at.to_owned());
        }
        *id = there(id, facts, wishes);
    });
    let missing: Vec<_> = missing.into_iter().collect();
    (!missing.is_empty()).then(|| {
        let text = format!(
            "relay settings name devices that do not move along: {}; what a relay forwards arrives only where both are",
            missing.join(", ")
        );
        Finding::new(Kind::RelayPeer, text)
            .at(Component::Ns)
            .paths(paths)
            .fix("choose these devices too (application.devices), or take the relay settings away")
    })
}

/// The ID on the target, also of a device that a later run may move.
fn there(id: &str, facts: &TargetFacts, wishes: &Wishes) -> String {
    let by_rule = || match wishes.id_from {
        IdFrom::Id => facts.renames.get(id).cloned().unwrap_or_else(|| identity::by_rule(id, wishes)),
        IdFrom::Eui => id.to_owned(),
    };
    let there = facts.along.get(id).cloned().unwrap_or_else(by_rule);
    if is_id(&there) { there } else { id.to_owned() }
}

/// What the references of the copy were called at the source: IDs on the target → IDs there.
pub fn back(written: &Copy, sealed: &Found) -> BTreeMap<String, String> {
    let (Some(written), Some(sealed)) = (&written.ns, &sealed.records.ns) else { return BTreeMap::new() };
    let mut was = references(&sealed.0);
    references(&written.message).into_iter().filter_map(|(at, id)| Some((id, was.remove(&at)?))).collect()
}

/// Gives the references in the MAC state these names.
pub fn rename_state(message: &mut DynamicMessage, names: &BTreeMap<String, String>) {
    let Some(mut state) = path::child(message, "mac_state").filter(|_| !names.is_empty()) else { return };
    visit(&mut state, "", &mut |_, id| {
        if let Some(name) = names.get(id) {
            id.clone_from(name);
        }
    });
    path::set(message, "mac_state", Value::Message(state));
}

/// The references of a record by their place, with the index in lists.
fn references(message: &DynamicMessage) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    visit(&mut message.clone(), "", &mut |at, id| {
        found.insert(at.to_owned(), id.clone());
    });
    found
}

fn visit(message: &mut DynamicMessage, at: &str, change: &mut impl FnMut(&str, &mut String)) {
    let own = message.descriptor().name() == OWN;
    for (field, value) in message.fields_mut() {
        let segment = path::segment(&field);
        let at = if at.is_empty() { segment } else { format!("{at}.{segment}") };
        match value {
            Value::String(id) if !own && !id.is_empty() && FIELDS.contains(&field.name()) => change(&at, id),
            Value::Message(inner) => visit(inner, &at, change),
            Value::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    if let Value::Message(inner) = item {
                        visit(inner, &format!("{at}.{index}"), change);
                    }
                }
            }
            Value::Map(entries) => {
                for (key, entry) in entries.iter_mut() {
                    if let Value::Message(inner) = entry {
                        visit(inner, &format!("{at}.{}", path::key(key)), change);
                    }
                }
            }
            _ => {}
        }
    }
}
