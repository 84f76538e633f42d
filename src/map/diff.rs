//! The difference of two messages, field by field.

use std::{borrow::Cow, collections::BTreeSet, fmt};

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage as _, Value};

use super::{json, options, path};
use crate::model::secret::is_secret_path;

/// One place where two messages differ.
///
/// `path` is in the language of field masks, with the name of the `oneof`; it goes on into maps and lists by key and by
/// index (`attributes.site`, `mac_state.current_parameters.channels.2.uplink_frequency`). A wrapper is one place, whether it is absent,
/// at its default or not (`mac_settings.rx1_delay`, without `.value`). Fields that this build does not know are `#` and their number behind the message that holds them (`mac_settings.#99`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub path: String,
    /// What the left message holds there; `None` when nothing.
    pub left: Option<Shown>,
    /// What the right message holds there; `None` when nothing.
    pub right: Option<Shown>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |shown: &Option<Shown>| shown.as_ref().map_or("nothing".to_owned(), Shown::to_string);
        write!(f, "{}: {} → {}", self.path, side(&self.left), side(&self.right))
    }
}

/// A value as it may be shown to people: its JSON, or only that it is a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// The JSON of the value, shortened to [`Shown::LIMIT`] characters.
    Text(String),
    /// A key or another credential, which is never shown.
    Secret,
    /// A field that this build does not know: how many bytes it has on the wire. It may be a secret.
    Unknown(usize),
}

impl Shown {
    /// Longer texts, such as payload formatters, are cut to this many characters.
    pub const LIMIT: usize = 120;

    fn of(path: &str, field: &FieldDescriptor, value: &Value) -> Self {
        if is_secret_path(path) {
            return Self::Secret;
        }
        Self::Text(shorten(json::value_to_json(field, value).to_string()))
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Secret => f.write_str("[secret]"),
            Self::Unknown(bytes) => write!(f, "[{bytes} bytes]"),
        }
    }
}

fn shorten(text: String) -> String {
    match text.char_indices().nth(Shown::LIMIT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Every place where two messages of one type differ, in the order of field numbers, map keys and list indices.
///
/// Messages that mean the same have no difference: the order of map entries, and whether a default is stored, do not
/// matter; whether a message is set does, also when it is empty.
pub fn diff(left: &DynamicMessage, right: &DynamicMessage) -> Vec<Difference> {
    let mut out = Vec::new();
    messages(left, right, "", &mut out);
    out
}

/// [`diff`], only of what these mask paths name.
pub fn diff_paths<S: AsRef<str>>(
    left: &DynamicMessage,
    right: &DynamicMessage,
    paths: &[S],
) -> Vec<Difference> {
    let descriptor = left.descriptor();
    let paths: Vec<_> = paths.iter().map(|p| path::canonical(&descriptor, p.as_ref())).collect();
    let covered = |difference: &str| paths.iter().any(|p| path::covers(p, difference));
    diff(left, right).into_iter().filter(|d| covered(&d.path)).collect()
}

fn messages(left: &DynamicMessage, right: &DynamicMessage, prefix: &str, out: &mut Vec<Difference>) {
    for field in left.descriptor().fields() {
        let at = format!("{prefix}{}", path::segment(&field));
        fields(&field, stored(left, &field).as_deref(), stored(right, &field).as_deref(), &at, out);
    }
    unknown(left, right, prefix, out);
}

fn stored<'a>(message: &'a DynamicMessage, field: &FieldDescriptor) -> Option<Cow<'a, Value>> {
    message.has_field(field).then(|| message.get_field(field))
}

fn fields(
    field: &FieldDescriptor,
    left: Option<&Value>,
    right: Option<&Value>,
    at: &str,
    out: &mut Vec<Difference>,
) {
    if field.is_list() {
        let (l, r) = (list(left), list(right));
        for index in 0..l.len().max(r.len()) {
            items(field, l.get(index), r.get(index), &format!("{at}.{index}"), out);
        }
    } else if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
        let value_field = entry.map_entry_value_field();
        let (l, r) = (left.and_then(Value::as_map), right.and_then(Value::as_map));
        let keys: BTreeSet<&MapKey> = l.into_iter().chain(r).flat_map(|map| map.keys()).collect();
        for key in keys {
            let at = format!("{at}.{}", path::key(key));
            items(&value_field, l.and_then(|m| m.get(key)), r.and_then(|m| m.get(key)), &at, out);
        }
    } else {
        items(field, left, right, at, out);
    }
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_list).unwrap_or_default()
}

/// Two single values. Messages are gone into, also when one side has none, so that each place has a path of its own, by
/// which it is known whether it may be shown.
fn items(
    field: &FieldDescriptor,
    left: Option<&Value>,
    right: Option<&Value>,
    at: &str,
    out: &mut Vec<Difference>,
) {
    let shown = |value: Option<&Value>| value.map(|v| Shown::of(at, field, v));
    let whole = || Difference { path: at.to_owned(), left: shown(left), right: shown(right) };
    let (l, r) = (left.and_then(Value::as_message), right.and_then(Value::as_message));
    let Some(some) = l.or(r) else {
        if left != right {
            out.push(whole());
        }
        return;
    };
    let none = DynamicMessage::new(some.descriptor());
    let mut below = Vec::new();
    messages(l.unwrap_or(&none), r.unwrap_or(&none), &format!("{at}."), &mut below);
    let one_sided = l.is_some() != r.is_some();
    if is_one_value(some) {
        // Of one value there is one difference, next to the fields that are unknown in it.
        let all = below.len();
        below.retain(|d| d.path.rsplit('.').next().is_some_and(|last| last.starts_with('#')));
        if one_sided || below.len() < all {
            out.push(whole());
        }
    } else if one_sided && below.is_empty() {
        out.push(whole());
    }
    out.append(&mut below);
}

/// Well-known messages and wrappers are shown whole.
fn is_one_value(message: &DynamicMessage) -> bool {
    let descriptor = message.descriptor();
    path::is_leaf(&descriptor) || options::wrapped(&descriptor).is_some()
}

fn unknown(left: &DynamicMessage, right: &DynamicMessage, prefix: &str, out: &mut Vec<Difference>) {
    let bytes = |message: &DynamicMessage, number: u32| {
        let mut buffer = Vec::new();
        for field in message.unknown_fields().filter(|f| f.number() == number) {
            field.encode(&mut buffer);
        }
        (!buffer.is_empty()).then_some(buffer)
    };
    let numbers: BTreeSet<u32> =
        left.unknown_fields().chain(right.unknown_fields()).map(|f| f.number()).collect();
    for number in numbers {
        let (l, r) = (bytes(left, number), bytes(right, number));
        if l != r {
            let shown = |b: Option<Vec<u8>>| b.map(|b| Shown::Unknown(b.len()));
            out.push(Difference { path: format!("{prefix}#{number}"), left: shown(l), right: shown(r) });
        }
    }
}

#[cfg(test)]
mod tests;
