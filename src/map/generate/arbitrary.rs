//! Any message with anything that its types allow: lawful protobuf, not lawful devices.

use std::collections::HashMap;

use prost::Message as _;
use prost_reflect::{
    DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value,
};

use super::Rng;
use crate::proto;

/// Messages nest no deeper than this: some hold themselves.
const DEPTH: usize = 6;

const TEXTS: &[&str] =
    &["", "a", "Größe 温度 🌡", "line 1\nline \"2\" \\ <b>", "16", "true", "null", "0", "1.0.3", " "];

/// A message with about two thirds of its fields set, at most one of each `oneof`. The same seed gives the same message.
///
/// Fields are never stored at their default, so that the message equals itself after encoding.
pub fn message(descriptor: &MessageDescriptor, seed: u64) -> DynamicMessage {
    random(descriptor, &mut Rng::new(seed), DEPTH)
}

/// A random value for one field; `None` where only a default came out.
pub fn field(field: &FieldDescriptor, seed: u64) -> Option<Value> {
    value(field, &mut Rng::new(seed), DEPTH)
}

fn random(descriptor: &MessageDescriptor, rng: &mut Rng, depth: usize) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    if let Some(filled) = well_known(descriptor, rng, depth) {
        return filled;
    }
    for field in descriptor.fields() {
        // A later member of a `oneof` displaces an earlier one: keep some of the earlier ones.
        let crowded = field.containing_oneof().map_or(1, |o| o.fields().len() as u64);
        if !rng.chance(if crowded > 1 { 100 / crowded.min(20) } else { 65 }) {
            continue;
        }
        if let Some(value) = value(&field, rng, depth) {
            message.set_field(&field, value);
        }
    }
    message
}

fn value(field: &FieldDescriptor, rng: &mut Rng, depth: usize) -> Option<Value> {
    let value = match field.kind() {
        Kind::Message(entry) if field.is_map() => {
            let value_field = entry.map_entry_value_field();
            let key = entry.map_entry_key_field().kind();
            let items = (0..rng.between(0, 3))
                .filter_map(|_| Some((map_key(&key, rng), single(&value_field, rng, depth)?)));
            Value::Map(items.collect::<HashMap<_, _>>())
        }
        _ if field.is_list() => {
            Value::List((0..rng.between(0, 3)).filter_map(|_| single(field, rng, depth)).collect())
        }
        _ => single(field, rng, depth)?,
    };
    (field.supports_presence() || !value.is_default_for_field(field)).then_some(value)
}

