//! What a partial message does.

use super::{
    super::samples::{attributes, bare, bytes, eui, full, identifier_only},
    *,
};

fn with_full() -> Arc<TtnV2> {
    let v2 = v2();
    v2.set(full("a1")).expect("created");
    v2
}

fn clear(device: &mut DynamicMessage, field: &str) {
    path::clear(device, &format!("lorawan_device.{field}"));
}

#[test]
fn what_is_set_whole_is_read_back_equal() {
    let v2 = with_full();
    assert_eq!(v2.get("a1").expect("there"), full("a1"));
    // A second time: nothing depends on the first.
    v2.set(full("a1")).expect("updated");
    assert_eq!(v2.get("a1").expect("there"), full("a1"));
}

#[test]
fn without_its_lorawan_half_or_its_ids_nothing_is_taken() {
    let v2 = with_full();
    refused(
        v2.set(identifier_only("a1")),
        Code::InvalidArgument,
        "Invalid Device: Device not valid: can not be empty",
    );
    for nested in ["app_id", "dev_id"] {
        let mut device = full("a1");
        clear(&mut device, nested);
        let status = v2.set(device).expect_err("no ID");
        assert_eq!(status.code(), Code::InvalidArgument, "{nested}");
    }
    let mut other = full("a1");
    path::set(&mut other, "lorawan_device.dev_id", Value::String("a2".into()));
    v2.set(other).expect("the outer ID wins");
    assert_eq!(v2.get("a1").expect("there"), full("a1"));
    refused(v2.get("a2"), Code::NotFound, "handler:device:fleet:a2 not found");
}

#[test]
fn keys_and_address_are_kept_when_absent_and_cleared_by_zeros() {
    for (field, length) in stored::ALWAYS {
        let v2 = with_full();
        let mut device = full("a1");
        clear(&mut device, field);
        v2.set(device).expect("updated");
        assert_eq!(v2.get("a1").expect("there"), full("a1"), "{field} is kept");

        let mut cleared = full("a1");
        path::set(&mut cleared, &format!("lorawan_device.{field}"), bytes(0, *length));
        v2.set(cleared.clone()).expect("updated");
        assert_eq!(v2.get("a1").expect("there"), cleared, "{field} is cleared, all else is as it was");
        let listed = v2.list(&[]).expect("a list").message;
        let listed = path::get(&listed, "devices").and_then(|v| v.as_list()?.first()?.as_message().cloned());
        let half = stored::lorawan(&listed.expect("one device"));
        assert_eq!(path::bytes(&half, field), vec![0; *length], "{field} in the list");
        assert!(path::has(&half, field), "zeros are there, they are not absent");

        v2.set(full("a1")).expect("restored");
        assert_eq!(v2.get("a1").expect("there"), full("a1"), "the way back is exact");
    }
}

#[test]
fn zeros_of_a_wrong_length_cannot_be_read() {
    let v2 = with_full();
    for (field, _) in stored::ALWAYS {
        for length in [0, 1, 15, 17] {
            let mut device = full("a1");
            path::set(&mut device, &format!("lorawan_device.{field}"), bytes(0, length));
            let what = if *field == "dev_addr" { "DevAddr" } else { "AES128Key" };
            let text = format!("grpc: error unmarshalling request: ttn/core: Invalid length for {what}");
            refused(v2.set(device), Code::Internal, &text);
        }
    }
    let mut device = full("a1");
    path::set(&mut device, "lorawan_device.dev_eui", bytes(1, 7));
    refused(
        v2.set(device),
        Code::Internal,
        "grpc: error unmarshalling request: ttn/core: Invalid length for EUI64",
    );
    assert_eq!(v2.get("a1").expect("there"), full("a1"));
}

#[test]
fn counters_and_settings_that_are_absent_are_lost() {
    let v2 = with_full();
    v2.set(bare("a1")).expect("updated");
    let got = v2.get("a1").expect("there");
    let mut want = bare("a1");
    for (field, n, length) in [("app_key", 1, 16), ("nwk_s_key", 2, 16), ("app_s_key", 3, 16)] {
        path::set(&mut want, &format!("lorawan_device.{field}"), bytes(n, length));
    }
    path::set(&mut want, "lorawan_device.dev_addr", Value::Bytes(vec![0x26, 1, 0x10, 1].into()));
    path::set(&mut want, "lorawan_device.activation_constraints", Value::String("local".into()));
    assert_eq!(got, want, "only keys and address are left");
}

#[test]
fn last_seen_is_the_servers_own() {
    let v2 = with_full();
    let key = network_key(&stored::lorawan(&full("a1")));
    let mut half = v2.store().get(Table::V2Network, &key).cloned().expect("registered");
    path::set(&mut half, "last_seen", Value::I64(7));
    v2.store().put(Table::V2Network, &key, half).expect("memory");
    let mut device = full("a1");
    path::set(&mut device, "lorawan_device.last_seen", Value::I64(99));
    v2.set(device).expect("updated");
    assert_eq!(path::number(&v2.get("a1").expect("there"), "lorawan_device.last_seen"), 7);
}

