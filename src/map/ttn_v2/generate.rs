//! Arbitrary devices of V2, for tests.

use proptest::{collection::btree_map, prelude::*};
use prost::Message as _;
use prost_reflect::{DynamicMessage, MapKey, Value};

use super::{V2Device, lorawan};
use crate::{map::path, proto};

/// A key as V2 stores one: absent, zeros, or something.
fn bytes(length: usize) -> impl Strategy<Value = Option<Vec<u8>>> {
    prop_oneof![
        1 => Just(None),
        2 => Just(Some(vec![0; length])),
        5 => prop::collection::vec(any::<u8>(), length).prop_map(Some),
    ]
}

/// Counters, often those at which rules change.
fn counter() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(1), Just(2), Just(65_535), Just(65_536), any::<u32>()]
}

/// Degrees, often none.
fn degree() -> impl Strategy<Value = f32> {
    prop_oneof![3 => Just(0.0), 5 => -95.0_f32..95.0, 1 => Just(f32::NAN), 1 => Just(52.3731)]
}

fn attributes() -> impl Strategy<Value = Vec<(String, String)>> {
    let key = prop_oneof!["[a-c]{3,5}", "[A-Ca-c _.-]{0,6}", "\\PC{0,8}", "[a-z0-9-]{30,50}"];
    btree_map(key, "\\PC{0,64}", 0..9).prop_map(|map| map.into_iter().collect())
}

prop_compose! {
    fn identifiers()(
        dev_id in "[0-9a-z](?:[_-]?[0-9a-z]){1,35}",
        app_eui in prop_oneof![Just(vec![0; 8]), prop::collection::vec(any::<u8>(), 8)],
        dev_eui in prop_oneof![1 => Just(vec![0; 8]), 8 => prop::collection::vec(any::<u8>(), 8)],
    ) -> Vec<(String, Value)> {
        vec![
            ("app_id".into(), text("fleet-v2")),
            ("dev_id".into(), text(&dev_id)),
            (lorawan("app_id"), text("fleet-v2")),
            (lorawan("dev_id"), text(&dev_id)),
            (lorawan("app_eui"), blob(app_eui)),
            (lorawan("dev_eui"), blob(dev_eui)),
        ]
    }
}

prop_compose! {
    fn radio()(
        dev_addr in bytes(4), nwk_s_key in bytes(16), app_s_key in bytes(16), app_key in bytes(16),
        up in counter(), down in counter(), unchecked: bool, wide: bool,
        constraints in prop_oneof![Just("local".to_owned()), Just(String::new()), Just("public,world".to_owned())],
        nonces in prop::collection::vec(prop::collection::vec(any::<u8>(), 2), 0..3),
        last_seen in prop_oneof![Just(0_i64), 0..i64::MAX],
    ) -> Vec<(String, Value)> {
        let mut fields = vec![
            (lorawan("f_cnt_up"), Value::U32(up)),
            (lorawan("f_cnt_down"), Value::U32(down)),
            (lorawan("disable_f_cnt_check"), Value::Bool(unchecked)),
            (lorawan("uses32_bit_f_cnt"), Value::Bool(wide)),
            (lorawan("activation_constraints"), text(&constraints)),
            (lorawan("used_dev_nonces"), Value::List(nonces.into_iter().map(blob).collect())),
            (lorawan("last_seen"), Value::I64(last_seen)),
        ];
        let keys = [("dev_addr", dev_addr), ("nwk_s_key", nwk_s_key), ("app_s_key", app_s_key), ("app_key", app_key)];
        fields.extend(keys.into_iter().filter_map(|(field, value)| Some((lorawan(field), blob(value?)))));
        fields
    }
}

prop_compose! {
    fn words()(
        latitude in degree(), longitude in degree(), altitude in prop_oneof![Just(0), any::<i32>()],
        attributes in attributes(), description in prop_oneof![4 => "\\PC{0,40}", 1 => "ä{1990,2010}"],
    ) -> Vec<(String, Value)> {
        let map = attributes.into_iter().map(|(k, v)| (MapKey::String(k), Value::String(v))).collect();
        vec![
            ("latitude".into(), Value::F32(latitude)),
            ("longitude".into(), Value::F32(longitude)),
            ("altitude".into(), Value::I32(altitude)),
            ("attributes".into(), Value::Map(map)),
            ("description".into(), text(&description)),
        ]
    }
}

/// Any device, also such as no V2 would answer.
pub fn device() -> impl Strategy<Value = V2Device> {
    (identifiers(), radio(), words(), prop::bool::weighted(0.1)).prop_map(|(ids, radio, words, newer)| {
        let mut message = proto::message("handler.Device");
        for (at, value) in ids.into_iter().chain(radio).chain(words) {
            path::set(&mut message, &at, value);
        }
        if newer {
            let mut bytes = message.encode_to_vec();
            prost::encoding::string::encode(999, &"newer".to_owned(), &mut bytes);
            message = DynamicMessage::decode(proto::descriptor("handler.Device"), bytes.as_slice())
                .expect("decodes");
        }
        V2Device::new(message)
    })
}

/// The device as GetDevice answers it: keys and DevAddr are there, as zeros where there are none.
pub fn as_read(device: &V2Device) -> V2Device {
    let mut message = device.message().clone();
    for (field, length) in [("dev_addr", 4), ("nwk_s_key", 16), ("app_s_key", 16), ("app_key", 16)] {
        if path::bytes(&message, &lorawan(field)).is_empty() {
            path::set(&mut message, &lorawan(field), blob(vec![0; length]));
        }
    }
    V2Device::new(message)
}

/// Equality, also where a latitude is no number, which is equal to nothing.
pub fn same(a: &DynamicMessage, b: &DynamicMessage) -> bool {
    let (mut a, mut b) = (a.clone(), b.clone());
    let bits = |m: &DynamicMessage, at: &str| path::get(m, at).and_then(|v| v.as_f32()).map(f32::to_bits);
    ["latitude", "longitude"].into_iter().all(|at| {
        let equal = bits(&a, at) == bits(&b, at);
        [&mut a, &mut b].into_iter().for_each(|m| path::clear(m, at));
        equal
    }) && a == b
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn blob(bytes: Vec<u8>) -> Value {
    Value::Bytes(bytes.into())
}
