//! The records of a device as the components of a stack may answer, and what the plan makes of them.

use std::collections::{BTreeMap, HashMap};

use prost_reflect::{DynamicMessage, Value, prost::Message as _};
use stackferry::{
    map::{diff, json, path, rules, unknown},
    model::{
        device::{Component, Record},
        ids::{AppId, DeviceId, Eui64},
    },
    plan::{
        self, Input, compare,
        facts::{Hosts, IdFrom, SessionMode, TargetFacts, Wishes},
        sealed,
        transform::{self, Found},
    },
    proto,
};

use super::devices::survives_json;

/// A byte of wishes, then an `EndDevices` message: what IS, JS, AS and NS hold of one device, and then what they hold
/// later. The plan names everything; what it copies is sound.
pub fn records(data: &[u8]) {
    let Some((wishes, records)) = data.split_first() else { return };
    let Ok(devices) = DynamicMessage::decode(proto::descriptor("EndDevices"), records) else { return };
    let list = devices.get_field_by_name("end_devices").map(|value| value.into_owned());
    let mut messages =
        list.as_ref().and_then(Value::as_list).unwrap_or_default().iter().filter_map(Value::as_message);
    let (found, later) = (take(&mut messages, *wishes), take(&mut messages, *wishes));
    for (_, record) in found.records.present().chain(later.records.present()) {
        message(&record.0);
    }
    planned(&found, &later, *wishes);
}

/// The next four, where they hold anything.
fn take<'a>(messages: &mut impl Iterator<Item = &'a DynamicMessage>, wishes: u8) -> Found {
    let host = "source.example".to_owned();
    let hosts = Hosts { ns: host.clone(), as_: host.clone(), js: host, known_as: Vec::new() };
    let mut found = Found { hosts, external_js: wishes & 0x80 != 0, ..Found::default() };
    for component in Component::ALL {
        let message = messages.next().filter(|message| message.encoded_len() > 0);
        *found.records.slot(component) = message.map(|message| Record(message.clone()));
    }
    found
}

/// What holds for any message of a server.
pub(super) fn message(message: &DynamicMessage) {
    let _ = format!("{:?}", Record(message.clone()));
    let unknown = unknown::find(message);
    let bytes = message.encode_to_vec();
    let again = DynamicMessage::decode(proto::descriptor("EndDevice"), bytes.as_slice()).expect("decodes");
    assert_eq!(unknown::find(&again), unknown, "fields that are not known are kept");
    assert_eq!(path::stored(&again), path::stored(message));
    assert_eq!(json::to_json(&again), json::to_json(message));
    for violation in rules::violations(message) {
        assert!(!violation.path().is_empty() && !violation.reason().is_empty());
    }
    survives_json(message);
    let differences = diff::diff(message, &again);
    assert!(differences.is_empty(), "{differences:?}");
    let whole = path::project(message, &path::stored(message));
    assert_eq!(json::to_json(&whole), json::to_json(message), "the stored paths are not all of it");
}

fn wishes(byte: u8) -> Wishes {
    Wishes {
        copy: Default::default(),
        paused: false,
        target_app: AppId::unchecked("target-app"),
        session: [SessionMode::Auto, SessionMode::Keep, SessionMode::Drop][usize::from(byte % 3)],
        abp_reset: if byte & 8 != 0 { ["meter-1".to_owned()].into() } else { Default::default() },
        frequency_plans: BTreeMap::new(),
        default_frequency_plan: None,
        id_prefix: if byte & 16 != 0 { "acme-".to_owned() } else { String::new() },
        id_rename: false,
        versions: Default::default(),
        id_from: if byte & 32 != 0 { IdFrom::Eui } else { IdFrom::Id },
        attributes: BTreeMap::new(),
        allowed: Vec::new(),
    }
}

