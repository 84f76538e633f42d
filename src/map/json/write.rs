//! Messages to JSON.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, ReflectMessage as _, Value};
use serde_json::{Map, Value as Json};

use super::{
    form::{self, BytesForm},
    well_known,
};
use crate::{
    map::{options, path},
    model::ids::DevAddrPrefix,
};

/// A message as an object, or in the form of its own that protobuf or The Things Stack give it.
pub(super) fn message(message: &DynamicMessage) -> Json {
    let descriptor = message.descriptor();
    if let Some(field) = options::wrapped(&descriptor) {
        return single(&field, &message.get_field(&field));
    }
    if let Some(json) = well_known::write(message) {
        return json;
    }
    Json::Object(object(message))
}

/// The fields of a message that are set, in the order of their numbers.
pub(super) fn object(message: &DynamicMessage) -> Map<String, Json> {
    message.fields().map(|(field, value)| (field.name().to_owned(), any(&field, value))).collect()
}

fn any(field: &FieldDescriptor, value: &Value) -> Json {
    match value {
        Value::List(list) => list.iter().map(|item| single(field, item)).collect(),
        Value::Map(map) => {
            let Kind::Message(entry) = field.kind() else { return Json::Null };
            let value_field = entry.map_entry_value_field();
            // Sorted, so that the same message always gives the same text.
            let sorted: BTreeMap<_, _> = map.iter().map(|(k, v)| (path::key(k), v)).collect();
            Json::Object(sorted.into_iter().map(|(k, v)| (k, single(&value_field, v))).collect())
        }
        value => single(field, value),
    }
}

/// One value of a field: an item of a list, or the value of a map entry.
pub(super) fn single(field: &FieldDescriptor, value: &Value) -> Json {
    match value {
        Value::Bool(b) => Json::Bool(*b),
        Value::I32(n) => Json::from(*n),
        Value::U32(n) => Json::from(*n),
        Value::I64(n) => Json::from(n.to_string()),
        Value::U64(n) => Json::from(n.to_string()),
        Value::F32(n) => float(f64::from(*n), n.to_string()),
        Value::F64(n) => float(*n, n.to_string()),
        Value::String(text) => Json::from(text.as_str()),
        Value::Bytes(raw) => bytes(field, raw),
        Value::EnumNumber(number) => match field.kind() {
            Kind::Enum(descriptor) if descriptor.full_name() == "google.protobuf.NullValue" => Json::Null,
            Kind::Enum(descriptor) => form::of_enum(&descriptor).write(*number),
            _ => Json::from(*number),
        },
        Value::Message(inner) => message(inner),
        // A list or map inside a list or map does not exist in protobuf.
        Value::List(_) | Value::Map(_) => Json::Null,
    }
}

/// A number as the server writes it: the shortest text that reads back the same, whole numbers without a point.
pub(super) fn float(number: f64, shortest: String) -> Json {
    // Up to here every whole number is exact in 64 bits, so that `16` stays `16` and not `16.0`.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.is_nan() {
        return Json::from("NaN");
    }
    if number.is_infinite() {
        return Json::from(if number > 0.0 { "Infinity" } else { "-Infinity" });
    }
    if number.fract() == 0.0
        && number.abs() < EXACT
        && let Ok(whole) = shortest.parse::<i64>()
    {
        return Json::from(whole);
    }
    // An `f32` goes through its own shortest text: 0.1, not 0.10000000149011612.
    Json::from(shortest.parse::<f64>().unwrap_or(number))
}

fn bytes(field: &FieldDescriptor, raw: &[u8]) -> Json {
    match form::of_bytes(field) {
        BytesForm::Hex => Json::from(hex::encode_upper(raw)),
        BytesForm::DevAddrPrefix => match DevAddrPrefix::from_bytes(raw) {
            Some(prefix) => Json::from(prefix.to_string()),
            None => Json::from(hex::encode_upper(raw)),
        },
        BytesForm::Base64 => Json::from(BASE64_STANDARD.encode(raw)),
    }
}
