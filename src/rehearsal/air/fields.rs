//! Fields of device records as the simulated servers read and write them.

use std::sync::Arc;

use jiff::Timestamp;
use prost_reflect::{DynamicMessage, ReflectMessage as _, Value, prost::bytes::Bytes};

use crate::{
    map::path,
    model::device::Component,
    proto,
    rehearsal::{
        lorawan::{DataFrame, JoinRequest, Key, MacVersion, TX_CHANNEL, TX_DATA_RATE},
        store::{Store, Table},
    },
};

use super::Dropped;

/// `MType` of the API.
pub const JOIN_REQUEST: i32 = 0;
/// `MType` of the API.
pub const JOIN_ACCEPT: i32 = 1;
/// Most uplinks kept in `mac_state.recent_uplinks` (upstream `pkg/networkserver/grpc_gsns.go`).
const RECENT_UPLINKS: usize = 20;
/// Most downlinks kept in `mac_state.recent_downlinks` (upstream `pkg/networkserver/networkserver.go`).
const RECENT_DOWNLINKS: usize = 5;

/// True when the Network Server may send to this device: `schedule_downlinks` is absent or true (upstream
/// `pkg/networkserver/mac/utils.go`, `DeviceScheduleDownlinks`).
pub fn may_send(ns: &DynamicMessage) -> bool {
    path::wrapped_flag(ns, "mac_settings.schedule_downlinks").unwrap_or(true)
}

pub fn counter(message: &DynamicMessage, at: &str) -> u32 {
    u32::try_from(path::number(message, at)).unwrap_or(u32::MAX)
}

pub fn set_counter(message: &mut DynamicMessage, at: &str, n: u32) {
    path::set(message, at, Value::U32(n));
}

pub fn set_bytes(message: &mut DynamicMessage, at: &str, bytes: &[u8]) {
    path::set(message, at, Value::Bytes(Bytes::copy_from_slice(bytes)));
}

pub fn set_key(message: &mut DynamicMessage, at: &str, key: &Key) {
    set_bytes(message, &format!("{at}.key"), key.bytes());
}

pub fn key(message: &DynamicMessage, at: &str) -> Option<Key> {
    Key::from_bytes(&path::bytes(message, &format!("{at}.key")))
}

/// The MAC version in use by a MAC state, or by the device when the path is `lorawan_version`.
pub fn version(message: &DynamicMessage, at: &str) -> Option<MacVersion> {
    MacVersion::from_number(path::number(message, at))
}

pub fn list(message: &DynamicMessage, at: &str) -> Vec<DynamicMessage> {
    let value = path::get(message, at);
    let items = value.iter().filter_map(|v| v.as_list()).flatten();
    items.filter_map(|v| v.as_message().cloned()).collect()
}

/// How many are in a list, without a copy of it.
pub fn length(message: &DynamicMessage, at: &str) -> usize {
    path::get(message, at).and_then(|value| value.as_list().map(<[Value]>::len)).unwrap_or(0)
}

/// The last of a list, without a copy of the others.
pub fn last(message: &DynamicMessage, at: &str) -> Option<DynamicMessage> {
    path::get(message, at)?.as_list()?.last()?.as_message().cloned()
}

pub fn set_list(message: &mut DynamicMessage, at: &str, items: Vec<DynamicMessage>) {
    if items.is_empty() {
        path::clear(message, at);
    } else {
        path::set(message, at, Value::List(items.into_iter().map(Value::Message).collect()));
    }
}

pub fn stamp(message: &mut DynamicMessage, at: &str, now: Timestamp) {
    let mut time = proto::message("google.protobuf.Timestamp");
    path::set(&mut time, "seconds", Value::I64(now.as_second()));
    path::set(&mut time, "nanos", Value::I32(now.subsec_nanosecond()));
    path::set(message, at, Value::Message(time));
}

pub fn time(message: &DynamicMessage, at: &str) -> Option<Timestamp> {
    let time = path::child(message, at)?;
    let seconds = time.get_field_by_name("seconds")?.as_i64()?;
    Timestamp::new(seconds, time.get_field_by_name("nanos")?.as_i32()?).ok()
}

/// The record of a component, when it has one.
pub fn record(store: &Store, component: Component, key: &str) -> Option<DynamicMessage> {
    store.get(Table::of(component), key).cloned()
}

/// Stores a record with a new `updated_at`, as every registry does.
pub fn put(
    store: &mut Store,
    component: Component,
    key: &str,
    mut message: DynamicMessage,
    now: Timestamp,
) -> Result<(), Dropped> {
    stamp(&mut message, "updated_at", now);
    Ok(store.put(Table::of(component), key, message)?)
}

