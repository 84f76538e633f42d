//! The messages of `google.protobuf` that have a JSON form of their own.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use prost::Message as _;
use prost_reflect::{DynamicMessage, MapKey, MessageDescriptor, ReflectMessage as _, Value};
use serde_json::{Map, Value as Json, json};

use super::{
    read::{Read, Reader, base64, expected},
    write,
};
use crate::{
    map::{options, path},
    proto,
};

/// The JSON of a well-known message; `None` for messages that are written field by field.
pub(super) fn write(message: &DynamicMessage) -> Option<Json> {
    Some(match message.descriptor().full_name() {
        "google.protobuf.Timestamp" => timestamp(message),
        "google.protobuf.Duration" => duration(message),
        // The form of 3.32 (`WriteLegacyFieldMask` of its JSON plugin).
        "google.protobuf.FieldMask" => json!({ "paths": strings(message) }),
        "google.protobuf.Struct" | "google.protobuf.ListValue" | "google.protobuf.Value" => {
            structure(message)
        }
        "google.protobuf.Any" => any(message),
        _ => return None,
    })
}

/// Whole seconds and nanoseconds of a `Timestamp` or `Duration`.
fn parts(message: &DynamicMessage) -> (i64, i32) {
    let number = |name| message.get_field_by_name(name).map(|v| v.into_owned());
    let seconds = number("seconds").and_then(|v| v.as_i64()).unwrap_or_default();
    let nanos = number("nanos").and_then(|v| v.as_i32()).unwrap_or_default();
    (seconds, nanos)
}

/// Digits after the point: none, 3, 6 or 9 (protobuf JSON).
fn precision(nanos: u32) -> usize {
    match nanos {
        0 => 0,
        n if n % 1_000_000 == 0 => 3,
        n if n % 1_000 == 0 => 6,
        _ => 9,
    }
}

/// RFC 3339 in UTC. What no calendar holds keeps its numbers, so that nothing is lost.
fn timestamp(message: &DynamicMessage) -> Json {
    let (seconds, nanos) = parts(message);
    let Some(sub) = u32::try_from(nanos).ok().filter(|n| *n < 1_000_000_000) else { return raw(message) };
    match Timestamp::new(seconds, nanos) {
        Ok(time) if (0..=9999).contains(&time.to_zoned(jiff::tz::TimeZone::UTC).year()) => {
            Json::from(format!("{time:.*}", precision(sub)))
        }
        _ => raw(message),
    }
}

/// `600s`, `0.530s`, `-1.500s`.
fn duration(message: &DynamicMessage) -> Json {
    let (seconds, nanos) = parts(message);
    let opposite = (seconds > 0 && nanos < 0) || (seconds < 0 && nanos > 0);
    if opposite || nanos.unsigned_abs() >= 1_000_000_000 {
        return raw(message);
    }
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    let nine = format!("{:09}", nanos.unsigned_abs());
    let digits = precision(nanos.unsigned_abs());
    let point = if digits == 0 { "" } else { "." };
    Json::from(format!("{sign}{}{point}{}s", seconds.unsigned_abs(), &nine[..digits]))
}

/// A `Timestamp` or `Duration` by its numbers.
fn raw(message: &DynamicMessage) -> Json {
    Json::Object(write::object(message))
}

