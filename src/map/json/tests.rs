use proptest::prelude::*;
use prost::Message as _;
use prost_reflect::ReflectMessage as _;
use serde_json::{Value as Json, json};

use super::*;
use crate::{
    map::{generate, path},
    model::device::Component,
    proto,
};

/// Every line of a fixture of JSON lines.
fn lines(text: &str) -> impl Iterator<Item = Json> + '_ {
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON"))
}

/// Reads `json` as `name` and writes it: it must come back equal, and nothing of it may be unknown.
fn assert_kept(name: &str, json: &Json) {
    let parsed = from_json_with_unknown(&proto::descriptor(name), json).expect("readable");
    assert_eq!(parsed.unknown_fields, Vec::<String>::new(), "{name}");
    assert_eq!(&to_json(&parsed.message), json, "{name}");
}

#[test]
fn each_component_of_the_real_fleet_is_read_and_written_back_equal() {
    let mut records = 0;
    for device in lines(include_str!("../../../config/quickstart/tts-fleet-100.jsonl")) {
        for component in ["is", "ns", "as", "js"] {
            if !device[component].is_null() {
                assert_kept("EndDevice", &device[component]);
                records += 1;
            }
        }
    }
    assert_eq!(records, 360, "100 devices, of which 40 have no JS record");
}

#[test]
fn what_the_old_tool_exports_is_read_and_written_back_equal() {
    let export = include_str!("../../../tests/fixtures/tts-export-100.jsonl");
    assert_eq!(lines(export).inspect(|device| assert_kept("EndDevice", device)).count(), 100);
}

#[test]
fn everything_of_a_real_application_is_read_and_written_back_equal() {
    let all: Json =
        serde_json::from_str(include_str!("../../../config/quickstart/tts-fleet-application.json"))
            .expect("JSON");
    for (key, name) in [
        ("application", "Application"),
        ("link", "ApplicationLink"),
        ("webhooks", "ApplicationWebhooks"),
        ("pubsubs", "ApplicationPubSubs"),
        ("default_associations", "ApplicationPackageDefaultAssociations"),
        ("api_keys", "APIKeys"),
        ("collaborators", "Collaborators"),
    ] {
        assert_kept(name, &all[key]);
    }
    let gateways = all["gateways"].as_array().expect("a list");
    assert_eq!(gateways.iter().inspect(|gateway| assert_kept("Gateway", gateway)).count(), 3);
}

fn device(json: &Json) -> Result<DynamicMessage, JsonError> {
    from_json(&proto::descriptor("EndDevice"), json)
}

/// Reads a device and writes it again.
fn rewritten(json: &Json) -> Json {
    to_json(&device(json).expect("readable"))
}

#[test]
fn wrappers_are_read_bare_or_not_and_written_bare() {
    let bare = json!({"mac_settings": {
        "rx1_delay": 5, "rx2_frequency": "869525000", "ping_slot_periodicity": "PING_EVERY_8S",
        "resets_f_cnt": true, "schedule_downlinks": false, "rx2_data_rate_index": 0,
        "adr_margin": 15, "status_count_periodicity": 0,
        "desired_adr_ack_limit_exponent": "ADR_ACK_LIMIT_64",
    }});
    assert_eq!(rewritten(&bare), bare);
    let wrapped = json!({"mac_settings": {
        "rx1_delay": {"value": "RX_DELAY_5"}, "rx2_frequency": {"value": 869525000},
        "ping_slot_periodicity": "8S", "resets_f_cnt": {"value": true}, "schedule_downlinks": {},
        "rx2_data_rate_index": {"value": 0}, "adr_margin": {"value": 15.0}, "status_count_periodicity": {},
        "desired_adr_ack_limit_exponent": 6,
    }});
    assert_eq!(rewritten(&wrapped), bare);
}

#[test]
fn enums_are_read_by_number_name_short_name_and_alias() {
    for version in [json!("MAC_V1_0_3"), json!("V1_0_3"), json!("1.0.3"), json!(5), json!("5")] {
        let json = json!({"lorawan_version": version});
        assert_eq!(rewritten(&json), json!({"lorawan_version": "MAC_V1_0_3"}), "{json}");
    }
    for version in [json!("PHY_V1_0_3_REV_A"), json!("RP001_V1_0_3_REV_A"), json!("1.0.3-a"), json!(7)] {
        let json = json!({"lorawan_phy_version": version});
        assert_eq!(rewritten(&json), json!({"lorawan_phy_version": "PHY_V1_0_3_REV_A"}), "{json}");
    }
    let right = |name: &str| {
        to_json(&from_json(&proto::descriptor("Rights"), &json!({"rights": [name]})).expect("read"))
    };
    assert_eq!(right("APPLICATION_ALL"), json!({"rights": ["RIGHT_APPLICATION_ALL"]}));
    // A short name wins over a number: ADR_ACK_LIMIT_1 is number 0.
    let limit = |v: Json| json!({"mac_settings": {"desired_adr_ack_limit_exponent": v}});
    assert_eq!(rewritten(&limit(json!("1"))), limit(json!("ADR_ACK_LIMIT_1")));
    // What has no name keeps its number, which can be read back.
    assert_eq!(rewritten(&json!({"lorawan_version": 99})), json!({"lorawan_version": 99}));
}