/// The record of a component as it is stored, without a copy.
pub fn stored(store: &Store, component: Component, key: &str) -> Option<Arc<DynamicMessage>> {
    store.shared(Table::of(component), key).cloned()
}

/// Takes the message out of a field, which is empty afterwards.
pub fn take(message: &mut DynamicMessage, field: &str) -> Option<DynamicMessage> {
    match taken(message, field)? {
        Value::Message(inner) => Some(inner),
        _ => None,
    }
}

/// Takes the messages out of a list, which is empty afterwards.
fn take_list(message: &mut DynamicMessage, field: &str) -> Vec<DynamicMessage> {
    let Some(Value::List(items)) = taken(message, field) else { return Vec::new() };
    let message = |item| if let Value::Message(message) = item { Some(message) } else { None };
    items.into_iter().filter_map(message).collect()
}

fn taken(message: &mut DynamicMessage, field: &str) -> Option<Value> {
    let field = message.descriptor().get_field_by_name(field)?;
    if !message.has_field(&field) {
        return None;
    }
    let value = std::mem::replace(message.get_field_mut(&field), Value::Bool(false));
    message.clear_field(&field);
    Some(value)
}

/// `activated_at` (once, at the first uplink that the Application Server takes) and `last_seen_at` of the IS record.
pub fn seen(store: &mut Store, key: &str, now: Timestamp, activated: bool) -> Result<(), Dropped> {
    let Some(mut is) = record(store, Component::Is, key) else { return Ok(()) };
    // The Identity Server's database keeps microseconds.
    let now = Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now);
    stamp(&mut is, "last_seen_at", now);
    if activated {
        stamp(&mut is, "activated_at", now);
    }
    Ok(store.put(Table::Is, key, is)?)
}

/// The MAC state of a device that starts anew. The channels and receive windows of the MAC state it had are kept;
/// without one they are those of EU868, as the embedded servers have no frequency plans.
pub fn fresh_mac_state(ns: &DynamicMessage) -> DynamicMessage {
    let mut state = proto::message("MACState");
    let old = |name: &str| path::child(ns, &format!("mac_state.{name}"));
    let current = old("current_parameters").unwrap_or_else(eu868);
    let desired = old("desired_parameters").unwrap_or_else(|| current.clone());
    path::set(&mut state, "current_parameters", Value::Message(current));
    path::set(&mut state, "desired_parameters", Value::Message(desired));
    path::set(&mut state, "lorawan_version", Value::EnumNumber(path::number(ns, "lorawan_version") as i32));
    path::set(&mut state, "device_class", Value::EnumNumber(default_class(ns)));
    if let Some(period) = path::get(ns, "mac_settings.ping_slot_periodicity") {
        path::set(&mut state, "ping_slot_periodicity", period.into_owned());
    }
    state
}

/// Upstream `pkg/networkserver/mac/utils.go`, `DeviceDefaultClass`: A = 0, B = 1, C = 2.
fn default_class(ns: &DynamicMessage) -> i32 {
    let is_1_1 = version(ns, "lorawan_version").is_some_and(MacVersion::is_1_1);
    let multicast = path::flag(ns, "multicast");
    match (path::flag(ns, "supports_class_c"), path::flag(ns, "supports_class_b")) {
        (true, _) if !is_1_1 || multicast => 2,
        (false, true) if multicast => 1,
        _ => 0,
    }
}

fn eu868() -> DynamicMessage {
    let mut parameters = proto::message("MACParameters");
    for (at, value) in [
        ("max_eirp", Value::F32(16.0)),
        ("adr_nb_trans", Value::U32(1)),
        ("rx1_delay", Value::EnumNumber(5)),
        ("rx2_frequency", Value::U64(869_525_000)),
        ("ping_slot_frequency", Value::U64(869_525_000)),
        ("beacon_frequency", Value::U64(869_525_000)),
    ] {
        path::set(&mut parameters, at, value);
    }
    let channels = [868_100_000, 868_300_000, 868_500_000].map(|frequency| {
        let mut channel = proto::message("MACParameters.Channel");
        path::set(&mut channel, "uplink_frequency", Value::U64(frequency));
        path::set(&mut channel, "downlink_frequency", Value::U64(frequency));
        path::set(&mut channel, "max_data_rate_index", Value::EnumNumber(5));
        path::set(&mut channel, "enable_uplink", Value::Bool(true));
        channel
    });
    set_list(&mut parameters, "channels", channels.into());
    parameters
}