fn strings(mask: &DynamicMessage) -> Vec<String> {
    let paths = mask.get_field_by_name("paths").map(|v| v.into_owned());
    let list = paths.as_ref().and_then(Value::as_list).unwrap_or_default();
    list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

/// `Struct`, `ListValue` and `Value` as the JSON that they stand for.
fn structure(message: &DynamicMessage) -> Json {
    let Some((field, value)) = message.fields().next() else {
        return match message.descriptor().name() {
            "Struct" => json!({}),
            "ListValue" => json!([]),
            _ => Json::Null,
        };
    };
    let item = |v: &Value| v.as_message().map_or(Json::Null, structure);
    match (field.name(), value) {
        ("fields", Value::Map(map)) => {
            let mut sorted: Vec<_> = map.iter().map(|(k, v)| (path::key(k), item(v))).collect();
            sorted.sort_by(|a, b| a.0.cmp(&b.0));
            Json::Object(sorted.into_iter().collect())
        }
        ("values", Value::List(list)) => list.iter().map(item).collect(),
        (_, Value::F64(n)) => write::float(*n, n.to_string()),
        (_, Value::String(text)) => Json::from(text.as_str()),
        (_, Value::Bool(b)) => Json::Bool(*b),
        (_, Value::Message(inner)) => structure(inner),
        _ => Json::Null,
    }
}

/// `{"@type": …}` with the fields of the message inside, or with `value` when that has a form of its own.
///
/// A type that this build does not know keeps its bytes, in base64.
fn any(message: &DynamicMessage) -> Json {
    let type_url = path::string(message, "type_url");
    let bytes = path::bytes(message, "value");
    let mut object = Map::from_iter([("@type".to_owned(), Json::from(type_url.as_str()))]);
    let known = inner_descriptor(&type_url).and_then(|d| DynamicMessage::decode(d, bytes.as_slice()).ok());
    match known {
        Some(inner) if has_own_form(&inner.descriptor()) => {
            object.insert("value".to_owned(), write::message(&inner));
        }
        Some(inner) => object.extend(write::object(&inner)),
        None => {
            object.insert("value".to_owned(), Json::from(BASE64_STANDARD.encode(bytes)));
        }
    }
    Json::Object(object)
}

/// The message that an `Any` of this URL holds, if `proto/` has it.
pub(super) fn inner_descriptor(type_url: &str) -> Option<MessageDescriptor> {
    proto::pool().get_message_by_name(type_url.rsplit('/').next()?)
}

/// True for messages that JSON does not write field by field.
pub(super) fn has_own_form(descriptor: &MessageDescriptor) -> bool {
    const OWN: &[&str] = &["Timestamp", "Duration", "FieldMask", "Struct", "ListValue", "Value", "Any"];
    options::wrapped(descriptor).is_some() || (path::is_leaf(descriptor) && OWN.contains(&descriptor.name()))
}

/// How a well-known message is read; `None` for messages that are read field by field.
pub(super) fn reader(descriptor: &MessageDescriptor) -> Option<ReadMessage> {
    Some(match descriptor.full_name() {
        "google.protobuf.Timestamp" => read_timestamp,
        "google.protobuf.Duration" => read_duration,
        "google.protobuf.FieldMask" => read_mask,
        "google.protobuf.Struct" | "google.protobuf.ListValue" | "google.protobuf.Value" => read_structure,
        "google.protobuf.Any" => read_any,
        _ => return None,
    })
}

type ReadMessage = fn(&mut Reader, &MessageDescriptor, &Json) -> Read<DynamicMessage>;

fn of_parts(descriptor: &MessageDescriptor, seconds: i64, nanos: i32) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    for (name, value, zero) in
        [("seconds", Value::I64(seconds), seconds == 0), ("nanos", Value::I32(nanos), nanos == 0)]
    {
        if !zero {
            message.set_field_by_name(name, value);
        }
    }
    message
}

fn read_timestamp(reader: &mut Reader, descriptor: &MessageDescriptor, json: &Json) -> Read<DynamicMessage> {
    if json.is_object() {
        return reader.fields(descriptor, json, &[]);
    }
    match json.as_str().and_then(|text| text.parse::<Timestamp>().ok()) {
        // Protobuf counts nanoseconds upwards, also before 1970.
        Some(time) => {
            let nanos = time.as_nanosecond();
            let seconds = i64::try_from(nanos.div_euclid(1_000_000_000)).unwrap_or_default();
            let sub = i32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or_default();
            Ok(of_parts(descriptor, seconds, sub))
        }
        None => reader.fail(expected("a time such as 2026-01-02T03:04:05Z", json)),
    }
}

fn read_duration(reader: &mut Reader, descriptor: &MessageDescriptor, json: &Json) -> Read<DynamicMessage> {
    if json.is_object() {
        return reader.fields(descriptor, json, &[]);
    }
    match json.as_str().and_then(parse_duration) {
        Some((seconds, nanos)) => Ok(of_parts(descriptor, seconds, nanos)),
        None => reader.fail(expected("a duration such as 600s", json)),
    }
}