#[test]
fn bytes_are_hex_base64_or_prefixes_as_their_field_says() {
    let json =
        json!({"ids": {"dev_eui": "70b3d57ed7ea0001"}, "session": {"keys": {"session_key_id": "_xa-Ew"}}});
    let upper =
        json!({"ids": {"dev_eui": "70B3D57ED7EA0001"}, "session": {"keys": {"session_key_id": "/xa+Ew=="}}});
    assert_eq!(rewritten(&json), upper);
    assert_kept(
        "GetDeviceAdressPrefixesResponse",
        &json!({"dev_addr_prefixes": ["26000000/7", "01000000/8"]}),
    );
}

#[test]
fn times_durations_masks_and_any_have_their_forms() {
    for time in [
        "2024-03-05T06:07:08Z",
        "2024-03-05T06:07:08.120Z",
        "2024-03-05T06:07:08.123456Z",
        "1969-12-31T23:59:59.999999999Z",
    ] {
        assert_kept("EndDevice", &json!({"activated_at": time}));
    }
    for time in ["600s", "0.530s", "-1.500s", "-0.000000001s"] {
        assert_kept("MACSettings", &json!({"class_b_timeout": time}));
    }
    let mask =
        from_json(&proto::descriptor("google.protobuf.FieldMask"), &json!("name,ids.dev_eui")).expect("read");
    assert_eq!(to_json(&mask), json!({"paths": ["name", "ids.dev_eui"]}));
    assert_kept(
        "ErrorDetails",
        &json!({"name": "x", "attributes": {"a": [1, 2.5, null, true, {"b": "c"}]}, "details": [
            {"@type": "type.googleapis.com/ttn.lorawan.v3.EndDeviceIdentifiers", "device_id": "dev", "dev_eui": "70B3D57ED7EA0001"},
            {"@type": "type.googleapis.com/google.protobuf.Struct", "value": {"a": 1}},
            {"@type": "type.googleapis.com/ttn.lorawan.v3.OfTomorrow", "value": "AAEC"},
        ]}),
    );
}

#[test]
fn what_no_calendar_holds_keeps_its_numbers() {
    let mut timestamp = proto::message("google.protobuf.Timestamp");
    path::set(&mut timestamp, "seconds", Value::I64(i64::MAX));
    path::set(&mut timestamp, "nanos", Value::I32(-5));
    let json = to_json(&timestamp);
    assert_eq!(from_json(&timestamp.descriptor(), &json), Ok(timestamp));
}

#[test]
fn json_fields_that_no_message_has_are_listed_with_their_paths() {
    let json = json!({
        "name": "x", "label_ids": ["a"], "locations": {"user": {"latitude": 1.5, "floor": 2}},
        "mac_state": {"recent_uplinks": [{}, {"colour": "red"}]}, "mac_settings": {"rx1_delay": {"worth": 3}},
        "mac_settings_profile_ids": null,
    });
    let parsed = from_json_with_unknown(&proto::descriptor("EndDevice"), &json).expect("readable");
    assert_eq!(
        parsed.unknown_fields,
        [
            "label_ids",
            "locations.user.floor",
            "mac_state.recent_uplinks.1.colour",
            "mac_settings.rx1_delay.worth",
            "mac_settings_profile_ids",
        ]
    );
    assert_eq!(path::string(&parsed.message, "name"), "x");
}

#[test]
fn names_in_camel_case_and_null_are_taken_as_the_server_takes_them() {
    let json = json!({"supportsJoin": true, "macSettings": {"rx1Delay": 3}, "session": null, "name": null});
    assert_eq!(rewritten(&json), json!({"supports_join": true, "mac_settings": {"rx1_delay": 3}}));
}

