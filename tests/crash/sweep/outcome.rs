//! What both servers hold in the end, and whether two ends are one.

use std::collections::BTreeMap;

use prost_reflect::{DynamicMessage, Value};
use stackferry::{
    map::{diff, path},
    rehearsal::store::Table,
};

use crate::world::{APP, World};

/// The stored messages by side, table and key.
pub type Stored = BTreeMap<String, DynamicMessage>;

/// Stamps of the servers' clocks: no two runs have the same.
const STAMPS: &[&str] = &["created_at", "updated_at", "deleted_at"];

/// What a device on the air changes at any moment. The auditor and the proof of life judge these.
const AIR: &[&str] = &[
    "activated_at",
    "last_seen_at",
    "last_dev_status_received_at",
    "power_state",
    "battery_percentage",
    "downlink_margin",
    "pending_session",
    "mac_state",
    "pending_mac_state",
    "queued_application_downlinks",
    "last_join_nonce",
    "last_dev_nonce",
    "used_dev_nonces",
    "last_rj_count_0",
    "last_rj_count_1",
];

/// The same within a session that goes on.
const AIR_OF_SESSION: &[&str] = &[
    "session.last_f_cnt_up",
    "session.last_n_f_cnt_down",
    "session.last_a_f_cnt_down",
    "session.last_conf_f_cnt_down",
    "session.queued_application_downlinks",
    "session.started_at",
];

/// Everything, but for the stamps and empty parents.
pub fn whole(world: &World) -> Stored {
    let mut all = Stored::new();
    for (side, name) in [(&world.source, "source"), (&world.target, "target")] {
        let store = side.tts.store();
        for table in [Table::Applications, Table::Links, Table::Is, Table::Js, Table::As, Table::Ns] {
            for (key, message) in store.iter(table).filter(|(k, _)| k.starts_with(APP)) {
                let mut message = message.clone();
                STAMPS.iter().for_each(|at| path::clear(&mut message, at));
                if table == Table::As {
                    // Follows session.dev_addr: the server writes it when it is told of the session, and had not before.
                    path::clear(&mut message, "ids.dev_addr");
                }
                without_hulls(&mut message);
                all.insert(format!("{name} {table:?} {key}"), message);
            }
        }
    }
    all
}

/// A parent that is set and holds nothing says nothing: a mute that is taken back leaves an empty `mac_settings`.
fn without_hulls(message: &mut DynamicMessage) {
    let empty = |value: &Value| value.as_message().is_some_and(|inner| inner.fields().next().is_none());
    let hulls: Vec<_> = message
        .fields()
        .filter(|(_, value)| empty(value))
        .map(|(field, _)| field.name().to_owned())
        .collect();
    hulls.iter().for_each(|name| path::clear(message, name));
}

/// Everything, but for the stamps and what the air changes. The session of a device that can join is all the air's.
pub fn settled(world: &World) -> Stored {
    let mut all = whole(world);
    let joins = |stored: &Stored, key: &str| {
        let js = key.replacen(" Ns ", " Js ", 1).replacen(" As ", " Js ", 1);
        let ns = key.replacen(" As ", " Ns ", 1).replacen(" Js ", " Ns ", 1);
        stored.contains_key(&js) || stored.get(&ns).is_some_and(|ns| path::flag(ns, "supports_join"))
    };
    let joining: Vec<_> = all.keys().filter(|key| joins(&all, key)).cloned().collect();
    for (key, message) in &mut all {
        AIR.iter().chain(AIR_OF_SESSION).for_each(|at| path::clear(message, at));
        if joining.contains(key) {
            ["session", "ids.dev_addr"].iter().for_each(|at| path::clear(message, at));
        }
        without_hulls(message);
    }
    all
}

/// What a rollback must bring back: the devices at the source but for what is lost, and none of ours on the target.
pub fn at_the_source(stored: &Stored, target: &str, lost: &[&str]) -> Stored {
    let (source, target) = (format!(" {APP}."), format!(" {target}."));
    let wanted = |key: &String| {
        key.starts_with("source ") && key.contains(&source)
            || key.starts_with("target ") && key.contains(&target)
    };
    stored
        .iter()
        .filter(|(key, _)| wanted(key))
        .map(|(key, message)| {
            let mut message = message.clone();
            lost.iter().for_each(|at| path::clear(&mut message, at));
            (key.clone(), message)
        })
        .collect()
}

/// How `is` differs from what is expected; no values, as they may be keys.
pub fn differences(expected: &Stored, is: &Stored) -> Vec<String> {
    let mut found = Vec::new();
    for key in expected.keys().chain(is.keys().filter(|key| !expected.contains_key(*key))) {
        match (expected.get(key), is.get(key)) {
            (Some(a), Some(b)) if a == b => {}
            (Some(a), Some(b)) => {
                let paths: Vec<_> = diff::diff(a, b).into_iter().map(|d| d.path).collect();
                found.push(format!("{key} differs in {}", paths.join(", ")));
            }
            (Some(_), None) => found.push(format!("{key} is not there")),
            (None, _) => found.push(format!("{key} should not be there")),
        }
    }
    found
}