/// Seconds and nanoseconds, both with the sign of the whole; `None` when it is no duration in seconds.
fn parse_duration(text: &str) -> Option<(i64, i32)> {
    let number = text.strip_suffix('s')?;
    let (negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let seconds: i128 = whole.parse().ok()?;
    let nanos: i32 = format!("{fraction:0<9}").parse().ok()?;
    let sign = if negative { -1 } else { 1 };
    Some((i64::try_from(seconds * i128::from(sign)).ok()?, nanos * sign))
}

/// `{"paths": ["name"]}` or `"name,attributes"`.
fn read_mask(reader: &mut Reader, descriptor: &MessageDescriptor, json: &Json) -> Read<DynamicMessage> {
    match json {
        Json::Object(_) => reader.fields(descriptor, json, &[]),
        Json::String(text) => {
            let paths = text.split(',').filter(|p| !p.is_empty());
            let list: Vec<_> = paths.map(|p| Value::String(p.to_owned())).collect();
            let mut mask = DynamicMessage::new(descriptor.clone());
            if !list.is_empty() {
                mask.set_field_by_name("paths", Value::List(list));
            }
            Ok(mask)
        }
        other => reader.fail(expected("a field mask", other)),
    }
}

fn read_structure(reader: &mut Reader, descriptor: &MessageDescriptor, json: &Json) -> Read<DynamicMessage> {
    match (descriptor.name(), json) {
        ("Struct", Json::Object(_)) | ("ListValue", Json::Array(_)) | ("Value", _) => {}
        ("Struct", other) => return reader.fail(expected("an object", other)),
        (_, other) => return reader.fail(expected("a list", other)),
    }
    Ok(structure_of(descriptor.name(), json))
}

/// The `Struct`, `ListValue` or `Value` of a JSON value of the right type.
fn structure_of(name: &str, json: &Json) -> DynamicMessage {
    let mut message = proto::message(&format!("google.protobuf.{name}"));
    let value = |v: &Json| Value::Message(structure_of("Value", v));
    let (field, content) = match (name, json) {
        ("Struct", Json::Object(object)) => {
            let map = object.iter().map(|(k, v)| (MapKey::String(k.clone()), value(v))).collect();
            ("fields", Value::Map(map))
        }
        ("ListValue", Json::Array(list)) => ("values", Value::List(list.iter().map(value).collect())),
        (_, Json::Object(_)) => ("struct_value", Value::Message(structure_of("Struct", json))),
        (_, Json::Array(_)) => ("list_value", Value::Message(structure_of("ListValue", json))),
        (_, Json::Bool(b)) => ("bool_value", Value::Bool(*b)),
        (_, Json::String(text)) => ("string_value", Value::String(text.clone())),
        (_, Json::Number(n)) => ("number_value", Value::F64(n.as_f64().unwrap_or_default())),
        (_, Json::Null) => ("null_value", Value::EnumNumber(0)),
    };
    // The members of `Value` are in a `oneof` and always stored; an empty list or map is stored by storing nothing.
    path::set(&mut message, field, content);
    message
}

fn read_any(reader: &mut Reader, descriptor: &MessageDescriptor, json: &Json) -> Read<DynamicMessage> {
    let Some(type_url) = json.get("@type").and_then(Json::as_str) else {
        return reader.fail(expected("an object with @type", json));
    };
    let empty = json!({});
    let value = json.get("value").unwrap_or(&empty);
    let bytes = match inner_descriptor(type_url) {
        Some(inner) if has_own_form(&inner) => {
            reader.at("value", |reader| reader.message(&inner, value))?.encode_to_vec()
        }
        Some(inner) => reader.fields(&inner, json, &["@type"])?.encode_to_vec(),
        None => match value.as_str().and_then(base64) {
            Some(bytes) => bytes,
            None => return reader.fail(format!("{type_url} is not a type that is known here")),
        },
    };
    let mut any = DynamicMessage::new(descriptor.clone());
    any.set_field_by_name("type_url", Value::String(type_url.to_owned()));
    if !bytes.is_empty() {
        any.set_field_by_name("value", Value::Bytes(bytes.into()));
    }
    Ok(any)
}
