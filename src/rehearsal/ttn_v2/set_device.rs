//! SetDevice, which is create and update in one: the Network Server's half is written first, then the handler's; there is
//! no transaction (`core/handler/manager_server.go`, `core/handler/device/converter.go`,
//! `core/networkserver/manager_server.go`).

use prost_reflect::{DynamicMessage, Value};
use tonic::{Code, Status};

use super::{
    access::Access,
    handler::{failed, network_half, wrap},
    stored,
};
use crate::{
    map::path,
    proto,
    rehearsal::store::{Store, Table, device_key},
};

/// Attributes that do not count (`core/handler/device/store.go`, `defaultDeviceAttributes`).
const BUILT_IN: &[&str] = &["ttn-antenna", "ttn-brand", "ttn-model", "ttn-module-type", "ttn-version"];
const MOST_CUSTOM: usize = 5;
const LONGEST: usize = 64;

/// Creates or updates a device. What the message lacks is wiped, but for keys and address, which are kept.
///
/// # Errors
/// A pair of EUIs in use, at a create; too many or too long attributes, with the Network Server's half written by then.
pub(super) fn call(store: &mut Store, access: &Access, request: DynamicMessage) -> Result<(), Status> {
    let id = path::string(&request, "dev_id");
    let key = device_key(&access.application, &id);
    let sent = stored::lorawan(&request);
    let before = store.get(Table::V2Devices, &key).map(stored::lorawan);
    match &before {
        Some(before) => move_network_half(store, access, before, &sent)?,
        None => euis_are_free(store, access, &sent)?,
    }
    let lorawan = merged(before.as_ref(), &sent, &request);

    let network = network_half(store, access, &lorawan);
    let network = network.map_err(|e| wrap(&e, "Broker did not set device"))?;
    let counter = |name: &str| u32::try_from(path::number(&sent, name)).unwrap_or(u32::MAX);
    let half = network_half_of(&lorawan, network.as_ref(), counter("f_cnt_up"), counter("f_cnt_down"));
    store.put(Table::V2Network, &stored::network_key(&lorawan), half).map_err(failed)?;

    attributes(&request)?;
    let mut device = request;
    path::set(&mut device, "lorawan_device", Value::Message(lorawan));
    store.put(Table::V2Devices, &key, device).map_err(failed)
}

/// With other EUIs the Network Server's half is deleted, to be made anew.
fn move_network_half(
    store: &mut Store,
    access: &Access,
    before: &DynamicMessage,
    sent: &DynamicMessage,
) -> Result<(), Status> {
    let key = stored::network_key(before);
    if key == stored::network_key(sent) {
        return Ok(());
    }
    let missing = || Status::not_found(format!("ns:device:{} not found", key.replace('.', ":")));
    let old = network_half(store, access, before).and_then(|half| half.ok_or_else(missing));
    old.map_err(|e| wrap(&e, "Broker did not delete device"))?;
    store.remove(Table::V2Network, &key).map_err(failed)?;
    Ok(())
}

/// A pair of EUIs is unique in an application, where it is created.
fn euis_are_free(store: &Store, access: &Access, sent: &DynamicMessage) -> Result<(), Status> {
    let key = stored::network_key(sent);
    let prefix = device_key(&access.application, "");
    let mut devices = store.starting(Table::V2Devices, &prefix);
    if devices.any(|(_, device)| stored::network_key(&stored::lorawan(device)) == key) {
        return Err(Status::already_exists("Device with AppEUI and DevEUI already exists"));
    }
    Ok(())
}

/// The handler's LoRaWAN half after the call: counters are the Network Server's.
fn merged(
    before: Option<&DynamicMessage>,
    sent: &DynamicMessage,
    request: &DynamicMessage,
) -> DynamicMessage {
    let mut lorawan = sent.clone();
    for outer in ["app_id", "dev_id"] {
        path::set(&mut lorawan, outer, Value::String(path::string(request, outer)));
    }
    let kept = |field: &str| before.and_then(|before| path::get(before, field)).map(|v| v.into_owned());
    for (field, _) in stored::ALWAYS {
        if let (None, Some(value)) = (path::get(&lorawan, field), kept(field)) {
            path::set(&mut lorawan, field, value);
        }
    }
    if let Some(before) = before {
        let new_key = path::get(sent, "app_key")
            .is_some_and(|_| path::bytes(sent, "app_key") != path::bytes(before, "app_key"));
        for nonces in ["used_dev_nonces", "used_app_nonces"] {
            path::clear(&mut lorawan, nonces);
            if let Some(value) = kept(nonces).filter(|_| !new_key) {
                path::set(&mut lorawan, nonces, value);
            }
        }
    }
    if path::string(&lorawan, "activation_constraints").is_empty() {
        path::set(&mut lorawan, "activation_constraints", Value::String("local".to_owned()));
    }
    for counter in ["f_cnt_up", "f_cnt_down", "last_seen"] {
        path::clear(&mut lorawan, counter);
    }
    stored::fill(&mut lorawan);
    lorawan
}

/// The Network Server's half after the call: of what it had only the time when the device was seen stays. Its frame
/// history and ADR state, which end here too, are not kept at all.
pub(super) fn network_half_of(
    lorawan: &DynamicMessage,
    before: Option<&DynamicMessage>,
    f_cnt_up: u32,
    f_cnt_down: u32,
) -> DynamicMessage {
    let mut half = proto::message("lorawan.Device");
    let fields = [
        "app_eui",
        "dev_eui",
        "app_id",
        "dev_id",
        "dev_addr",
        "nwk_s_key",
        "disable_f_cnt_check",
        "uses32_bit_f_cnt",
        "activation_constraints",
    ];
    for field in fields {
        if let Some(value) = path::get(lorawan, field) {
            path::set(&mut half, field, value.into_owned());
        }
    }
    path::set(&mut half, "f_cnt_up", Value::U32(f_cnt_up));
    path::set(&mut half, "f_cnt_down", Value::U32(f_cnt_down));
    if let Some(seen) = before.and_then(|before| path::get(before, "last_seen")) {
        path::set(&mut half, "last_seen", seen.into_owned());
    }
    half
}

/// Refuses too many or too long attributes (`RedisDeviceStore.Set`).
fn attributes(device: &DynamicMessage) -> Result<(), Status> {
    let refused = |text: String| Err(Status::new(Code::Unknown, text));
    let value = path::get(device, "attributes");
    let map = value.as_ref().and_then(|value| value.as_map());
    let mut custom = 0;
    for (key, value) in map.into_iter().flatten() {
        let (key, value) = (key.as_str().unwrap_or_default(), value.as_str().unwrap_or_default());
        if BUILT_IN.contains(&key) {
            continue;
        }
        if key.len() > LONGEST {
            return refused(format!("Attribute key \"{key}\" exceeds maximum length ({LONGEST})"));
        }
        if value.len() > LONGEST {
            return refused(format!("Attribute value for key \"{key}\" exceeds maximum length ({LONGEST})"));
        }
        custom += 1;
        if custom > MOST_CUSTOM {
            return refused(format!("Maximum number of custom attributes ({MOST_CUSTOM}) exceeded"));
        }
    }
    Ok(())
}
