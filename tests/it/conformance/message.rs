//! Messages from the JSON of the recordings, and as lists of what they hold.

use std::collections::BTreeSet;

use prost_reflect::{DynamicMessage, Kind, MapKey, MessageDescriptor, ReflectMessage as _, Value};
use serde_json::Value as Json;
use stackferry::map::mask;

/// Canonical protobuf JSON with proto field names; a field mask is a comma list of proto paths.
pub fn parse(descriptor: &MessageDescriptor, json: &Json) -> Result<DynamicMessage, String> {
    let mut json = json.clone();
    let mut masks = Vec::new();
    take_masks(descriptor, &mut json, &mut Vec::new(), &mut masks);
    let text = json.to_string();
    let mut deserializer = serde_json::Deserializer::from_str(&text);
    let mut message =
        DynamicMessage::deserialize(descriptor.clone(), &mut deserializer).map_err(|e| e.to_string())?;
    for (at, paths) in masks {
        put_mask(&mut message, &at, paths);
    }
    Ok(message)
}

/// The library's JSON has camel case in masks, from which not every path comes back.
fn take_masks(
    descriptor: &MessageDescriptor,
    json: &mut Json,
    at: &mut Vec<String>,
    out: &mut Vec<(Vec<String>, Vec<String>)>,
) {
    let Json::Object(map) = json else { return };
    for field in descriptor.fields() {
        let Kind::Message(inner) = field.kind() else { continue };
        if field.is_list() || field.is_map() || !map.contains_key(field.name()) {
            continue;
        }
        at.push(field.name().to_owned());
        if inner.full_name() == "google.protobuf.FieldMask" {
            if let Some(Json::String(list)) = map.remove(field.name()) {
                let paths = list.split(',').filter(|p| !p.is_empty()).map(str::to_owned).collect();
                out.push((at.clone(), paths));
            }
        } else if let Some(value) = map.get_mut(field.name()) {
            take_masks(&inner, value, at, out);
        }
        at.pop();
    }
}

fn put_mask(message: &mut DynamicMessage, at: &[String], paths: Vec<String>) {
    match at {
        [] => {}
        [last] => message.set_field_by_name(last, Value::Message(mask::message(&paths))),
        [first, rest @ ..] => {
            if let Some(Value::Message(inner)) = message.get_field_by_name_mut(first) {
                put_mask(inner, rest, paths);
            }
        }
    }
}

/// One value that a message holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Held {
    pub at: String,
    pub value: String,
    /// A time: not comparable unless the conversation set it.
    pub is_time: bool,
}

/// Fields that the servers answer in no order.
const UNORDERED: &[&str] = &["rights", "phy_versions", "universal_rights"];

/// Everything that a message holds, scalars and the presence of messages.
pub fn flatten(message: &DynamicMessage) -> BTreeSet<Held> {
    let mut out = BTreeSet::new();
    walk(message, "", &mut out);
    out
}

fn walk(message: &DynamicMessage, prefix: &str, out: &mut BTreeSet<Held>) {
    for (field, value) in message.fields() {
        let at = format!("{prefix}{}", field.name());
        match value {
            Value::List(list) => {
                for (index, value) in list.iter().enumerate() {
                    let at = match UNORDERED.contains(&field.name()) {
                        true => format!("{at}[{}]", scalar(value)),
                        false => format!("{at}[{index}]"),
                    };
                    one(value, at, out);
                }
                out.insert(Held { at: format!("{at}.len"), value: list.len().to_string(), is_time: false });
            }
            Value::Map(map) => {
                for (key, value) in map {
                    let key = match key {
                        MapKey::String(key) => key.clone(),
                        key => format!("{key:?}"),
                    };
                    one(value, format!("{at}[{key}]"), out);
                }
            }
            value => one(value, at, out),
        }
    }
}

fn one(value: &Value, at: String, out: &mut BTreeSet<Held>) {
    match value {
        Value::Message(inner) if inner.descriptor().full_name() == "google.protobuf.Timestamp" => {
            let part = |name: &str| inner.get_field_by_name(name).map(|v| scalar(&v)).unwrap_or_default();
            let value = format!("{}.{:0>9}", part("seconds"), part("nanos"));
            out.insert(Held { at, value, is_time: true });
        }
        Value::Message(inner) => {
            out.insert(Held { at: at.clone(), value: "{}".to_owned(), is_time: false });
            walk(inner, &format!("{at}."), out);
        }
        value => {
            out.insert(Held { at, value: scalar(value), is_time: false });
        }
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bytes(bytes) => hex::encode(bytes),
        Value::Bool(value) => value.to_string(),
        Value::I32(value) | Value::EnumNumber(value) => value.to_string(),
        Value::U32(value) => value.to_string(),
        Value::I64(value) => value.to_string(),
        Value::U64(value) => value.to_string(),
        Value::F32(value) => value.to_string(),
        Value::F64(value) => value.to_string(),
        other => format!("{other:?}"),
    }
}
