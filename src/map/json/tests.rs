use serde_json::Value as Json;

use super::*;
use crate::proto;

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