fn single(field: &FieldDescriptor, rng: &mut Rng, depth: usize) -> Option<Value> {
    Some(match field.kind() {
        Kind::Message(_) if depth == 0 => return None,
        Kind::Message(inner) => Value::Message(random(&inner, rng, depth - 1)),
        Kind::Enum(descriptor) => Value::EnumNumber(enum_number(&descriptor, rng)),
        Kind::Bool => Value::Bool(rng.chance(60)),
        Kind::String => Value::String(text(rng)),
        Kind::Bytes => {
            let length = rng.between(0, 20) as usize;
            Value::Bytes(rng.bytes(length).into())
        }
        Kind::Float => Value::F32(float(rng) as f32),
        Kind::Double => Value::F64(float(rng)),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(integer(rng) as i32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(integer(rng) as i64),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(integer(rng) as u32),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(integer(rng)),
    })
}

/// Small numbers, and those at the edges of every width.
fn integer(rng: &mut Rng) -> u64 {
    const EDGES: &[u64] =
        &[0, 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 1 << 53, (1 << 53) + 1, i64::MAX as u64, u64::MAX];
    if rng.chance(30) { rng.pick(EDGES).copied().unwrap_or(1) } else { rng.between(0, 5000) }
}

fn float(rng: &mut Rng) -> f64 {
    const EDGES: &[f64] = &[0.1, -0.5, 16.0, 1e20, 1e-7, -1e15, 52.507, 3.402_823e38, f64::INFINITY];
    // Zero is always positive: protobuf-wise a negative zero is not the default, but `prost-reflect` takes it for that.
    if rng.chance(40) { rng.pick(EDGES).copied().unwrap_or(1.0) } else { rng.between(0, 4000) as f64 / 16.0 }
}

fn text(rng: &mut Rng) -> String {
    let start = rng.pick(TEXTS).copied().unwrap_or_default().to_owned();
    if rng.chance(50) { start } else { format!("{start}-{}", rng.between(0, 999)) }
}

/// Mostly a declared number, sometimes one of a newer server.
fn enum_number(descriptor: &EnumDescriptor, rng: &mut Rng) -> i32 {
    let numbers: Vec<_> = descriptor.values().map(|v| v.number()).collect();
    let newer = descriptor.name() != "NullValue" && rng.chance(10);
    if newer { rng.between(100, 999) as i32 } else { rng.pick(&numbers).copied().unwrap_or_default() }
}

fn map_key(kind: &Kind, rng: &mut Rng) -> MapKey {
    match kind {
        Kind::Bool => MapKey::Bool(rng.chance(50)),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => MapKey::I32(integer(rng) as i32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => MapKey::I64(integer(rng) as i64),
        Kind::Uint32 | Kind::Fixed32 => MapKey::U32(integer(rng) as u32),
        Kind::Uint64 | Kind::Fixed64 => MapKey::U64(integer(rng)),
        _ => MapKey::String(text(rng)),
    }
}

/// The well-known messages, which have rules of their own.
fn well_known(descriptor: &MessageDescriptor, rng: &mut Rng, depth: usize) -> Option<DynamicMessage> {
    let mut message = DynamicMessage::new(descriptor.clone());
    match descriptor.full_name() {
        "google.protobuf.Timestamp" | "google.protobuf.Duration" => {
            let seconds = rng.between(0, 4_000_000_000) as i64;
            let sub = [0, 5_000_000, 123_456_000, 123_456_789];
            let nanos = rng.pick(&sub).copied().unwrap_or_default();
            for (name, value) in [("seconds", Value::I64(seconds)), ("nanos", Value::I32(nanos))] {
                if value != Value::I64(0) && value != Value::I32(0) {
                    message.set_field_by_name(name, value);
                }
            }
        }
        "google.protobuf.FieldMask" => {
            let list = vec![Value::String("up.uplink_message".into()), Value::String("name".into())];
            message.set_field_by_name("paths", Value::List(list));
        }
        "google.protobuf.Any" => {
            // A message without maps, whose order in the bytes would be accidental.
            let inner = proto::descriptor("EndDeviceIdentifiers");
            message.set_field_by_name(
                "type_url",
                Value::String(format!("type.googleapis.com/{}", inner.full_name())),
            );
            let bytes = random(&inner, rng, 1).encode_to_vec();
            if !bytes.is_empty() {
                message.set_field_by_name("value", Value::Bytes(bytes.into()));
            }
        }
        // A `Value` always holds something, and numbers in it are finite.
        "google.protobuf.Value" => {
            let (name, value) = match rng.between(0, if depth > 1 { 5 } else { 3 }) {
                0 => ("null_value", Value::EnumNumber(0)),
                1 => ("bool_value", Value::Bool(rng.chance(50))),
                2 => ("number_value", Value::F64(rng.between(0, 999) as f64 / 4.0)),
                3 => ("string_value", Value::String(text(rng))),
                4 => ("struct_value", inner(&proto::descriptor("google.protobuf.Struct"), rng, depth)),
                _ => ("list_value", inner(&proto::descriptor("google.protobuf.ListValue"), rng, depth)),
            };
            message.set_field_by_name(name, value);
        }
        _ => return None,
    }
    Some(message)
}

fn inner(descriptor: &MessageDescriptor, rng: &mut Rng, depth: usize) -> Value {
    Value::Message(random(descriptor, rng, depth - 1))
}