#[test]
fn without_euis_the_device_is_made_anew_under_zeros() {
    let v2 = with_full();
    let mut device = full("a1");
    clear(&mut device, "app_eui");
    clear(&mut device, "dev_eui");
    v2.set(device).expect("updated");
    let store = v2.store();
    let keys: Vec<_> = store.iter(Table::V2Network).map(|(key, _)| key.to_owned()).collect();
    assert_eq!(keys, ["0000000000000000.0000000000000000"], "the old one is gone from the Network Server");
    drop(store);
    let got = v2.get("a1").expect("there");
    assert_eq!(path::bytes(&got, "lorawan_device.dev_eui"), [0; 8]);
    assert_eq!(path::number(&got, "lorawan_device.f_cnt_up"), 70_000);
}

#[test]
fn nonces_are_taken_at_creation_only_and_dropped_with_another_app_key() {
    let nonces = |v2: &TtnV2| {
        let store = v2.store();
        let device = store.get(Table::V2Devices, "fleet.a1").expect("there");
        path::get(device, "lorawan_device.used_dev_nonces").map(|v| v.as_list().map_or(0, <[Value]>::len))
    };
    let with_nonces = |n: u8| {
        let mut device = full("a1");
        let list = (0..n).map(|n| bytes(n, 2)).collect();
        path::set(&mut device, "lorawan_device.used_dev_nonces", Value::List(list));
        device
    };
    let v2 = v2();
    v2.set(with_nonces(2)).expect("created");
    assert_eq!(nonces(&v2), Some(2));
    assert_eq!(v2.get("a1").expect("there"), full("a1"), "they are never shown");
    v2.set(with_nonces(5)).expect("updated");
    assert_eq!(nonces(&v2), Some(2));
    let mut kept = full("a1");
    clear(&mut kept, "app_key");
    v2.set(kept).expect("updated");
    assert_eq!(nonces(&v2), Some(2), "the key is the same");
    let mut other = full("a1");
    path::set(&mut other, "lorawan_device.app_key", bytes(0, 16));
    v2.set(other).expect("updated");
    assert_eq!(nonces(&v2), None);
    v2.set(full("a1")).expect("restored");
    assert_eq!(nonces(&v2), None, "what a restore cannot bring back");
}

#[test]
fn euis_are_unique_in_an_application_and_at_the_network_server() {
    let v2 = with_full();
    let exists = "Device with AppEUI and DevEUI already exists";
    refused(v2.set(full("a2")), Code::AlreadyExists, exists);
    let mut theirs = full("b1");
    for at in ["app_id", "lorawan_device.app_id"] {
        path::set(&mut theirs, at, Value::String("other".into()));
    }
    refused(
        v2.manager("SetDevice", theirs, &[("key", "ttn-account-v2.other")]),
        Code::PermissionDenied,
        "Broker did not set device: permission denied: No \"devices\" rights to Application \"fleet\"",
    );
    let mut other = full("a2");
    path::set(&mut other, "lorawan_device.app_eui", eui(0xBB));
    v2.set(other).expect("one DevEUI may be under two AppEUIs");
}

#[test]
fn too_many_attributes_are_refused_when_half_is_written() {
    let v2 = with_full();
    let pairs: Vec<_> = ["k0", "k1", "k2", "k3", "k4"].map(|key| (key, "v")).to_vec();
    let mut five = full("a1");
    let built_in = [("ttn-brand", "b"), ("ttn-model", "m")];
    path::set(&mut five, "attributes", attributes(&[&pairs[..], &built_in].concat()));
    v2.set(five.clone()).expect("five, and those that do not count");

    let mut six = full("a1");
    path::set(&mut six, "attributes", attributes(&[&pairs[..], &[("k5", "v")]].concat()));
    path::set(&mut six, "lorawan_device.f_cnt_up", Value::U32(70_001));
    path::set(&mut six, "description", Value::String("another".into()));
    refused(v2.set(six), Code::Unknown, "Maximum number of custom attributes (5) exceeded");
    path::set(&mut five, "lorawan_device.f_cnt_up", Value::U32(70_001));
    assert_eq!(v2.get("a1").expect("there"), five, "the Network Server has the new counter already");

    let mut long = full("a1");
    path::set(&mut long, "attributes", attributes(&[("k", &"v".repeat(65))]));
    refused(v2.set(long), Code::Unknown, "Attribute value for key \"k\" exceeds maximum length (64)");
}

#[test]
fn a_device_that_the_network_server_lacks_is_registered_anew_when_it_is_read() {
    let v2 = with_full();
    let key = network_key(&stored::lorawan(&full("a1")));
    v2.store().remove(Table::V2Network, &key).expect("memory");
    let mut want = full("a1");
    clear(&mut want, "f_cnt_up");
    clear(&mut want, "f_cnt_down");
    assert_eq!(v2.get("a1").expect("there"), want);
    assert!(v2.store().get(Table::V2Network, &key).is_some());
}

#[test]
fn a_deleted_device_is_gone_from_both_halves() {
    let v2 = with_full();
    let delete = || v2.manager("DeleteDevice", identifier("fleet", Some("a1")), &[("key", KEY)]);
    delete().expect("deleted");
    refused(delete(), Code::NotFound, "handler:device:fleet:a1 not found");
    let store = v2.store();
    assert_eq!((store.iter(Table::V2Devices).count(), store.iter(Table::V2Network).count()), (0, 0));
}
