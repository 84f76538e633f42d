//! Field paths: reading, writing and projecting parts of a message by the names that field masks use.
//!
//! A path is dotted (`mac_settings.adr.mode.static.nb_trans`). The name of a `oneof` is a segment of its own, as in the
//! masks of The Things Stack (`provider.nats`, `wire` table `field_masks.tsv`); it may also be left out. Paths end at
//! scalars, messages, lists and maps: they do not look into lists and maps.

use std::borrow::Cow;

use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, OneofDescriptor, ReflectMessage as _,
    Value,
};

use super::options;

/// The value at `path`, or `None` where it is absent: a message that is not set, a scalar at its default.
///
/// The value inside a wrapper that is set is never absent: `rx2_data_rate_index.value` of 0 is data rate 0.
pub fn get<'a>(message: &'a DynamicMessage, path: &str) -> Option<Cow<'a, Value>> {
    let descriptor = message.descriptor();
    let (field, rest) = step(&descriptor, message, path)?;
    if !message.has_field(&field) {
        return options::wrapped(&descriptor).map(|value| Cow::Owned(value.default_value()));
    }
    match (message.get_field(&field), rest) {
        (value, None) => Some(value),
        (Cow::Borrowed(Value::Message(inner)), Some(rest)) => get(inner, rest),
        (Cow::Owned(Value::Message(inner)), Some(rest)) => {
            get(&inner, rest).map(|v| Cow::Owned(v.into_owned()))
        }
        _ => None,
    }
}

/// True when something is stored at `path`.
pub fn has(message: &DynamicMessage, path: &str) -> bool {
    get(message, path).is_some()
}

