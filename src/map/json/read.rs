//! JSON to messages.

use std::collections::HashMap;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};
use serde_json::Value as Json;

use super::{
    JsonError,
    form::{self, BytesForm},
    well_known,
};
use crate::{map::options, model::ids::DevAddrPrefix};

/// The result of reading one value.
pub(super) type Read<T> = Result<T, JsonError>;

/// Reads with or without padding, and the URL alphabet after translation, as the server does.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Where in the JSON the reader stands, and what it found no field for.
#[derive(Debug, Default)]
pub(super) struct Reader {
    path: Vec<String>,
    /// JSON paths without a field.
    pub(super) unknown: Vec<String>,
}

impl Reader {
    /// An error at the place where the reader stands.
    pub(super) fn fail<T>(&self, reason: impl Into<String>) -> Read<T> {
        let path = if self.path.is_empty() { "$".to_owned() } else { self.path.join(".") };
        Err(JsonError { path, reason: reason.into() })
    }

    /// Reads below `segment`.
    pub(super) fn at<T>(
        &mut self,
        segment: impl Into<String>,
        read: impl FnOnce(&mut Self) -> Read<T>,
    ) -> Read<T> {
        self.path.push(segment.into());
        let result = read(self)?;
        self.path.pop();
        Ok(result)
    }

    /// Remembers a JSON field that the message does not have.
    pub(super) fn note_unknown(&mut self, name: &str) {
        let prefix = self.path.iter().map(String::as_str);
        self.unknown.push(prefix.chain([name]).collect::<Vec<_>>().join("."));
    }

    /// A message in the form that is its own, or from an object.
    pub(super) fn message(&mut self, descriptor: &MessageDescriptor, json: &Json) -> Read<DynamicMessage> {
        if let Some(field) = options::wrapped(descriptor) {
            return self.wrapper(descriptor, &field, json);
        }
        if let Some(read) = well_known::reader(descriptor) {
            return read(self, descriptor, json);
        }
        self.fields(descriptor, json, &[])
    }

    /// A message from an object with its fields; the names in `skip` are no fields.
    pub(super) fn fields(
        &mut self,
        descriptor: &MessageDescriptor,
        json: &Json,
        skip: &[&str],
    ) -> Read<DynamicMessage> {
        let Json::Object(object) = json else { return self.fail(expected("an object", json)) };
        let mut message = DynamicMessage::new(descriptor.clone());
        for (name, value) in object.iter().filter(|(name, _)| !skip.contains(&name.as_str())) {
            // The server also takes lower camel case.
            let field =
                descriptor.get_field_by_name(name).or_else(|| descriptor.get_field_by_json_name(name));
            match field {
                None => self.note_unknown(name),
                Some(field) if value.is_null() && !takes_null(&field) => {}
                Some(field) => {
                    let value = self.at(name, |reader| reader.field(&field, value))?;
                    if field.supports_presence() || !value.is_default_for_field(&field) {
                        message.set_field(&field, value);
                    }
                }
            }
        }
        Ok(message)
    }

    /// `5`, `"RX_DELAY_5"` or `{"value": 5}`.
    fn wrapper(
        &mut self,
        descriptor: &MessageDescriptor,
        field: &FieldDescriptor,
        json: &Json,
    ) -> Read<DynamicMessage> {
        if json.is_object() {
            return self.fields(descriptor, json, &[]);
        }
        let mut message = DynamicMessage::new(descriptor.clone());
        let value = self.single(field, json)?;
        if !value.is_default_for_field(field) {
            message.set_field(field, value);
        }
        Ok(message)
    }

    fn field(&mut self, field: &FieldDescriptor, json: &Json) -> Read<Value> {
        if field.is_map() {
            self.map(field, json)
        } else if field.is_list() {
            self.list(field, json)
        } else {
            self.single(field, json)
        }
    }

