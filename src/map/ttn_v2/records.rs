//! The records of The Things Stack that stand for a device of V2, so that the planner goes on with them as with any other.

use prost_reflect::{DynamicMessage, MapKey, Value};

use super::{Attributes, V2Device};
use crate::{
    map::path,
    model::device::{Record, Records},
    proto,
};

/// What the records call the servers of V2; the planner puts the target's own in its place.
pub const HOST: &str = "ttn-v2.invalid";

/// LoRaWAN version of every V2 device, unless the configuration says another (issue of V2 as a source; `ttn-lw-migrate`,
/// `pkg/source/ttnv2/source.go`).
pub const MAC_VERSION: &str = "MAC_V1_0_2";
/// Regional parameters of every V2 device, unless the configuration says another (the same place).
pub const PHY_VERSION: &str = "RP001_V1_0_2_REV_B";

/// The key under which a location that a user gave is kept (`pkg/ttnpb`, `locations`).
const USER: &str = "user";

/// The records that stand for a device. A record is made only where it holds something: no JS record for a device that does
/// not join.
///
/// `session_key_id` names the session of a device that joined, which V2 has no name for: the caller draws 16 bytes once and
/// keeps them. Frequency plan and MAC state are the target's matter and come with the plan (`plan::ttn_v2`).
pub fn records(device: &V2Device, session_key_id: &[u8]) -> Records {
    let mut records = Records {
        is: Some(Record(identity(device))),
        js: None,
        as_: Some(Record(application(device, session_key_id))),
        ns: Some(Record(network(device, session_key_id))),
    };
    if let Some(key) = device.app_key() {
        let mut js = identified(device);
        path::set(&mut js, "root_keys.app_key.key", Value::Bytes(key.to_vec().into()));
        addresses(&mut js, &["network_server_address", "application_server_address"]);
        records.js = Some(Record(js));
    }
    records
}

/// A record with the identifiers of the device. A zero DevEUI is none; a zero JoinEUI is one like any other.
fn identified(device: &V2Device) -> DynamicMessage {
    let mut record = proto::message("EndDevice");
    path::set(&mut record, "ids.device_id", Value::String(device.dev_id()));
    path::set(&mut record, "ids.application_ids.application_id", Value::String(device.app_id()));
    path::set(&mut record, "ids.join_eui", Value::Bytes(device.app_eui().0.to_vec().into()));
    if !device.is_template() {
        path::set(&mut record, "ids.dev_eui", Value::Bytes(device.dev_eui().0.to_vec().into()));
    }
    record
}

fn addresses(record: &mut DynamicMessage, fields: &[&str]) {
    for field in fields {
        path::set(record, field, Value::String(HOST.to_owned()));
    }
}

fn identity(device: &V2Device) -> DynamicMessage {
    let mut record = identified(device);
    path::set(&mut record, "description", Value::String(device.description()));
    let attributes = Attributes::of(&device.attributes()).map;
    let map = attributes.into_iter().map(|(k, v)| (MapKey::String(k), Value::String(v))).collect();
    path::set(&mut record, "attributes", Value::Map(map));
    if let Some((latitude, longitude, altitude)) = device.location() {
        let mut location = proto::message("Location");
        path::set(&mut location, "latitude", Value::F64(latitude));
        path::set(&mut location, "longitude", Value::F64(longitude));
        path::set(&mut location, "altitude", Value::I32(altitude));
        path::set(&mut location, "source", enumeration("LocationSource", "SOURCE_REGISTRY"));
        let user = (MapKey::String(USER.to_owned()), Value::Message(location));
        path::set(&mut record, "locations", Value::Map([user].into()));
    }
    if let Some(at) = device.last_seen() {
        timestamp(&mut record, "last_seen_at", at);
    }
    addresses(&mut record, &["network_server_address", "application_server_address"]);
    if device.is_otaa() {
        addresses(&mut record, &["join_server_address"]);
    }
    record
}

fn application(device: &V2Device, session_key_id: &[u8]) -> DynamicMessage {
    let mut record = identified(device);
    if !device.has_session() {
        return record;
    }
    session(&mut record, device, session_key_id);
    if let Some(key) = device.app_s_key() {
        path::set(&mut record, "session.keys.app_s_key.key", Value::Bytes(key.to_vec().into()));
    }
    // LoRaWAN 1.0.x has one counter of downlinks, of which AS and NS each keep their view.
    let last = last_n_f_cnt_down(device.f_cnt_down());
    path::set(&mut record, "session.last_a_f_cnt_down", Value::U32(last));
    record
}