/// The string at `path`; empty when absent.
pub fn string(message: &DynamicMessage, path: &str) -> String {
    get(message, path).and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The bytes at `path`; empty when absent.
pub fn bytes(message: &DynamicMessage, path: &str) -> Vec<u8> {
    get(message, path).and_then(|v| v.as_bytes().map(|b| b.to_vec())).unwrap_or_default()
}

/// The unsigned number at `path`, whatever its width; 0 when absent. Enums answer their number.
pub fn number(message: &DynamicMessage, path: &str) -> u64 {
    get(message, path)
        .and_then(|v| match *v {
            Value::U32(n) => Some(u64::from(n)),
            Value::U64(n) => Some(n),
            Value::I32(n) | Value::EnumNumber(n) => u64::try_from(n).ok(),
            Value::I64(n) => u64::try_from(n).ok(),
            _ => None,
        })
        .unwrap_or_default()
}

/// The flag at `path`, also through a `BoolValue` wrapper; false when absent.
pub fn flag(message: &DynamicMessage, path: &str) -> bool {
    wrapped_flag(message, path).unwrap_or(false)
}

/// The flag at `path`, `None` when it is not stored: a wrapper that is set to false is `Some(false)`.
pub fn wrapped_flag(message: &DynamicMessage, path: &str) -> Option<bool> {
    match get(message, path)?.into_owned() {
        Value::Bool(b) => Some(b),
        Value::Message(wrapper) => wrapper.get_field_by_name("value")?.as_bool(),
        _ => None,
    }
}

/// The message at `path`, when it is set.
pub fn child(message: &DynamicMessage, path: &str) -> Option<DynamicMessage> {
    get(message, path).and_then(|v| v.as_message().cloned())
}

/// Stores `value` at `path`, making the messages on the way. A default is stored by storing nothing, so that messages that
/// mean the same are equal.
///
/// # Panics
/// When the message has no such path or the value does not fit it: both are this program's own.
pub fn set(message: &mut DynamicMessage, path: &str, value: Value) {
    let descriptor = message.descriptor();
    let Some((field, rest)) = step(&descriptor, message, path) else {
        panic!("{} has no path {path}", descriptor.name());
    };
    match rest {
        None if !field.supports_presence() && value.is_default_for_field(&field) => {
            message.clear_field(&field)
        }
        None => message.set_field(&field, value),
        Some(rest) => match message.get_field_mut(&field) {
            Value::Message(inner) => set(inner, rest, value),
            _ => panic!("{path} of {} does not go into a message", descriptor.name()),
        },
    }
}

/// Stores `value` in the wrapper message (`BoolValue`, `RxDelayValue`, …) at `path`.
pub fn set_wrapped(message: &mut DynamicMessage, path: &str, value: Value) {
    set(message, &format!("{path}.value"), value);
}

/// Makes the message at `path` present, empty if it was absent.
pub fn touch(message: &mut DynamicMessage, path: &str) {
    let Some((field, rest)) = step(&message.descriptor(), message, path) else { return };
    if let Value::Message(inner) = message.get_field_mut(&field)
        && let Some(rest) = rest
    {
        touch(inner, rest);
    }
}

/// Removes what is stored at `path`. Messages on the way stay, also when they become empty.
pub fn clear(message: &mut DynamicMessage, path: &str) {
    let descriptor = message.descriptor();
    let (head, rest) = split(path);
    if let (Some(oneof), None) = (descriptor.oneofs().find(|o| o.name() == head), rest) {
        for field in oneof.fields() {
            message.clear_field(&field);
        }
        return;
    }
    let Some((field, rest)) = step(&descriptor, message, path) else { return };
    match rest {
        None => message.clear_field(&field),
        Some(rest) if message.has_field(&field) => {
            if let Value::Message(inner) = message.get_field_mut(&field) {
                clear(inner, rest);
            }
        }
        Some(_) => {}
    }
}

/// A copy of `message` that holds only what `paths` name, as a server answers a mask.
///
/// A parent message is made only where a path below it holds something.
pub fn project<S: AsRef<str>>(message: &DynamicMessage, paths: &[S]) -> DynamicMessage {
    let mut out = DynamicMessage::new(message.descriptor());
    for path in paths {
        if let Some(value) = get(message, path.as_ref()) {
            set(&mut out, &concrete(message, path.as_ref()), value.into_owned());
        }
    }
    out
}

/// Takes what `paths` name from `from` into `into`: set where present, removed where absent (field mask update).
pub fn apply<S: AsRef<str>>(into: &mut DynamicMessage, from: &DynamicMessage, paths: &[S]) {
    for path in paths {
        let path = path.as_ref();
        match get(from, path) {
            Some(value) => set(into, &concrete(from, path), value.into_owned()),
            None => clear(into, path),
        }
    }
}

/// True when `path` can be followed from `descriptor`.
pub fn exists(descriptor: &MessageDescriptor, path: &str) -> bool {
    let (head, rest) = split(path);
    if let Some(oneof) = descriptor.oneofs().find(|o| o.name() == head) {
        return rest.is_none_or(|rest| member(&oneof, rest).is_some() && exists(descriptor, rest));
    }
    match (descriptor.get_field_by_name(head), rest) {
        (Some(_), None) => true,
        (Some(field), Some(rest)) if !field.is_list() && !field.is_map() => {
            matches!(field.kind(), Kind::Message(inner) if exists(&inner, rest))
        }
        _ => false,
    }
}

/// Every leaf path that holds something: scalars, lists, maps, and messages that are set but empty.
///
/// Well-known types (`google.protobuf.*`) are leaves.
pub fn stored(message: &DynamicMessage) -> Vec<String> {
    let mut out = Vec::new();
    collect(message, "", &mut out);
    out
}

fn collect(message: &DynamicMessage, prefix: &str, out: &mut Vec<String>) {
    for (field, value) in message.fields() {
        let name = format!("{prefix}{}", segment(&field));
        match value {
            Value::Message(inner) if !is_leaf(&inner.descriptor()) && inner.fields().next().is_some() => {
                collect(inner, &format!("{name}."), out);
            }
            _ => out.push(name),
        }
    }
}

/// A field as a path names it: behind the name of its `oneof`, if it is in one.
pub fn segment(field: &FieldDescriptor) -> String {
    match field.containing_oneof() {
        Some(oneof) if !oneof.is_synthetic() => format!("{}.{}", oneof.name(), field.name()),
        _ => field.name().to_owned(),
    }
}

/// A map key as a path and JSON name it.
pub fn key(key: &MapKey) -> String {
    match key {
        MapKey::Bool(k) => k.to_string(),
        MapKey::I32(k) => k.to_string(),
        MapKey::I64(k) => k.to_string(),
        MapKey::U32(k) => k.to_string(),
        MapKey::U64(k) => k.to_string(),
        MapKey::String(k) => k.clone(),
    }
}

/// True when `path` is `parent` or lies below it.
pub fn covers(parent: &str, path: &str) -> bool {
    path.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// `path` without the `value` of a wrapper: masks name `rx1_delay.value`, differences and JSON `rx1_delay`.
pub fn canonical<'p>(descriptor: &MessageDescriptor, path: &'p str) -> &'p str {
    let Some(wrapper) = path.strip_suffix(".value") else { return path };
    if message_at(descriptor, wrapper).is_some_and(|m| options::wrapped(&m).is_some()) {
        wrapper
    } else {
        path
    }
}

