//! A device of V2 as the auditor sees it: as the records that a The Things Stack would hold in its place, so that one key
//! is one fingerprint on both sides. Read here from the stored messages, not by the transformation that is watched.
//!
//! V2 has no mute: what it holds is live. Live are a root key (the handler's, not zeros) and a session (the Network
//! Server's DevAddr and NwkSKey, neither zeros). Join nonces cannot be read from V2 nor written to it: they are not watched.

use prost_reflect::{DynamicMessage, Value};

use super::{Kept, facts::RecordFacts};
use crate::{
    map::path,
    model::device::Component,
    proto,
    rehearsal::{
        store::{Change, Table, Tables, device_key},
        ttn_v2::{is_zero, network_key},
    },
};

/// The device that a change is about, if it is one of V2's.
pub(super) fn device_of(tables: &Tables, change: &Change<'_>) -> Option<String> {
    match change.table {
        Table::V2Devices => Some(change.key.to_owned()),
        Table::V2Network => {
            let now = tables.get(&change.table).and_then(|entries| entries.get(change.key));
            now.map(|now| owner(now)).or_else(|| change.before.map(owner))
        }
        _ => None,
    }
}

/// `app_id.dev_id` of the Network Server's half.
fn owner(network: &DynamicMessage) -> String {
    device_key(&path::string(network, "app_id"), &path::string(network, "dev_id"))
}

/// The records that stand for the device, in an order in which none is live before it is whole.
pub(super) fn records(tables: &Tables, key: &str) -> [(Component, Option<Kept>); 4] {
    let device = tables.get(&Table::V2Devices).and_then(|devices| devices.get(key));
    let lorawan = device.and_then(|device| path::child(device, "lorawan_device"));
    let Some(lorawan) = lorawan else {
        return [Component::Is, Component::Js, Component::As, Component::Ns]
            .map(|component| (component, None));
    };
    let network = tables.get(&Table::V2Network).and_then(|halves| halves.get(&network_key(&lorawan)));
    let network = network.filter(|network| owner(network) == key);
    let ids = identified(key, &lorawan);
    let root = held(&lorawan, "app_key").map(|app_key| {
        let mut js = ids.clone();
        set(&mut js, "root_keys.app_key.key", app_key);
        js
    });
    let (ns, as_) = network_records(&ids, &lorawan, network.map(AsRef::as_ref));
    let kept = |message: DynamicMessage| {
        let mut facts = RecordFacts::read(&message);
        facts.is_v2 = true;
        Kept { message: message.into(), facts }
    };
    [
        (Component::Is, Some(kept(ids))),
        (Component::Js, root.map(kept)),
        (Component::As, Some(kept(as_))),
        (Component::Ns, Some(kept(ns))),
    ]
}

/// The records of Network and Application Server.
fn network_records(
    ids: &DynamicMessage,
    lorawan: &DynamicMessage,
    network: Option<&DynamicMessage>,
) -> (DynamicMessage, DynamicMessage) {
    let (mut ns, mut as_) = (ids.clone(), ids.clone());
    path::set(&mut ns, "supports_join", Value::Bool(held(lorawan, "app_key").is_some()));
    let Some(network) = network else { return (ns, as_) };
    let wide = path::flag(network, "uses32_bit_f_cnt");
    path::set_wrapped(&mut ns, "mac_settings.supports_32_bit_f_cnt", Value::Bool(wide));
    if path::flag(network, "disable_f_cnt_check") {
        path::set_wrapped(&mut ns, "mac_settings.resets_f_cnt", Value::Bool(true));
    }
    let (Some(dev_addr), Some(nwk_s_key)) = (held(network, "dev_addr"), held(network, "nwk_s_key")) else {
        return (ns, as_);
    };
    set(&mut ns, "session.keys.f_nwk_s_int_key.key", nwk_s_key);
    set(&mut ns, "session.dev_addr", dev_addr.clone());
    let counter = |field: &str| u32::try_from(path::number(network, field)).unwrap_or(u32::MAX);
    path::set(&mut ns, "session.last_f_cnt_up", Value::U32(counter("f_cnt_up")));
    // V2 stores the counter of the next downlink (`core/networkserver/downlink.go`).
    let last_down = Value::U32(counter("f_cnt_down").saturating_sub(1));
    path::set(&mut ns, "session.last_n_f_cnt_down", last_down.clone());
    if let Some(app_s_key) = held(lorawan, "app_s_key") {
        set(&mut as_, "session.dev_addr", dev_addr);
        set(&mut as_, "session.keys.app_s_key.key", app_s_key);
        path::set(&mut as_, "session.last_a_f_cnt_down", last_down);
    }
    (ns, as_)
}

fn identified(key: &str, lorawan: &DynamicMessage) -> DynamicMessage {
    let (application, device) = key.split_once('.').unwrap_or((key, ""));
    let mut ids = proto::message("EndDevice");
    path::set(&mut ids, "ids.application_ids.application_id", Value::String(application.to_owned()));
    path::set(&mut ids, "ids.device_id", Value::String(device.to_owned()));
    set(&mut ids, "ids.join_eui", path::bytes(lorawan, "app_eui"));
    if let Some(dev_eui) = held(lorawan, "dev_eui") {
        set(&mut ids, "ids.dev_eui", dev_eui);
    }
    ids
}

/// What is neither absent nor zeros.
fn held(message: &DynamicMessage, field: &str) -> Option<Vec<u8>> {
    let bytes = path::bytes(message, field);
    (!is_zero(&bytes)).then_some(bytes)
}

fn set(message: &mut DynamicMessage, at: &str, bytes: Vec<u8>) {
    path::set(message, at, Value::Bytes(bytes.into()));
}