    fn list(&mut self, field: &FieldDescriptor, json: &Json) -> Read<Value> {
        let Json::Array(items) = json else { return self.fail(expected("a list", json)) };
        let mut list = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            list.push(self.at(index.to_string(), |reader| reader.single(field, item))?);
        }
        Ok(Value::List(list))
    }

    fn map(&mut self, field: &FieldDescriptor, json: &Json) -> Read<Value> {
        let (Json::Object(object), Kind::Message(entry)) = (json, field.kind()) else {
            return self.fail(expected("an object", json));
        };
        let (key_field, value_field) = (entry.map_entry_key_field(), entry.map_entry_value_field());
        let mut map = HashMap::with_capacity(object.len());
        for (name, item) in object {
            let Some(key) = map_key(&key_field.kind(), name) else {
                return self.fail(format!("a key that is not {}", kind_name(&key_field.kind())));
            };
            let value = self.at(name, |reader| reader.single(&value_field, item))?;
            map.insert(key, value);
        }
        Ok(Value::Map(map))
    }

    fn single(&mut self, field: &FieldDescriptor, json: &Json) -> Read<Value> {
        let kind = field.kind();
        let value = match &kind {
            Kind::Message(descriptor) => return self.message(descriptor, json).map(Value::Message),
            Kind::Enum(descriptor) => match json {
                Json::Null => Some(0),
                Json::String(text) => form::of_enum(descriptor).read(text),
                other => integer(other).and_then(|n| i32::try_from(n).ok()),
            }
            .map(Value::EnumNumber),
            Kind::Bool => json.as_bool().map(Value::Bool),
            Kind::String => json.as_str().map(|text| Value::String(text.to_owned())),
            Kind::Bytes => json.as_str().and_then(|text| bytes(field, text)),
            Kind::Float => number(json).map(|n| Value::F32(n as f32)),
            Kind::Double => number(json).map(Value::F64),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
                integer(json).and_then(|n| n.try_into().ok()).map(Value::I32)
            }
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                integer(json).and_then(|n| n.try_into().ok()).map(Value::I64)
            }
            Kind::Uint32 | Kind::Fixed32 => integer(json).and_then(|n| n.try_into().ok()).map(Value::U32),
            Kind::Uint64 | Kind::Fixed64 => integer(json).and_then(|n| n.try_into().ok()).map(Value::U64),
        };
        match value {
            Some(value) => Ok(value),
            None => self.fail(expected(&what(field), json)),
        }
    }
}

/// Fields for which `null` is a value and not the absence of one.
fn takes_null(field: &FieldDescriptor) -> bool {
    match field.kind() {
        Kind::Message(m) => m.full_name() == "google.protobuf.Value" && !field.is_list() && !field.is_map(),
        Kind::Enum(e) => e.full_name() == "google.protobuf.NullValue",
        _ => false,
    }
}

/// What was needed, and the JSON type that was found: never the value, which may be a key.
pub(super) fn expected(what: &str, json: &Json) -> String {
    let found = match json {
        Json::Null => "null",
        Json::Bool(_) => "a bool",
        Json::Number(_) => "a number that does not fit",
        Json::String(_) => "a text that does not fit",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    };
    format!("{what} is needed, this is {found}")
}

fn what(field: &FieldDescriptor) -> String {
    match field.kind() {
        Kind::Bytes => match form::of_bytes(field) {
            BytesForm::Hex => "hexadecimal text".to_owned(),
            BytesForm::DevAddrPrefix => "a DevAddr prefix such as 26000000/7".to_owned(),
            BytesForm::Base64 => "base64 text".to_owned(),
        },
        Kind::Enum(descriptor) => format!("a name or number of {}", descriptor.name()),
        kind => kind_name(&kind),
    }
}

fn kind_name(kind: &Kind) -> String {
    match kind {
        Kind::Bool => "true or false".to_owned(),
        Kind::String => "text".to_owned(),
        Kind::Float | Kind::Double => "a number".to_owned(),
        kind => format!("a whole number ({kind:?})").to_lowercase(),
    }
}

/// A whole number, also written as text or with an empty fraction.
fn integer(json: &Json) -> Option<i128> {
    match json {
        Json::String(text) => text.parse().ok(),
        Json::Number(n) => {
            n.as_i64().map(i128::from).or_else(|| n.as_u64().map(i128::from)).or_else(|| {
                // 2^53: above it a float no longer says which whole number is meant.
                n.as_f64()
                    .filter(|f| f.fract() == 0.0 && f.abs() <= 9_007_199_254_740_992.0)
                    .map(|f| f as i128)
            })
        }
        _ => None,
    }
}

fn number(json: &Json) -> Option<f64> {
    match json {
        Json::Number(n) => n.as_f64(),
        Json::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            text => text.parse().ok().filter(|n: &f64| n.is_finite()),
        },
        _ => None,
    }
}

fn bytes(field: &FieldDescriptor, text: &str) -> Option<Value> {
    let raw = match form::of_bytes(field) {
        BytesForm::Hex => hex::decode(text).ok(),
        BytesForm::DevAddrPrefix => match text.parse::<DevAddrPrefix>() {
            Ok(prefix) => Some([prefix.addr.0.as_slice(), &[prefix.bits]].concat()),
            Err(_) => hex::decode(text).ok(),
        },
        BytesForm::Base64 => base64(text),
    };
    raw.map(|raw| Value::Bytes(raw.into()))
}

/// Standard or URL alphabet, padded or not.
pub(super) fn base64(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text.replace('-', "+").replace('_', "/")).ok()
}

fn map_key(kind: &Kind, text: &str) -> Option<MapKey> {
    Some(match kind {
        Kind::Bool => MapKey::Bool(text.parse().ok()?),
        Kind::String => MapKey::String(text.to_owned()),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => MapKey::I32(text.parse().ok()?),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => MapKey::I64(text.parse().ok()?),
        Kind::Uint32 | Kind::Fixed32 => MapKey::U32(text.parse().ok()?),
        Kind::Uint64 | Kind::Fixed64 => MapKey::U64(text.parse().ok()?),
        _ => return None,
    })
}