#[test]
fn an_error_names_the_place_and_never_the_value() {
    let cases = [
        (
            json!({"root_keys": {"app_key": {"key": "CANARY42"}}}),
            "root_keys.app_key.key: hexadecimal text is needed",
        ),
        (
            json!({"session": {"keys": {"session_key_id": "CANARY42!"}}}),
            "session.keys.session_key_id: base64 text",
        ),
        (json!({"last_dev_nonce": 4_294_967_296_u64}), "last_dev_nonce: a whole number (uint32) is needed"),
        (json!({"last_dev_nonce": -1}), "last_dev_nonce: a whole number (uint32) is needed"),
        (json!({"last_dev_nonce": 1.5}), "last_dev_nonce: a whole number (uint32) is needed"),
        (json!({"lorawan_version": "CANARY42"}), "lorawan_version: a name or number of MACVersion is needed"),
        (json!({"activated_at": "CANARY42"}), "activated_at: a time such as"),
        (
            json!({"mac_settings": {"class_b_timeout": "CANARY42"}}),
            "mac_settings.class_b_timeout: a duration",
        ),
        (json!({"used_dev_nonces": [1, "CANARY42"]}), "used_dev_nonces.1: a whole number"),
        (json!({"attributes": {"a": 5}}), "attributes.a: text is needed, this is a number that does not fit"),
        (
            json!({"picture": {"sizes": {"CANARY42": "/a"}}}),
            "picture.sizes: a key that is not a whole number",
        ),
        (json!({"ids": "CANARY42"}), "ids: an object is needed, this is a text that does not fit"),
        (json!(["CANARY42"]), "$: an object is needed, this is a list"),
    ];
    for (json, start) in cases {
        let error = device(&json).expect_err("refused");
        assert!(error.to_string().starts_with(start), "{error}");
        assert!(!format!("{error}{error:?}").contains("CANARY42"), "{error}");
    }
}

/// Messages that the API has: without map entries, and without the messages that describe protos.
fn every_message() -> Vec<MessageDescriptor> {
    let described = |m: &MessageDescriptor| {
        m.parent_file().name() == "google/protobuf/descriptor.proto" || m.package_name() == "stackferry"
    };
    proto::pool().all_messages().filter(|m| !m.is_map_entry() && !described(m)).collect()
}

#[test]
fn every_message_of_the_api_survives_json() {
    let messages = every_message();
    assert!(messages.len() > 300, "{}", messages.len());
    for (index, descriptor) in messages.iter().enumerate() {
        for round in 0..6 {
            let message = generate::message(descriptor, (index * 100 + round) as u64);
            let text = to_json(&message).to_string();
            let json: Json = serde_json::from_str(&text).expect("JSON");
            let parsed = from_json_with_unknown(descriptor, &json).expect("readable");
            assert_eq!(parsed.unknown_fields, Vec::<String>::new(), "{}", descriptor.full_name());
            assert!(parsed.message == message, "{} {text}", descriptor.full_name());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_device_survives_json_and_the_wire(seed: u64, index in 0_usize..8) {
        let message = match Component::ALL.get(index) {
            Some(component) => generate::device(seed, *component),
            None => generate::message(&proto::descriptor("EndDevice"), seed),
        };
        let json = to_json(&message);
        prop_assert_eq!(&rewritten(&json), &json);
        let back = device(&json).expect("readable");
        let wire = DynamicMessage::decode(back.descriptor(), back.encode_to_vec().as_slice()).expect("decodes");
        prop_assert!(wire == message);
    }

    #[test]
    fn whatever_json_a_user_brings_is_read_or_refused(text in "\\PC{0,40}", number: f64, seed: u64) {
        // Any field may hold anything: the reader answers, and never with the text.
        let mut rng = generate::Rng::new(seed);
        let fields: Vec<_> = proto::descriptor("EndDevice").fields().collect();
        let field = rng.pick(&fields).expect("fields");
        let secret = format!("CANARY{text}");
        for value in [json!(secret), json!(number), json!([secret]), json!({"value": secret}), json!({"key": {"key": secret}})] {
            if let Err(error) = device(&json!({ field.name(): value })) {
                prop_assert!(!error.to_string().contains("CANARY"));
            }
        }
    }

    #[test]
    fn a_float_of_either_width_is_written_short_and_read_back(bits: u32, wide: u64) {
        let (narrow, wide) = (f32::from_bits(bits), f64::from_bits(wide));
        prop_assume!(narrow.is_finite() && wide.is_finite() && narrow != 0.0 && wide != 0.0);
        let mut message = proto::message("Location");
        path::set(&mut message, "latitude", Value::F64(wide));
        let json: Json = serde_json::from_str(&to_json(&message).to_string()).expect("JSON");
        prop_assert!(from_json(&message.descriptor(), &json).expect("read") == message);
        let mut message = proto::message("MACParameters");
        path::set(&mut message, "max_eirp", Value::F32(narrow));
        let json: Json = serde_json::from_str(&to_json(&message).to_string()).expect("JSON");
        prop_assert!(from_json(&message.descriptor(), &json).expect("read") == message);
    }
}