fn facts() -> TargetFacts {
    let host = "target.example".to_owned();
    TargetFacts {
        hosts: Hosts { ns: host.clone(), as_: host.clone(), js: host, known_as: Vec::new() },
        dev_addr_prefixes: vec!["26000000/8".parse().expect("a prefix")],
        join_eui_prefixes: vec![(Eui64([0; 8]), 0)],
        frequency_plans: [("EU_863_870_TTN".to_owned(), "EU_863_870".to_owned())].into(),
        phy_versions: [("EU_863_870".to_owned(), (1..30).collect())].into(),
        ..TargetFacts::default()
    }
}

fn planned(found: &Found, later: &Found, byte: u8) {
    let (facts, wishes) = (facts(), wishes(byte));
    let transformed = transform::device(found, &facts, &wishes);
    let keys = keys(found);
    for finding in &transformed.findings {
        let shown = format!("{finding} {finding:?}");
        assert!(keys.iter().all(|key| !shown.to_ascii_uppercase().contains(key)), "a key is shown: {shown}");
    }
    let moves = transformed.weightiest().is_none();
    for component in transformed.copy.components() {
        let Some(write) = transformed.copy.get(component) else { continue };
        let violations = rules::violations(&write.message);
        assert!(!moves || violations.is_empty(), "{component}: {} breaks a rule", violations[0].path());
        // What a server stores of it, and tells, is as it should be.
        let stored = Record(path::project(&write.message, &compare::paths(component, write)));
        let mut stored = stored;
        for id in ["ids.join_eui", "ids.dev_eui"] {
            if let Some(value) = path::get(&write.message, id) {
                path::set(&mut stored.0, id, value.into_owned());
            }
        }
        let standing = compare::standing(component, write, &stored, false);
        assert!(!moves || !matches!(standing, compare::Standing::Different(_)), "{component}: {standing:?}");
        for (_, other) in later.records.present() {
            let _ = compare::standing(component, write, other, byte & 1 != 0);
            let _ = (compare::lives(write, other), compare::was_heard(write, other));
            let _ = compare::other_device(write, other);
        }
    }
    for component in Component::ALL {
        let (sealed, now) = (found.records.get(component), later.records.get(component));
        assert!(compare::changed_while_loud(sealed, sealed).is_empty());
        assert!(compare::changed_while_muted(component, sealed, sealed).is_empty());
        let _ =
            (compare::changed_while_loud(sealed, now), compare::changed_while_muted(component, sealed, now));
        if let (Some(sealed), Some(now)) = (sealed, now) {
            let _ = compare::still_as_sealed(sealed, now);
        }
    }
    let copy = sealed::copy_from_bytes(&sealed::copy_to_bytes(&transformed.copy)).expect("readable");
    assert!(copy.components().eq(transformed.copy.components()));
    let input = Input { id: DeviceId::unchecked("meter-1"), found: found.clone(), begun: None, holder: None };
    let existing: HashMap<_, _> =
        later.records.is.iter().map(|record| (record.device_id(), record.clone())).collect();
    let _ = plan::devices(&[input.clone(), input], &existing, &facts, &wishes);
}

/// The keys of a device, in upper-case hexadecimal, that are nothing else as well.
fn keys(found: &Found) -> Vec<String> {
    const KEYS: &[&str] = &[
        "root_keys.app_key.key",
        "root_keys.nwk_key.key",
        "session.keys.app_s_key.key",
        "session.keys.f_nwk_s_int_key.key",
        "session.keys.s_nwk_s_int_key.key",
        "session.keys.nwk_s_enc_key.key",
    ];
    let keys =
        found.records.present().flat_map(|(_, record)| KEYS.iter().map(|key| path::bytes(&record.0, key)));
    keys.filter(|key| key.len() == 16).map(|key| upper(&key)).filter(|key| is_secret(key, found)).collect()
}

fn upper(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// A key that is also a name is no secret.
fn is_secret(key: &str, found: &Found) -> bool {
    found.records.present().all(|(_, record)| {
        let mut open = record.0.clone();
        ["root_keys", "session", "pending_session"].iter().for_each(|at| path::clear(&mut open, at));
        !json::to_json(&open).to_string().to_ascii_uppercase().contains(key)
    })
}
