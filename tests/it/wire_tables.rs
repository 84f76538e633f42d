//! The compiled protos against tables of the wire of The Things Stack 3.32.1, in both directions.

mod v2;

use std::{collections::BTreeMap, fmt::Debug};

use prost_reflect::{Cardinality, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};
use stackferry::{map::path, proto};

/// Rows of a table without its head, as cells.
fn rows(table: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    table.lines().skip(1).filter(|line| !line.is_empty()).map(|line| line.split('\t').collect())
}

fn cell<'r>(row: &[&'r str], index: usize) -> &'r str {
    row.get(index).copied().unwrap_or_default()
}

/// A name without the package.
fn short(full: &str) -> &str {
    full.strip_prefix(proto::PACKAGE).and_then(|rest| rest.strip_prefix('.')).unwrap_or(full)
}

fn messages() -> impl Iterator<Item = MessageDescriptor> {
    proto::pool().all_messages().filter(|m| m.package_name() == proto::PACKAGE && !m.is_map_entry())
}

#[track_caller]
fn same<K: Ord + Debug, V: PartialEq + Debug>(table: &BTreeMap<K, V>, compiled: &BTreeMap<K, V>) {
    assert!(!table.is_empty());
    let missing: Vec<_> = table.iter().filter(|(key, value)| compiled.get(key) != Some(value)).collect();
    let more: Vec<_> = compiled.iter().filter(|(key, value)| table.get(key) != Some(value)).collect();
    assert!(
        missing.is_empty() && more.is_empty(),
        "only in the table: {missing:#?}\nonly compiled: {more:#?}"
    );
}

fn type_of(kind: &Kind) -> String {
    match kind {
        Kind::Message(message) => short(message.full_name()).to_owned(),
        Kind::Enum(values) => short(values.full_name()).to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    }
}

/// Type, label and oneof as the table writes them.
fn described(field: &FieldDescriptor) -> (String, String, String) {
    let oneof = field.containing_oneof().filter(|oneof| !oneof.is_synthetic());
    let oneof = oneof.map_or_else(String::new, |oneof| oneof.name().to_owned());
    if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
        let of = |field: FieldDescriptor| type_of(&field.kind());
        let text = format!("map<{},{}>", of(entry.map_entry_key_field()), of(entry.map_entry_value_field()));
        return (text, String::new(), oneof);
    }
    let label = match field.cardinality() {
        Cardinality::Repeated => "repeated",
        Cardinality::Required => "required",
        Cardinality::Optional if field.field_descriptor_proto().proto3_optional() => "optional",
        Cardinality::Optional => "",
    };
    (type_of(&field.kind()), label.to_owned(), oneof)
}

#[test]
fn the_fields_are_those_of_the_wire() {
    let mut table = BTreeMap::new();
    for row in rows(include_str!("../wire/fields.tsv")) {
        let key = (cell(&row, 0).to_owned(), cell(&row, 1).to_owned(), cell(&row, 2).to_owned());
        table.insert(key, (cell(&row, 3).to_owned(), cell(&row, 4).to_owned(), cell(&row, 5).to_owned()));
    }
    let mut compiled = BTreeMap::new();
    for message in messages() {
        let name = short(message.full_name()).to_owned();
        for field in message.fields() {
            let key = (name.clone(), field.number().to_string(), field.name().to_owned());
            compiled.insert(key, described(&field));
        }
        if message.fields().len() == 0 {
            // The table has a row for an empty message.
            compiled.insert((name, String::new(), String::new()), Default::default());
        }
    }
    same(&table, &compiled);
}

/// An option as text: `string {max_len: 36}`.
fn option_text(value: &Value, name: &str, out: &mut String) {
    match value {
        Value::Message(message) => {
            out.push_str(name);
            out.push_str(" {");
            for (field, value) in message.fields() {
                option_text(value, field.name(), out);
            }
            out.push_str("} ");
        }
        Value::List(list) => list.iter().for_each(|value| option_text(value, name, out)),
        Value::String(text) => {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"");
            out.push_str(&format!("{name}: \"{text}\" "));
        }
        Value::Bool(value) => out.push_str(&format!("{name}: {value} ")),
        Value::U64(value) => out.push_str(&format!("{name}: {value} ")),
        Value::I32(value) | Value::EnumNumber(value) => out.push_str(&format!("{name}: {value} ")),
        Value::F64(value) => out.push_str(&format!("{name}: {value} ")),
        other => out.push_str(&format!("{name}: {other:?} ")),
    }
}

/// The words of a rule; their order means nothing.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<_> = text
        .split([' ', '{', '}'])
        .filter(|word| !word.is_empty())
        .map(|w| w.trim_end_matches(".0").to_owned())
        .collect();
    words.sort();
    words
}

fn extension(options: &DynamicMessage, name: &str) -> Option<Value> {
    let descriptor = proto::pool().get_extension_by_name(&format!("stackferry.{name}"))?;
    options.has_extension(&descriptor).then(|| options.get_extension(&descriptor).into_owned())
}