/// Adds to the recent uplinks of a MAC state. As upstream does, only the last keeps its way back to the gateway.
pub fn push_uplink(state: &mut DynamicMessage, payload: DynamicMessage, now: Timestamp) {
    let mut recent = take_list(state, "recent_uplinks");
    if let Some(last) = recent.last_mut() {
        path::clear(last, "correlation_ids");
        let mut metadata = list(last, "rx_metadata");
        for gateway in &mut metadata {
            path::clear(gateway, "uplink_token");
            path::set(gateway, "downlink_path_constraint", Value::EnumNumber(2));
        }
        set_list(last, "rx_metadata", metadata);
    }
    let mut up = proto::message("MACState.UplinkMessage");
    path::set(&mut up, "payload", Value::Message(payload));
    path::set(&mut up, "settings.data_rate.lora.bandwidth", Value::U32(125_000));
    path::set(&mut up, "settings.data_rate.lora.spreading_factor", Value::U32(7));
    path::set(&mut up, "settings.data_rate.lora.coding_rate", Value::String("4/5".into()));
    let mut gateway = proto::message("MACState.UplinkMessage.RxMetadata");
    path::set(&mut gateway, "gateway_ids.gateway_id", Value::String("simulated-gateway".into()));
    path::set(&mut gateway, "channel_rssi", Value::F32(-57.0));
    path::set(&mut gateway, "snr", Value::F32(8.5));
    set_bytes(&mut gateway, "uplink_token", &now.as_nanosecond().to_be_bytes());
    set_list(&mut up, "rx_metadata", vec![gateway]);
    stamp(&mut up, "received_at", now);
    path::set(&mut up, "device_channel_index", Value::U32(TX_CHANNEL.into()));
    recent.push(up);
    recent.drain(..recent.len().saturating_sub(RECENT_UPLINKS));
    set_list(state, "recent_uplinks", recent);
    path::set(state, "current_parameters.adr_data_rate_index", Value::EnumNumber(TX_DATA_RATE.into()));
}

/// Adds to the recent downlinks of a MAC state: all that upstream keeps of one.
pub fn push_downlink(state: &mut DynamicMessage, m_type: i32, f_port: u8, f_cnt: u32) {
    let mut recent = take_list(state, "recent_downlinks");
    let mut down = proto::message("MACState.DownlinkMessage");
    path::set(&mut down, "payload.m_hdr.m_type", Value::EnumNumber(m_type));
    if m_type != JOIN_ACCEPT {
        set_counter(&mut down, "payload.mac_payload.f_port", f_port.into());
        set_counter(&mut down, "payload.mac_payload.full_f_cnt", f_cnt);
    }
    recent.push(down);
    recent.drain(..recent.len().saturating_sub(RECENT_DOWNLINKS));
    set_list(state, "recent_downlinks", recent);
}

/// A data uplink as a `Message`.
pub fn data_message(frame: &DataFrame, mic: [u8; 4]) -> DynamicMessage {
    let mut message = proto::message("Message");
    path::set(&mut message, "m_hdr.m_type", Value::EnumNumber(if frame.confirmed { 4 } else { 2 }));
    set_bytes(&mut message, "mic", &mic);
    set_bytes(&mut message, "mac_payload.f_hdr.dev_addr", &frame.dev_addr.0);
    path::touch(&mut message, "mac_payload.f_hdr.f_ctrl");
    if frame.f_ctrl.ack {
        path::set(&mut message, "mac_payload.f_hdr.f_ctrl.ack", Value::Bool(true));
    }
    set_counter(&mut message, "mac_payload.f_hdr.f_cnt", frame.f_cnt & 0xffff);
    set_bytes(&mut message, "mac_payload.f_hdr.f_opts", &frame.f_opts);
    set_counter(&mut message, "mac_payload.f_port", frame.f_port.unwrap_or(0).into());
    set_bytes(&mut message, "mac_payload.frm_payload", &frame.payload);
    set_counter(&mut message, "mac_payload.full_f_cnt", frame.f_cnt);
    message
}

/// A join-request as a `Message`.
pub fn join_message(request: &JoinRequest, phy: &[u8]) -> DynamicMessage {
    let mut message = proto::message("Message");
    path::set(&mut message, "m_hdr.m_type", Value::EnumNumber(JOIN_REQUEST));
    set_bytes(&mut message, "mic", phy.last_chunk::<4>().map_or(&[], |mic| mic.as_slice()));
    set_bytes(&mut message, "join_request_payload.join_eui", &request.join_eui.0);
    set_bytes(&mut message, "join_request_payload.dev_eui", &request.dev_eui.0);
    set_bytes(&mut message, "join_request_payload.dev_nonce", &request.dev_nonce.to_be_bytes());
    message
}