fn network(device: &V2Device, session_key_id: &[u8]) -> DynamicMessage {
    let mut record = identified(device);
    let mut set = |at: &str, value: Value| path::set(&mut record, at, value);
    set("supports_join", Value::Bool(device.is_otaa()));
    set("lorawan_version", enumeration("MACVersion", MAC_VERSION));
    set("lorawan_phy_version", enumeration("PHYVersion", PHY_VERSION));
    // Said also when it is false: V2 then counts 16 bits, where The Things Stack takes 32 by default.
    set("mac_settings.supports_32_bit_f_cnt.value", Value::Bool(device.uses_32_bit_f_cnt()));
    if device.disable_f_cnt_check() {
        set("mac_settings.resets_f_cnt.value", Value::Bool(true));
    }
    // V2 never asks devices for their status (no DevStatusReq in `core/networkserver`).
    set("mac_settings.status_count_periodicity.value", Value::U32(0));
    set("mac_settings.status_time_periodicity", Value::Message(proto::message("google.protobuf.Duration")));
    if device.is_abp() {
        // The first window of V2 opens after a second; a fresh MAC state would take the band's own default.
        set("mac_settings.rx1_delay.value", enumeration("RxDelay", "RX_DELAY_1"));
    }
    if device.has_session() {
        network_session(&mut record, device, session_key_id);
    }
    record
}

fn network_session(record: &mut DynamicMessage, device: &V2Device, session_key_id: &[u8]) {
    session(record, device, session_key_id);
    if let Some(key) = device.nwk_s_key() {
        // LoRaWAN 1.0.x: this one stands for all three, and the others may be absent (docs/servers.md, Network Server).
        for name in ["f_nwk_s_int_key", "s_nwk_s_int_key", "nwk_s_enc_key"] {
            let at = format!("session.keys.{name}.key");
            path::set(record, &at, Value::Bytes(key.to_vec().into()));
        }
    }
    path::set(record, "session.last_f_cnt_up", Value::U32(device.f_cnt_up()));
    let last = last_n_f_cnt_down(device.f_cnt_down());
    path::set(record, "session.last_n_f_cnt_down", Value::U32(last));
    if let Some(at) = device.last_seen() {
        timestamp(record, "session.started_at", at);
    }
}

/// What NS and AS both say of a session.
fn session(record: &mut DynamicMessage, device: &V2Device, session_key_id: &[u8]) {
    if let Some(addr) = device.dev_addr() {
        path::set(record, "session.dev_addr", Value::Bytes(addr.0.to_vec().into()));
        path::set(record, "ids.dev_addr", Value::Bytes(addr.0.to_vec().into()));
    }
    if device.is_otaa() {
        let id = Value::Bytes(session_key_id.to_vec().into());
        path::set(record, "session.keys.session_key_id", id);
    }
}

/// `last_n_f_cnt_down` for V2's FCntDown, which is that of the next downlink.
///
/// The Things Stack sends the last one and one more, but for 0 with no downlink on record, after which it sends 0 again
/// (`pkg/networkserver/downlink.go`). So a V2 device that was sent one downlink (next 1, last 0) gets 1: a number is skipped,
/// none is used twice.
pub fn last_n_f_cnt_down(next: u32) -> u32 {
    if next <= 1 { next } else { next - 1 }
}

/// V2's FCntDown for `last_n_f_cnt_down`. After 0 it is 1, whether or not 0 was ever sent: a number may be skipped.
pub fn f_cnt_down_of(last: u32) -> u32 {
    last.saturating_add(1)
}

/// Degrees as they were typed in: V2 keeps them as 32-bit floats, of which 52.3731 reads 52.37310028 when widened. The decimal
/// with the fewest digits that is the same 32-bit float is taken, which is the one that was typed.
pub fn degrees(degree: f32) -> f64 {
    degree.to_string().parse().unwrap_or_else(|_| f64::from(degree))
}

fn timestamp(record: &mut DynamicMessage, at: &str, nanoseconds: i64) {
    const SECOND: i64 = 1_000_000_000;
    let mut timestamp = proto::message("google.protobuf.Timestamp");
    path::set(&mut timestamp, "seconds", Value::I64(nanoseconds.div_euclid(SECOND)));
    let rest = i32::try_from(nanoseconds.rem_euclid(SECOND)).unwrap_or_default();
    path::set(&mut timestamp, "nanos", Value::I32(rest));
    path::set(record, at, Value::Message(timestamp));
}

fn enumeration(name: &str, value: &str) -> Value {
    let value = proto::enumeration(name).get_value_by_name(value);
    Value::EnumNumber(value.map_or(0, |v| v.number()))
}
