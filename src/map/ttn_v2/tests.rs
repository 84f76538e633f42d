//! The view, the records, and the messages that clear and restore, over arbitrary devices and the real list.

use std::collections::BTreeSet;

use proptest::prelude::*;
use prost_reflect::{DynamicMessage, Value};
use zeroize::Zeroizing;

use super::{
    generate::{as_read, device, same},
    *,
};
use crate::{
    map::rules,
    model::{device::Component, ids::is_id},
    proto,
};

const KEY_ID: [u8; 16] = [7; 16];

/// The devices of a real application.
pub(crate) fn fleet() -> Vec<V2Device> {
    let list = include_str!("../../../tests/fixtures/ttn-v2-fleet.json");
    let mut reader = serde_json::Deserializer::from_str(list);
    let list =
        DynamicMessage::deserialize(proto::descriptor("handler.DeviceList"), &mut reader).expect("a list");
    let devices = path::get(&list, "devices").expect("devices").into_owned();
    devices
        .as_list()
        .expect("a list")
        .iter()
        .map(|d| V2Device::new(d.as_message().expect("a device").clone()))
        .collect()
}

fn lengths(message: &DynamicMessage) -> Vec<Option<usize>> {
    ["app_key", "app_s_key", "nwk_s_key", "dev_addr"]
        .into_iter()
        .map(|f| path::has(message, &lorawan(f)).then(|| path::bytes(message, &lorawan(f)).len()))
        .collect()
}

/// Everything of a device but its keys and its DevAddr.
fn rest(message: &DynamicMessage) -> DynamicMessage {
    let mut message = message.clone();
    for field in ["app_key", "app_s_key", "nwk_s_key", "dev_addr"] {
        path::clear(&mut message, &lorawan(field));
    }
    message
}

/// What SetDevice leaves of what was stored (facts of `docs/servers.md`, V2 SetDevice): absent keys are kept, all else is as sent.
fn set_device(stored: &DynamicMessage, sent: &DynamicMessage) -> DynamicMessage {
    let mut after = sent.clone();
    for field in ["app_key", "app_s_key", "nwk_s_key", "dev_addr"] {
        if !path::has(sent, &lorawan(field)) && path::has(stored, &lorawan(field)) {
            let kept = path::bytes(stored, &lorawan(field));
            path::set(&mut after, &lorawan(field), Value::Bytes(kept.into()));
        }
    }
    after
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_clear_takes_the_keys_and_keeps_everything_else(device in device(), session: bool) {
        let read = as_read(&device);
        let sent = cleared(read.message(), session);
        prop_assert!(same(&rest(&sent), &rest(read.message())));
        let all = if session { vec![Some(16), Some(16), Some(16), Some(4)] } else { vec![Some(16), None, None, None] };
        prop_assert_eq!(lengths(&sent), all);
        let after = V2Device::new(set_device(read.message(), &sent));
        prop_assert!(is_cleared(after.message(), session));
        prop_assert!(after.app_key().is_none());
        prop_assert_eq!(after.dev_addr(), if session { None } else { read.dev_addr() });
        prop_assert_eq!(after.nwk_s_key(), if session { None } else { read.nwk_s_key() });
        prop_assert_eq!(after.f_cnt_up(), read.f_cnt_up());
        // A device is cleared when it has none of these, and not before.
        let held = read.app_key().is_some()
            || (session && (read.dev_addr().is_some() || read.nwk_s_key().is_some() || read.app_s_key().is_some()));
        prop_assert_eq!(is_cleared(read.message(), session), !held);
    }

    #[test]
    fn what_is_cleared_is_restored_from_the_seal(device in device(), session: bool) {
        let seal = as_read(&device);
        let cleared = set_device(seal.message(), &cleared(seal.message(), session));
        let sent = restored(&seal, None, V2Device::new(cleared.clone()).f_cnt_up(), 0);
        prop_assert!(same(&set_device(&cleared, &sent), seal.message()));
        // Also from a seal in which what V2 does not have is absent: nothing of a later session is left.
        let sent = restored(&device, None, 0, 0);
        prop_assert!(same(&set_device(&cleared, &sent), seal.message()));
    }

    #[test]
    fn a_restore_never_lowers_a_counter_of_the_same_session(device in device(), up: u32, down: u32) {
        let seal = as_read(&device);
        let sent = V2Device::new(restored(&seal, None, up, down));
        prop_assert_eq!(sent.f_cnt_up(), up.max(seal.f_cnt_up()));
        prop_assert_eq!(sent.f_cnt_down(), down.max(seal.f_cnt_down()));
        let newer = Session {
            dev_addr: DevAddr([1, 2, 3, 4]),
            nwk_s_key: Zeroizing::new(vec![5; 16]),
            app_s_key: Zeroizing::new(vec![6; 16]),
        };
        let sent = V2Device::new(restored(&seal, Some(&newer), up, down));
        prop_assert_eq!((sent.f_cnt_up(), sent.f_cnt_down()), (up, down));
        prop_assert_eq!(sent.dev_addr(), Some(newer.dev_addr));
        prop_assert_eq!(sent.nwk_s_key(), Some(newer.nwk_s_key.clone()));
        prop_assert_eq!(sent.app_s_key(), Some(newer.app_s_key.clone()));
        prop_assert_eq!(sent.app_key(), seal.app_key());
    }

    #[test]
    fn records_hold_what_the_device_holds(device in device()) {
        let records = records(&device, &KEY_ID);
        prop_assert_eq!(records.js.is_some(), device.is_otaa());
        let ns = &records.ns.as_ref().expect("always").0;
        let as_ = &records.as_.as_ref().expect("always").0;
        prop_assert_eq!(path::flag(ns, "supports_join"), device.is_otaa());
        prop_assert_eq!(path::has(ns, "session"), device.has_session());
        prop_assert_eq!(path::has(as_, "session"), device.has_session());
        if device.has_session() {
            let addr = device.dev_addr().expect("a session");
            prop_assert_eq!(path::bytes(ns, "session.dev_addr"), addr.0.to_vec());
            prop_assert_eq!(path::number(ns, "session.last_f_cnt_up"), u64::from(device.f_cnt_up()));
            let id = path::bytes(ns, "session.keys.session_key_id");
            prop_assert_eq!(&id, &path::bytes(as_, "session.keys.session_key_id"));
            prop_assert_eq!(id, if device.is_otaa() { KEY_ID.to_vec() } else { Vec::new() });
        }
        for (_, record) in records.present() {
            prop_assert_eq!(record.dev_eui(), (!device.is_template()).then(|| device.dev_eui()));
            prop_assert_eq!(record.join_eui(), Some(device.app_eui()));
        }
    }

    #[test]
    fn no_number_of_a_downlink_is_used_twice(next: u32) {
        let last = last_n_f_cnt_down(next);
        // `pkg/networkserver/downlink.go`: after a last of 0 without downlinks on record, 0 is sent.
        let sends = if last == 0 { 0 } else { u64::from(last) + 1 };
        prop_assert!(sends >= u64::from(next) && sends <= u64::from(next) + 1);
        prop_assert!(f_cnt_down_of(last) >= next);
    }

    #[test]
    fn degrees_are_the_shortest_that_are_the_same(degree in -180.0_f32..180.0) {
        #[expect(clippy::cast_possible_truncation)]
        let back = degrees(degree) as f32;
        prop_assert_eq!(back, degree);
        prop_assert!(degrees(degree).to_string().len() <= f64::from(degree).to_string().len());
    }

    #[test]
    fn a_mapped_name_is_one_that_the_target_takes(key in "\\PC{0,64}") {
        let name = mapped_key(&key);
        prop_assert!(is_id(&name), "{}", name);
        prop_assert_eq!(mapped_key(&name), name);
    }

    #[test]
    fn every_attribute_is_kept_or_named(device in device()) {
        let attributes = device.attributes();
        let mapped = Attributes::of(&attributes);
        prop_assert_eq!(mapped.map.len() + mapped.clashes.len(), attributes.len());
        for (key, value) in &attributes {
            let lost = mapped.clashes.iter().any(|(from, _)| from == key);
            prop_assert!(lost || mapped.map.get(&mapped_key(key)) == Some(value));
        }
    }
}