/// The type of the message at `path`; `None` when something else, or nothing, is there.
pub fn message_at(descriptor: &MessageDescriptor, path: &str) -> Option<MessageDescriptor> {
    let (head, rest) = split(path);
    let (field, rest) = match descriptor.get_field_by_name(head) {
        Some(field) => (field, rest),
        None => member(&descriptor.oneofs().find(|o| o.name() == head)?, rest?)?,
    };
    match field.kind() {
        Kind::Message(inner) if !field.is_list() && !field.is_map() => match rest {
            Some(rest) => message_at(&inner, rest),
            None => Some(inner),
        },
        _ => None,
    }
}

/// True for messages that are one value to us: the well-known types.
pub fn is_leaf(descriptor: &MessageDescriptor) -> bool {
    descriptor.package_name() == "google.protobuf"
}

/// `path` with every bare `oneof` at its end replaced by the member that is set, so that it can be written.
fn concrete(message: &DynamicMessage, path: &str) -> String {
    let descriptor = message.descriptor();
    let (head, rest) = split(path);
    if let Some(oneof) = descriptor.oneofs().find(|o| o.name() == head) {
        return match rest {
            Some(rest) => concrete(message, rest),
            None => oneof
                .fields()
                .find(|f| message.has_field(f))
                .map_or_else(|| path.to_owned(), |f| f.name().to_owned()),
        };
    }
    match (rest, child(message, head)) {
        (Some(rest), Some(inner)) => format!("{head}.{}", concrete(&inner, rest)),
        _ => path.to_owned(),
    }
}

fn split(path: &str) -> (&str, Option<&str>) {
    path.split_once('.').map_or((path, None), |(head, rest)| (head, Some(rest)))
}

/// The first field of `path` in this message, skipping the name of a `oneof`, and the rest of the path.
fn step<'p>(
    descriptor: &MessageDescriptor,
    message: &DynamicMessage,
    path: &'p str,
) -> Option<(FieldDescriptor, Option<&'p str>)> {
    let (head, rest) = split(path);
    if let Some(field) = descriptor.get_field_by_name(head) {
        return Some((field, rest));
    }
    let oneof = descriptor.oneofs().find(|o| o.name() == head)?;
    match rest {
        Some(rest) => member(&oneof, rest),
        None => oneof.fields().find(|f| message.has_field(f)).map(|f| (f, None)),
    }
}