#[test]
fn the_rules_and_json_forms_of_fields_are_those_of_the_wire() {
    let mut table = BTreeMap::new();
    for row in rows(include_str!("../wire/fields.tsv")).filter(|row| !cell(row, 2).is_empty()) {
        let key = (cell(&row, 0).to_owned(), cell(&row, 2).to_owned());
        table.insert(key, (words(cell(&row, 6)), cell(&row, 7).to_owned()));
    }
    let mut compiled = BTreeMap::new();
    for field in messages().flat_map(|message| message.fields().collect::<Vec<_>>()) {
        let options = field.options();
        let mut rules = String::new();
        if let Some(Value::Message(rule)) = extension(&options, "rules") {
            for (kind, value) in rule.fields() {
                option_text(value, kind.name(), &mut rules);
            }
        }
        let json =
            extension(&options, "json").and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
        let key = (short(field.parent_message().full_name()).to_owned(), field.name().to_owned());
        compiled.insert(key, (words(&rules), json));
    }
    same(&table, &compiled);
}

#[test]
fn the_enums_are_those_of_the_wire() {
    let mut table = BTreeMap::new();
    for row in rows(include_str!("../wire/enums.tsv")) {
        let key = (cell(&row, 0).to_owned(), cell(&row, 2).to_owned());
        table.insert(key, (cell(&row, 1).to_owned(), cell(&row, 3).to_owned()));
    }
    let ours = proto::pool().all_enums().filter(|e| e.package_name() == proto::PACKAGE);
    let compiled = ours.flat_map(|values| {
        let name = short(values.full_name()).to_owned();
        let options = values.options();
        let number = extension(&options, "json_number").and_then(|v| v.as_bool()) == Some(true);
        let mut json = if number { "number" } else { "string" }.to_owned();
        if let Some(prefix) = extension(&options, "json_prefix") {
            json.push_str(&format!(" prefix={}", prefix.as_str().unwrap_or_default()));
        }
        let all: Vec<_> = values.values().collect();
        all.into_iter().map(move |value| {
            let mut json = json.clone();
            if let Some(aliases) = extension(&value.options(), "json_alias") {
                let aliases = aliases.as_list().unwrap_or_default().iter().filter_map(Value::as_str);
                json.push_str(&format!(" aliases={}", aliases.collect::<Vec<_>>().join(",")));
            }
            ((name.clone(), value.name().to_owned()), (value.number().to_string(), json))
        })
    });
    same(&table, &compiled.collect());
}

#[test]
fn the_methods_are_those_of_the_wire() {
    let mut table = BTreeMap::new();
    for row in rows(include_str!("../wire/rpcs.tsv")) {
        let method = (cell(&row, 0).to_owned(), cell(&row, 1).to_owned());
        table.insert(method, (cell(&row, 2).to_owned(), cell(&row, 3).to_owned(), cell(&row, 4).to_owned()));
    }
    let ours = proto::pool().services().filter(|service| service.package_name() == proto::PACKAGE);
    let compiled = ours.flat_map(|service| {
        let methods: Vec<_> = service.methods().collect();
        methods.into_iter().map(move |method| {
            let stream = match (method.is_client_streaming(), method.is_server_streaming()) {
                (false, false) => "",
                (false, true) => "server-stream",
                (true, false) => "client-stream",
                (true, true) => "stream",
            };
            let types = [method.input(), method.output()].map(|m| short(m.full_name()).to_owned());
            let [input, output] = types;
            ((service.name().to_owned(), method.name().to_owned()), (input, output, stream.to_owned()))
        })
    });
    same(&table, &compiled.collect());
}

/// The message in a field, a list or a map.
fn carried(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    match field.kind() {
        Kind::Message(entry) if field.is_map() => match entry.map_entry_value_field().kind() {
            Kind::Message(inner) => Some(inner),
            _ => None,
        },
        Kind::Message(inner) => Some(inner),
        _ => None,
    }
}

#[test]
fn the_paths_of_the_masks_exist() {
    let mut checked = 0;
    let mut wrong = Vec::new();
    for row in rows(include_str!("../../proto/field_masks.tsv")) {
        let (rpc, at) = (cell(&row, 0), cell(&row, 2));
        let method = proto::method(&format!("/{}.{rpc}", proto::PACKAGE));
        let Some(method) = method else {
            wrong.push(rpc.to_owned());
            continue;
        };
        // Paths are of the answer, or of what it lists or carries.
        let output = method.output();
        let carried: Vec<_> = output.fields().filter_map(|field| carried(&field)).collect();
        checked += 1;
        let is_empty = output.full_name() == "google.protobuf.Empty";
        let was = rpc.starts_with("As/") && ["api_key", "network_server_address", "tls"].contains(&at);
        let known = [output].iter().chain(&carried).any(|message| path::exists(message, at));
        if !known && !is_empty && !was {
            wrong.push(format!("{rpc} {at}"));
        }
    }
    assert!(checked > 2000, "{checked} paths");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
