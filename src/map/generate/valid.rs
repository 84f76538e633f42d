//! Values that the `(stackferry.rules)` options, and the band EU 863-870, allow; none at its default.

use std::collections::HashMap;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};

use super::Rng;
use crate::map::{options, path};

/// Frequencies of the plan `EU_863_870_TTN`, in Hz.
pub(super) const FREQUENCIES: &[u64] =
    &[868_100_000, 868_300_000, 868_500_000, 867_100_000, 867_300_000, 867_500_000, 867_700_000, 867_900_000];

/// The paths that a mask allows, as a tree; no children: everything below.
#[derive(Debug, Default)]
pub(super) struct Tree(HashMap<String, Tree>);

impl Tree {
    /// The tree of these paths.
    pub(super) fn of<'a>(paths: impl IntoIterator<Item = &'a str>) -> Self {
        let mut root = Self::default();
        for path in paths {
            let mut node = &mut root;
            for segment in path.split('.') {
                node = node.0.entry(segment.to_owned()).or_default();
            }
        }
        root
    }
}

/// A message of this name in which everything below `paths` is set, by the rules of the stack but for addresses (`uri`); all
/// members of a `oneof` come in turn with the seed.
pub fn valid<'a>(name: &str, paths: impl IntoIterator<Item = &'a str>, seed: u64) -> DynamicMessage {
    let mut maker = Maker { rng: Rng::new(seed), round: seed };
    maker.message(&crate::proto::descriptor(name), &Tree::of(paths))
}

/// Makes valid values: one sequence of random numbers, and the choice among the members of each `oneof`.
#[derive(Debug)]
pub(super) struct Maker {
    pub(super) rng: Rng,
    /// Consecutive rounds choose consecutive members of each `oneof`.
    pub(super) round: u64,
}

impl Maker {
    /// A message in which everything that `allowed` names is set; without children, everything.
    pub(super) fn message(&mut self, descriptor: &MessageDescriptor, allowed: &Tree) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        for field in descriptor.fields() {
            let oneof = field.containing_oneof();
            let below = match &oneof {
                Some(oneof) => allowed.0.get(oneof.name()).and_then(|t| t.0.get(field.name())),
                None => allowed.0.get(field.name()),
            };
            let Some(below) = below.or_else(|| allowed.0.is_empty().then_some(allowed)) else { continue };
            let chosen = oneof.is_none_or(|oneof| {
                let members: Vec<_> = oneof.fields().map(|f| f.number()).collect();
                let turn = self.round % members.len().max(1) as u64;
                members.get(turn as usize) == Some(&field.number())
            });
            if chosen {
                let value = self.field(&field, below);
                // An enum of one member has nothing but its default.
                if field.supports_presence() || !value.is_default_for_field(&field) {
                    message.set_field(&field, value);
                }
            }
        }
        message
    }

    fn field(&mut self, field: &FieldDescriptor, allowed: &Tree) -> Value {
        let rules = options::rules(field);
        let items = rules.as_ref().and_then(|r| path::child(r, "repeated.items"));
        match field.kind() {
            Kind::Message(entry) if field.is_map() => {
                let rule = |name: &str| rules.as_ref().and_then(|r| path::child(r, name));
                let (keys, values) = (rule("map.keys"), rule("map.values"));
                let (key, value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
                let mut map = HashMap::new();
                for _ in 0..2 {
                    let key = self.single(&key, keys.as_ref(), "key", allowed).into_map_key();
                    let value = self.single(&value, values.as_ref(), field.name(), allowed);
                    map.insert(key.unwrap_or(MapKey::U64(1)), value);
                }
                Value::Map(map)
            }
            _ if field.is_list() => Value::List(
                (0..2).map(|_| self.single(field, items.as_ref(), field.name(), allowed)).collect(),
            ),
            _ => self.single(field, rules.as_ref(), field.name(), allowed),
        }
    }

    /// `name` says what the value is for: wrappers pass the name of the field that holds them.
    fn single(
        &mut self,
        field: &FieldDescriptor,
        rules: Option<&DynamicMessage>,
        name: &str,
        allowed: &Tree,
    ) -> Value {
        match field.kind() {
            Kind::Message(descriptor) => Value::Message(self.inner(&descriptor, rules, name, allowed)),
            Kind::Bool => Value::Bool(true),
            Kind::String => Value::String(self.text(rules, name)),
            Kind::Bytes => Value::Bytes(self.bytes(rules).into()),
            Kind::Enum(descriptor) => {
                let numbers: Vec<u64> =
                    descriptor.values().filter_map(|v| v.number().try_into().ok()).collect();
                let (low, high) = range(rules, name);
                let listed = |name: &str| -> Vec<u64> {
                    let list = rules.and_then(|r| path::get(r, &format!("enum.{name}")));
                    let list = list.as_ref().and_then(|v| v.as_list()).unwrap_or_default();
                    list.iter().filter_map(|v| v.as_i32()?.try_into().ok()).collect()
                };
                let (only, never) = (listed("in"), listed("not_in"));
                let ruled = |n: &u64| (only.is_empty() || only.contains(n)) && !never.contains(n);
                let fits = |n: &u64| *n > 0 && (low..=high).contains(n) && ruled(n);
                let numbers: Vec<_> = numbers.into_iter().filter(fits).collect();
                Value::EnumNumber(self.rng.pick(&numbers).copied().unwrap_or(0) as i32)
            }
            Kind::Float if name == "max_eirp" => Value::F32(self.rng.between(8, 16) as f32),
            Kind::Float => Value::F32(self.rng.between(1, 16) as f32 / 16.0),
            Kind::Double => Value::F64(self.rng.between(1, 800) as f64 / 10.0),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(self.integer(rules, name) as i32),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(self.integer(rules, name) as i64),
            Kind::Uint32 | Kind::Fixed32 => Value::U32(self.integer(rules, name) as u32),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(self.integer(rules, name)),
        }
    }

    fn inner(
        &mut self,
        descriptor: &MessageDescriptor,
        rules: Option<&DynamicMessage>,
        name: &str,
        allowed: &Tree,
    ) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        match descriptor.full_name() {
            "google.protobuf.Timestamp" => {
                let until = if name == "valid_to" { 2_000_000_000 } else { 1_700_000_000 };
                message
                    .set_field_by_name("seconds", Value::I64((until + self.rng.between(0, 999_999)) as i64));
                message.set_field_by_name("nanos", Value::I32(self.rng.between(1, 999_999) as i32 * 1000));
            }
            "google.protobuf.Duration" => {
                message.set_field_by_name("seconds", Value::I64(self.rng.between(1, 3600) as i64));
            }
            "google.protobuf.Struct" => {
                let text = Value::String(self.text(None, name));
                path::set(&mut message, "fields", Value::Map(HashMap::new()));
                let mut value = crate::proto::message("google.protobuf.Value");
                value.set_field_by_name("string_value", text);
                let map = HashMap::from([(MapKey::String("serial".into()), Value::Message(value))]);
                message.set_field_by_name("fields", Value::Map(map));
            }
            // A wrapper: the rules of the field that holds it are those of its value (protoc-gen-validate).
            _ if descriptor.fields().len() == 1 && descriptor.get_field_by_name("value").is_some() => {
                if let Some(value) = descriptor.get_field_by_name("value") {
                    let own = options::rules(&value);
                    let value_of = self.single(&value, rules.or(own.as_ref()), name, allowed);
                    message.set_field(&value, value_of);
                }
            }
            _ => return self.message(descriptor, allowed),
        }
        message
    }

    fn integer(&mut self, rules: Option<&DynamicMessage>, name: &str) -> u64 {
        if name.contains("freq") {
            return self.rng.pick(FREQUENCIES).copied().unwrap_or_default();
        }
        let (low, high) = range(rules, name);
        self.rng.between(low, high)
    }

    fn text(&mut self, rules: Option<&DynamicMessage>, name: &str) -> String {
        let number = self.rng.between(1, 999_999);
        let pattern = rules.map(|r| path::string(r, "string.pattern")).unwrap_or_default();
        match pattern.as_str() {
            "" if name.ends_with("_parameter") => {
                format!("function decodeUplink(input) {{\n  return {{ data: {{ größe: {number} }} }};\n}}\n")
            }
            "" if name == "coding_rate" => "4/5".to_owned(),
            "" => format!("№ {number} – „Größe“"),
            "^[a-zA-Z0-9]{1,32}$" => format!("Claim{number}"),
            p if p.contains("[0-9]{1,5}") => super::HOST.to_owned(),
            _ => format!("gen-{number}"),
        }
    }

    fn bytes(&mut self, rules: Option<&DynamicMessage>) -> Vec<u8> {
        let bound = |name| rules.map(|r| path::number(r, &format!("bytes.{name}"))).filter(|n| *n > 0);
        let length =
            bound("len").or_else(|| bound("min_len")).unwrap_or_else(|| bound("max_len").unwrap_or(8).min(8));
        self.rng.bytes(length as usize)
    }
}