#[test]
fn degrees_are_as_they_were_typed() {
    assert_eq!(degrees(52.3731), 52.3731);
    assert_eq!(degrees(4.8922), 4.8922);
    assert_eq!(degrees(-0.5), -0.5);
}

#[test]
fn keys_are_not_in_what_is_printed() {
    for device in fleet() {
        assert_eq!(format!("{device:?}"), format!("V2Device(fleet-v2/{})", device.dev_id()));
    }
    let keys = || Zeroizing::new(vec![0xab; 16]);
    let session = Session { dev_addr: DevAddr([1; 4]), nwk_s_key: keys(), app_s_key: keys() };
    assert_eq!(format!("{session:?}"), "Session(01010101)");
}

#[test]
fn the_real_list_is_read() {
    let fleet = fleet();
    assert_eq!(fleet.len(), 61);
    let count = |which: fn(&V2Device) -> bool| fleet.iter().filter(|d| which(d)).count();
    assert_eq!((count(V2Device::is_template), count(V2Device::has_broken_session)), (1, 0));
    assert!(
        count(V2Device::is_otaa) > 40 && count(V2Device::is_abp) > 5 && count(V2Device::has_session) > 20
    );
    for device in &fleet {
        assert_eq!(device.app_id(), "fleet-v2");
        assert_eq!(device.unknown_fields(), []);
    }
}

#[test]
fn records_of_the_real_list_break_no_rule_but_those_that_the_plan_names() {
    let mut broken = BTreeSet::new();
    for device in fleet() {
        for (component, record) in records(&device, &KEY_ID).present() {
            for violation in rules::violations(&record.0) {
                broken.insert((component == Component::Is, violation.path()));
            }
        }
    }
    // IDs and one long description; what no source names is set by the plan.
    let paths: BTreeSet<_> = broken.iter().map(|(_, path)| path.as_str()).collect();
    assert_eq!(paths, ["description", "ids.device_id"].into());
}