/// The member of a `oneof` with which `path` begins, and the rest of the path.
fn member<'p>(oneof: &OneofDescriptor, path: &'p str) -> Option<(FieldDescriptor, Option<&'p str>)> {
    let (head, rest) = split(path);
    oneof.fields().find(|f| f.name() == head).map(|f| (f, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto;

    fn device() -> DynamicMessage {
        let mut device = proto::message("EndDevice");
        set(&mut device, "ids.device_id", Value::String("meter-1".into()));
        set(&mut device, "mac_settings.adr.mode.static.nb_trans", Value::U32(2));
        set_wrapped(&mut device, "mac_settings.schedule_downlinks", Value::Bool(false));
        device
    }

    #[test]
    fn a_wrapper_set_to_false_differs_from_an_absent_one() {
        let device = device();
        assert_eq!(wrapped_flag(&device, "mac_settings.schedule_downlinks"), Some(false));
        assert_eq!(wrapped_flag(&device, "mac_settings.resets_f_cnt"), None);
    }

    #[test]
    fn a_wrapper_at_its_default_goes_where_a_mask_of_its_value_takes_it() {
        let leaf = "mac_settings.schedule_downlinks.value";
        let device = device();
        assert_eq!(get(&device, leaf).map(Cow::into_owned), Some(Value::Bool(false)));
        let projected = project(&device, &[leaf]);
        assert_eq!(wrapped_flag(&projected, "mac_settings.schedule_downlinks"), Some(false));
        let mut applied = proto::message("EndDevice");
        apply(&mut applied, &device, &[leaf]);
        assert_eq!(applied, projected);
        assert!(!has(&device, "mac_settings.resets_f_cnt.value"));
    }

    #[test]
    fn a_default_is_stored_by_storing_nothing() {
        let mut device = device();
        let before = device.clone();
        set(&mut device, "supports_join", Value::Bool(false));
        assert_eq!(device, before);
    }

    #[test]
    fn only_the_value_of_a_wrapper_is_the_wrapper() {
        let device = proto::descriptor("EndDevice");
        assert_eq!(canonical(&device, "mac_settings.rx1_delay.value"), "mac_settings.rx1_delay");
        let code = "claim_authentication_code.value";
        assert_eq!(canonical(&device, code), code);
        assert!(covers("session", "session.keys") && !covers("session", "sessions"));
    }

    #[test]
    fn a_oneof_may_be_named_or_left_out() {
        let device = device();
        assert_eq!(number(&device, "mac_settings.adr.mode.static.nb_trans"), 2);
        assert_eq!(number(&device, "mac_settings.adr.static.nb_trans"), 2);
        assert!(has(&device, "mac_settings.adr.mode"));
        assert!(!has(&device, "mac_settings.adr.mode.dynamic"));
        // Behind its name stand its members and nothing else.
        assert!(!has(&device, "mac_settings.adr.mode.mode.static"));
        assert_eq!(message_at(&device.descriptor(), "mac_settings.adr.mode.mode.static"), None);
    }

    #[test]
    fn stored_paths_name_the_oneof_and_rebuild_the_message() {
        let device = device();
        let paths = stored(&device);
        assert_eq!(
            paths,
            ["ids.device_id", "mac_settings.adr.mode.static.nb_trans", "mac_settings.schedule_downlinks"]
        );
        // `schedule_downlinks` is set to an empty wrapper: a leaf of its own.
        assert_eq!(project(&device, &paths), device);
    }

    #[test]
    fn apply_removes_what_the_source_does_not_hold() {
        let mut into = device();
        let mut from = proto::message("EndDevice");
        set(&mut from, "name", Value::String("new".into()));
        apply(&mut into, &from, &["name", "mac_settings.adr.mode", "mac_settings.schedule_downlinks"]);
        assert_eq!(string(&into, "name"), "new");
        assert!(!has(&into, "mac_settings.adr.mode"));
        assert_eq!(wrapped_flag(&into, "mac_settings.schedule_downlinks"), None);
    }

    #[test]
    fn projecting_a_whole_oneof_keeps_the_member_that_is_set() {
        let projected = project(&device(), &["mac_settings.adr.mode"]);
        assert_eq!(stored(&projected), ["mac_settings.adr.mode.static.nb_trans"]);
    }

    #[test]
    fn every_path_of_the_mask_table_exists() {
        let device = proto::descriptor("EndDevice");
        for path in crate::map::mask::allowed("NsEndDeviceRegistry/Set") {
            assert!(exists(&device, path), "{path}");
        }
        assert!(!exists(&device, "ids.nope"));
        assert!(!exists(&device, "mac_settings.adr.mode.nope"));
    }
}
