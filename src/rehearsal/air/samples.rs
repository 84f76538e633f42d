//! Devices and networks for the tests of the air and of the auditor.

use jiff::Timestamp;
use prost_reflect::{DynamicMessage, Value};

use super::{
    NetworkFacts,
    fields::{fresh_mac_state, record, set_bytes, set_key, stamp},
};
use crate::{
    map::path,
    model::{
        device::{Component, Record, Records},
        ids::{DevAddr, Eui64, NetId},
    },
    proto,
    rehearsal::{
        device::SimDevice,
        lorawan::{Key, MacVersion, SessionKeys},
        store::{Store, Table, device_key},
    },
};

pub const APPLICATION: &str = "meters";
pub const JOIN_EUI: Eui64 = Eui64([0x70, 0xB3, 0xD5, 0x7E, 0xD0, 0, 0, 1]);

pub fn facts(net_id: u8, block: &str) -> NetworkFacts {
    NetworkFacts { net_id: NetId([0, 0, net_id]), dev_addr_prefixes: vec![block.parse().expect("a prefix")] }
}

pub fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().expect("a time")
}

pub fn dev_eui(n: u8) -> Eui64 {
    Eui64([0x70, 0xB3, 0xD5, 0x7E, 0xD7, 0, 0, n])
}

pub fn device_id(n: u8) -> String {
    format!("meter-{n}")
}

pub fn key_of(n: u8) -> String {
    device_key(APPLICATION, &device_id(n))
}

fn base(n: u8) -> DynamicMessage {
    let mut device = proto::message("EndDevice");
    path::set(&mut device, "ids.device_id", Value::String(device_id(n)));
    path::set(&mut device, "ids.application_ids.application_id", Value::String(APPLICATION.into()));
    set_bytes(&mut device, "ids.dev_eui", &dev_eui(n).0);
    stamp(&mut device, "created_at", now());
    device
}

fn network_side(n: u8, version: MacVersion) -> DynamicMessage {
    let mut ns = base(n);
    path::set(&mut ns, "lorawan_version", Value::EnumNumber(version.number()));
    path::set(&mut ns, "lorawan_phy_version", Value::EnumNumber(1));
    path::set(&mut ns, "frequency_plan_id", Value::String("EU_863_870_TTN".into()));
    ns
}

fn store_all(store: &mut Store, records: &Records) {
    for (component, record) in records.present() {
        let key = device_key(APPLICATION, &record.device_id());
        store.put(Table::of(component), &key, record.0.clone()).expect("memory");
    }
}

fn app_key(n: u8) -> Key {
    Key::new([n; 16])
}

fn nwk_key(n: u8) -> Key {
    Key::new([n ^ 0x80; 16])
}

/// An OTAA device that never joined, in all four registries.
pub fn otaa(store: &mut Store, n: u8, version: MacVersion) -> SimDevice {
    let mut is = base(n);
    path::set(&mut is, "name", Value::String(format!("Meter {n}")));
    let mut js = base(n);
    set_key(&mut js, "root_keys.app_key", &app_key(n));
    if version.is_1_1() {
        set_key(&mut js, "root_keys.nwk_key", &nwk_key(n));
    }
    let mut ns = network_side(n, version);
    path::set(&mut ns, "supports_join", Value::Bool(true));
    let mut as_ = base(n);
    path::set(&mut as_, "formatters.up_formatter", Value::EnumNumber(2));
    for record in [&mut is, &mut js, &mut ns, &mut as_] {
        set_bytes(record, "ids.join_eui", &JOIN_EUI.0);
    }
    let all =
        Records { is: Some(Record(is)), js: Some(Record(js)), as_: Some(Record(as_)), ns: Some(Record(ns)) };
    store_all(store, &all);
    SimDevice::otaa(version, dev_eui(n), JOIN_EUI, app_key(n), version.is_1_1().then(|| nwk_key(n)))
}

fn session_keys(n: u8, version: MacVersion) -> SessionKeys {
    let key = |k: u8| Key::new(std::array::from_fn(|i| n ^ k ^ u8::try_from(i).expect("below 16")));
    let other = |k: u8| if version.is_1_1() { key(k) } else { key(1) };
    SessionKeys { f_nwk_s_int: key(1), s_nwk_s_int: other(2), nwk_s_enc: other(3), app_s: key(4) }
}

/// An ABP device in IS, AS and NS; `edit` changes the NS record before its MAC state is made.
pub fn abp(
    store: &mut Store,
    n: u8,
    version: MacVersion,
    edit: impl FnOnce(&mut DynamicMessage),
) -> SimDevice {
    let keys = session_keys(n, version);
    let addr = DevAddr([0x26, 0x0B, 0, n]);
    let mut ns = network_side(n, version);
    set_bytes(&mut ns, "ids.dev_addr", &addr.0);
    set_bytes(&mut ns, "session.dev_addr", &addr.0);
    set_key(&mut ns, "session.keys.f_nwk_s_int_key", &keys.f_nwk_s_int);
    set_key(&mut ns, "session.keys.s_nwk_s_int_key", &keys.s_nwk_s_int);
    set_key(&mut ns, "session.keys.nwk_s_enc_key", &keys.nwk_s_enc);
    edit(&mut ns);
    let state = fresh_mac_state(&ns);
    path::set(&mut ns, "mac_state", Value::Message(state));
    let mut as_ = base(n);
    set_bytes(&mut as_, "session.dev_addr", &addr.0);
    set_key(&mut as_, "session.keys.app_s_key", &keys.app_s);
    let all = Records { is: Some(Record(base(n))), js: None, as_: Some(Record(as_)), ns: Some(Record(ns)) };
    store_all(store, &all);
    SimDevice::from_records(&all).expect("a whole session")
}

/// A multicast group of class C.
pub fn multicast(store: &mut Store, n: u8) -> SimDevice {
    abp(store, n, MacVersion::V1_0_3, |ns| {
        path::set(ns, "multicast", Value::Bool(true));
        path::set(ns, "supports_class_c", Value::Bool(true));
    })
}

/// The MAC state of a session that begins.
pub fn mac_state(ns: &DynamicMessage) -> DynamicMessage {
    fresh_mac_state(ns)
}

/// What the four components hold of device `n`.
pub fn records(store: &Store, n: u8) -> Records {
    let one = |component| record(store, component, &key_of(n)).map(Record);
    Records {
        is: one(Component::Is),
        js: one(Component::Js),
        as_: one(Component::As),
        ns: one(Component::Ns),
    }
}

/// Changes a stored record.
pub fn edit(store: &mut Store, component: Component, n: u8, change: impl FnOnce(&mut DynamicMessage)) {
    let mut message = record(store, component, &key_of(n)).expect("stored");
    change(&mut message);
    store.put(Table::of(component), &key_of(n), message).expect("memory");
}

/// Forbids or allows downlinks.
pub fn mute(store: &mut Store, n: u8, muted: bool) {
    edit(store, Component::Ns, n, |ns| {
        path::set_wrapped(ns, "mac_settings.schedule_downlinks", Value::Bool(!muted));
    });
}
