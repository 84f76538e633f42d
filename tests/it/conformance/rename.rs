//! The same conversation about entities with other names.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value as Json;

use super::recording::{self, Recording, Step};

/// Fields that hold IDs which users chose.
const IDS: [&str; 10] = [
    "app_id",
    "dev_id",
    "application_id",
    "device_id",
    "device_ids",
    "gateway_id",
    "webhook_id",
    "pub_sub_id",
    "user_id",
    "organization_id",
];
const EUIS: [&str; 4] = ["join_eui", "app_eui", "dev_eui", "eui"];
/// Parts of a step, and of error details, in which no name stands.
const KEPT: [&str; 9] =
    ["rpc", "as", "code", "note", "field_mask", "namespace", "message_format", "type", "headers"];

/// Old text to new text.
type Names = BTreeMap<String, String>;

/// The recording with every ID and EUI replaced by another one, everywhere.
pub fn renamed(recording: &Recording) -> Recording {
    let mut ids = BTreeSet::new();
    let mut euis = BTreeSet::new();
    for step in &recording.steps {
        for name in IDS {
            collect(&step.0["req"], name, &mut ids);
            collect(&step.0["res"], name, &mut ids);
        }
        for name in EUIS {
            recording::strings(&step.0["req"], name, &mut euis);
            recording::strings(&step.0["res"], name, &mut euis);
        }
    }
    // Reserved words are refused for what they are.
    for step in recording.steps.iter().filter(|s| s.text("/details/0/name") == Some("forbidden_id")) {
        ids.remove(step.text("/details/0/attributes/id").unwrap_or_default());
    }
    let ids: Names = ids.into_iter().map(|id| (id.clone(), another(&id))).collect();
    let distinct: BTreeSet<_> = ids.values().collect();
    assert_eq!(distinct.len(), ids.len(), "two IDs would become one");
    let mut hex = Names::new();
    let mut base64 = Names::new();
    for eui in euis {
        let Ok(mut bytes) = <[u8; 8]>::try_from(recording::bytes(&Json::String(eui.clone()))) else {
            continue;
        };
        if bytes == [0; 8] {
            continue;
        }
        let old = hex::encode_upper(bytes);
        bytes[4..].iter_mut().for_each(|byte| *byte ^= 0x5A);
        hex.insert(old, hex::encode_upper(bytes));
        base64.insert(eui, STANDARD.encode(bytes));
    }
    let names = All { ids, hex, base64 };
    let steps = recording.steps.iter().map(|step| Step(names.apply(&step.0, ""))).collect();
    Recording { name: format!("{} (renamed)", recording.name), steps }
}

/// Single strings and those of lists.
fn collect(json: &Json, name: &str, out: &mut BTreeSet<String>) {
    recording::strings(json, name, out);
    match json {
        Json::Object(map) => {
            for (key, value) in map {
                match value.as_array().filter(|_| key == name) {
                    Some(list) => out.extend(list.iter().filter_map(Json::as_str).map(str::to_owned)),
                    None => collect(value, name, out),
                }
            }
        }
        Json::Array(list) => list.iter().for_each(|value| collect(value, name, out)),
        _ => {}
    }
}

/// Each letter but the last becomes the next one: of the same length, as valid as before, in the same order.
fn another(id: &str) -> String {
    let next = |c: char| match c {
        'a'..='y' => char::from_u32(u32::from(c) + 1).unwrap_or(c),
        c => c,
    };
    id.chars().map(next).collect()
}

struct All {
    ids: Names,
    hex: Names,
    base64: Names,
}

impl All {
    fn apply(&self, json: &Json, key: &str) -> Json {
        match json {
            Json::String(text) if EUIS.contains(&key) && self.base64.contains_key(text) => {
                Json::String(self.base64[text].clone())
            }
            Json::String(text) => Json::String(self.text(text)),
            Json::Array(list) => Json::Array(list.iter().map(|value| self.apply(value, key)).collect()),
            Json::Object(map) => {
                let kept = |key: &str, value: &Json| {
                    // The name of an error is none of an entity.
                    KEPT.contains(&key) && !(key == "code" && value.is_object())
                        || key == "name" && map.contains_key("namespace")
                };
                let value = |(k, v): (&String, &Json)| {
                    (k.clone(), if kept(k, v) { v.clone() } else { self.apply(v, k) })
                };
                Json::Object(map.iter().map(value).collect())
            }
            other => other.clone(),
        }
    }

    /// Every ID that stands alone in a text, and every EUI in hex.
    fn text(&self, text: &str) -> String {
        let mut out = String::new();
        let mut word = String::new();
        for c in text.chars().chain([' ']) {
            if c.is_ascii_alphanumeric() || "-_/+=".contains(c) {
                word.push(c);
                continue;
            }
            let new = self.ids.get(&word).or_else(|| self.hex.get(&word));
            out.push_str(new.unwrap_or(&word));
            word.clear();
            out.push(c);
        }
        out.pop();
        out
    }
}