/// The numbers that the rules, the band and the order of `min_…` and `max_…` leave, without zero.
fn range(rules: Option<&DynamicMessage>, name: &str) -> (u64, u64) {
    let bound = |which: &str| {
        let kinds = ["uint32", "uint64", "int32"];
        let get = |kind| rules.and_then(|r| path::get(r, &format!("{kind}.{which}"))?.as_f64());
        kinds.into_iter().find_map(get).map(|n| n.max(0.0) as u64)
    };
    let low = bound("gte").or_else(|| bound("gt").map(|n| n + 1)).unwrap_or(1).max(1);
    let high = bound("lte").or_else(|| bound("lt").map(|n| n.saturating_sub(1))).unwrap_or(1_000_000);
    let (from, to) = band(name);
    (low.max(from), high.min(to).max(low))
}

/// What the band EU 863-870 (RP002-1.0.4) and LoRaWAN allow where the rules say nothing.
fn band(name: &str) -> (u64, u64) {
    match name {
        "min_nb_trans" => (1, 1),
        "max_nb_trans" => (2, 3),
        "min_tx_power_index" => (1, 3),
        "max_tx_power_index" => (4, 7),
        "default_channel_index" => (1, 1),
        "f_port" => (1, 223),
        "adr_nb_trans" => (1, 3),
        "bandwidth" => (125_000, 125_000),
        "spreading_factor" => (7, 12),
        n if n.contains("dev_nonce") || n.contains("join_nonce") => (1, 65_535),
        n if n.starts_with("min_data_rate") => (1, 2),
        n if n.starts_with("max_data_rate") => (3, 5),
        n if n.contains("tx_power_ind") => (1, 7),
        n if n.contains("data_rate") || n == "rx2_dr" || n == "rx1_dr_offset" => (1, 5),
        _ => (1, u64::MAX),
    }
}
