//! What the servers validate before anything else: the rules of `proto/` (`(stackferry.rules)`), with the words of
//! protoc-gen-validate as The Things Stack answers them.
//!
//! A server validates a request whole, or, where it has a field mask, only what the mask names
//! (`pkg/ttnpb/*_validators.go`): [`violation_in`]. It stops at its first violation in an order of its own (a Go map);
//! here the order is that of the fields.

mod kinds;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, LazyLock},
};

use prost_reflect::{
    DynamicMessage, FieldDescriptor, MapKey, MessageDescriptor, OneofDescriptor, ReflectMessage as _, Value,
};

use kinds::Rules;

/// One message on the way to a broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Name of the message as the server's errors write it, such as `EndDeviceIdentifiers` or `MACParameters_Channel`.
    pub message: String,
    /// The field, with the key or index for maps and lists (`attributes[site]`).
    pub field: String,
    /// What the server says: `embedded message failed validation` for all but the last link.
    pub reason: String,
}

/// A broken rule: the chain of messages from the one that was validated down to the field. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(Vec<Link>);

const EMBEDDED: &str = "embedded message failed validation";
pub(crate) const REQUIRED: &str = "value is required";

impl Violation {
    fn of(message: &MessageDescriptor, field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self(vec![Link { message: go_name(message), field: field.into(), reason: reason.into() }])
    }

    fn within(mut self, message: &MessageDescriptor, field: impl Into<String>) -> Self {
        let link = Link { message: go_name(message), field: field.into(), reason: EMBEDDED.to_owned() };
        self.0.insert(0, link);
        self
    }

    /// The chain, outermost message first.
    pub fn chain(&self) -> &[Link] {
        &self.0
    }

    /// Dotted path of the field from the message that was validated, such as `end_device.attributes[site]`.
    pub fn path(&self) -> String {
        self.0.iter().map(|link| link.field.as_str()).collect::<Vec<_>>().join(".")
    }

    /// What is wrong with the field: `value length must be at most 50 runes`.
    pub fn reason(&self) -> &str {
        self.0.last().map_or("", |link| &link.reason)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path(), self.reason())
    }
}

/// Messages with a `oneof` that must be set: upstream's `oneof … { option (validate.required) = true; }`, which the wire
/// tables do not carry.
const REQUIRED_ONEOFS: &[(&str, &str)] = &[
    ("ApplicationPubSub", "provider"),
    ("ClaimEndDeviceRequest", "source_device"),
    ("ServedRelayParameters", "mode"),
    ("RelayParameters", "mode"),
    ("ServedRelaySettings", "mode"),
    ("RelaySettings", "mode"),
    ("OrganizationOrUserIdentifiers", "ids"),
    ("EntityIdentifiers", "ids"),
    ("Message", "payload"),
    ("DataRate", "modulation"),
    ("DownlinkPath", "path"),
    ("DownlinkMessage", "settings"),
    ("ApplicationUp", "up"),
];

/// The first broken rule of the whole message.
pub fn violation(message: &DynamicMessage) -> Option<Violation> {
    violation_in::<&str>(message, &[])
}

/// The first broken rule among what `paths` name, as `ValidateFields(paths…)` of the servers: a path takes everything
/// below it along, messages on the way are checked for presence, and no path at all means the whole message.
pub fn violation_in<S: AsRef<str>>(message: &DynamicMessage, paths: &[S]) -> Option<Violation> {
    let mut walk = Walk { found: Vec::new(), all: false };
    walk.message(message, &paths.iter().map(AsRef::as_ref).collect::<Vec<_>>());
    walk.found.into_iter().next()
}

/// Every broken rule of the message, in the order of its fields. Below a field that is broken itself nothing is looked
/// at.
pub fn violations(message: &DynamicMessage) -> Vec<Violation> {
    let mut walk = Walk { found: Vec::new(), all: true };
    walk.message(message, &[]);
    walk.found
}

/// The rules of every field that has some, by the field's full name.
static RULES: LazyLock<HashMap<String, Arc<Rules>>> = LazyLock::new(|| {
    let messages = crate::proto::pool().all_messages();
    messages
        .flat_map(|message| message.fields().collect::<Vec<_>>())
        .filter_map(|field| Some((field.full_name().to_owned(), Arc::new(Rules::of(&field)?))))
        .collect()
});

struct Walk {
    found: Vec<Violation>,
    all: bool,
}

impl Walk {
    fn done(&self) -> bool {
        !self.all && !self.found.is_empty()
    }

    fn message(&mut self, message: &DynamicMessage, paths: &[&str]) {
        let descriptor = message.descriptor();
        if crate::map::path::is_leaf(&descriptor) {
            return;
        }
        let mut oneofs_seen = Vec::new();
        for field in descriptor.fields() {
            if self.done() {
                return;
            }
            match field.containing_oneof().filter(|oneof| !oneof.is_synthetic()) {
                Some(oneof) if !oneofs_seen.contains(&oneof.name().to_owned()) => {
                    oneofs_seen.push(oneof.name().to_owned());
                    self.oneof(message, &descriptor, &oneof, paths);
                }
                Some(_) => {}
                None => {
                    if let Some(below) = below(paths, field.name()) {
                        self.field(message, &descriptor, &field, &below);
                    }
                }
            }
        }
    }

    fn oneof(
        &mut self,
        message: &DynamicMessage,
        descriptor: &MessageDescriptor,
        oneof: &OneofDescriptor,
        paths: &[&str],
    ) {
        let Some(below_oneof) = below(paths, oneof.name()) else { return };
        let member = oneof.fields().find(|f| message.has_field(f));
        let required = REQUIRED_ONEOFS.contains(&(descriptor.name(), oneof.name()));
        match member {
            None if required => self.found.push(Violation::of(descriptor, oneof.name(), REQUIRED)),
            None => {}
            Some(field) => {
                if let Some(below) = below(&below_oneof, field.name()) {
                    self.field(message, descriptor, &field, &below);
                }
            }
        }
    }

    fn field(
        &mut self,
        message: &DynamicMessage,
        descriptor: &MessageDescriptor,
        field: &FieldDescriptor,
        below: &[&str],
    ) {
        let rules = RULES.get(field.full_name()).cloned();
        let value = message.has_field(field).then(|| message.get_field(field));
        if let Some(rules) = &rules {
            let unset = field.default_value();
            let broken = match &value {
                Some(value) => rules.broken(value, field),
                None => rules.broken_when_absent(&unset, field),
            };
            if let Some((suffix, reason)) = broken {
                let name = format!("{}{suffix}", field.name());
                self.found.push(Violation::of(descriptor, name, reason));
                return;
            }
        }
        match value.as_deref() {
            Some(Value::Message(inner)) => self.embedded(inner, descriptor, field.name(), below),
            Some(Value::List(items)) => {
                for (index, item) in items.iter().enumerate() {
                    if let Value::Message(inner) = item {
                        self.embedded(inner, descriptor, &format!("{}[{index}]", field.name()), below);
                    }
                }
            }
            Some(Value::Map(entries)) => {
                for (key, item) in sorted(entries) {
                    if let Value::Message(inner) = item {
                        self.embedded(inner, descriptor, &format!("{}[{key}]", field.name()), below);
                    }
                }
            }
            _ => {}
        }
    }

    fn embedded(
        &mut self,
        inner: &DynamicMessage,
        descriptor: &MessageDescriptor,
        field: &str,
        below: &[&str],
    ) {
        let mut walk = Self { found: Vec::new(), all: self.all };
        walk.message(inner, below);
        self.found.extend(walk.found.into_iter().map(|v| v.within(descriptor, field)));
    }
}

/// What `paths` name below `head`: `None` when they do not name it, nothing left when they name it whole
/// (`_processPaths` of the servers: the shorter path wins).
fn below<'p>(paths: &[&'p str], head: &str) -> Option<Vec<&'p str>> {
    if paths.is_empty() {
        return Some(Vec::new());
    }
    let mut rest = Vec::new();
    let mut named = false;
    for path in paths {
        match path.split_once('.') {
            None if *path == head => return Some(Vec::new()),
            Some((first, tail)) if first == head => {
                named = true;
                rest.push(tail);
            }
            _ => {}
        }
    }
    named.then_some(rest)
}

/// Entries of a map in the order of their keys, with the key as text.
pub(crate) fn sorted(entries: &HashMap<MapKey, Value>) -> Vec<(String, &Value)> {
    let mut entries: Vec<_> = entries.iter().map(|(key, value)| (key_text(key), value)).collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    entries
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(k) => k.to_string(),
        MapKey::I32(k) => k.to_string(),
        MapKey::I64(k) => k.to_string(),
        MapKey::U32(k) => k.to_string(),
        MapKey::U64(k) => k.to_string(),
        MapKey::String(k) => k.clone(),
    }
}

/// The name of the message in the server's Go code: nested messages are joined by `_`.
fn go_name(message: &MessageDescriptor) -> String {
    let full = message.full_name();
    full.strip_prefix(message.package_name()).unwrap_or(full).trim_start_matches('.').replace('.', "_")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::{map::path, proto};

    fn text(value: &str) -> Value {
        Value::String(value.into())
    }

    fn device() -> DynamicMessage {
        let mut device = proto::message("EndDevice");
        path::set(&mut device, "ids.device_id", text("meter-1"));
        path::set(&mut device, "ids.application_ids.application_id", text("meters"));
        device
    }

    fn broken(device: &DynamicMessage) -> String {
        violation(device).expect("breaks a rule").to_string()
    }

    #[test]
    fn the_chain_names_each_message_as_the_server_does() {
        let mut device = device();
        path::set(&mut device, "ids.dev_eui", Value::Bytes(vec![1].into()));
        let mut request = proto::message("SetEndDeviceRequest");
        path::set(&mut request, "end_device", Value::Message(device));
        let violation = violation(&request).expect("the EUI is short");
        let chain: Vec<_> =
            violation.chain().iter().map(|l| (l.message.as_str(), l.field.as_str())).collect();
        assert_eq!(
            chain,
            [
                ("SetEndDeviceRequest", "end_device"),
                ("EndDevice", "ids"),
                ("EndDeviceIdentifiers", "dev_eui")
            ]
        );
        assert_eq!(violation.to_string(), "end_device.ids.dev_eui: value length must be 8 bytes");
    }

    #[test]
    fn text_is_measured_in_code_points_and_patterns_are_quoted() {
        let mut device = device();
        path::set(&mut device, "name", text(&"é".repeat(50)));
        assert_eq!(violation(&device), None);
        path::set(&mut device, "name", text(&"é".repeat(51)));
        assert_eq!(broken(&device), "name: value length must be at most 50 runes");
        path::clear(&mut device, "name");
        path::set(&mut device, "network_server_address", text("https://example.com"));
        let reason = broken(&device);
        assert!(reason.starts_with("network_server_address: value does not match regex pattern \"^(?:(?:["));
        assert!(reason.contains(r"[a-zA-Z0-9\\-]*"), "{reason}");
    }

    #[test]
    fn maps_name_the_key_that_is_wrong() {
        let mut device = device();
        let entries = HashMap::from([(MapKey::String("Site".into()), text("north"))]);
        path::set(&mut device, "attributes", Value::Map(entries));
        let reason = broken(&device);
        assert!(reason.starts_with("attributes[Site]: value does not match regex pattern"), "{reason}");
        let entries = (0..11).map(|n| (MapKey::String(format!("key-{n:02}")), text("v"))).collect();
        path::set(&mut device, "attributes", Value::Map(entries));
        assert_eq!(broken(&device), "attributes: value must contain no more than 10 pair(s)");
    }

    #[test]
    fn a_mask_limits_what_is_looked_at_and_still_asks_for_messages_on_the_way() {
        let mut device = device();
        path::set(&mut device, "name", text(&"x".repeat(51)));
        path::set(&mut device, "session.dev_addr", Value::Bytes(vec![1, 2, 3, 4].into()));
        assert_eq!(violation_in(&device, &["description", "session.dev_addr"]), None);
        let asked = violation_in(&device, &["session.keys.f_nwk_s_int_key.key"]).expect("keys are missing");
        assert_eq!(asked.to_string(), "session.keys: value is required");
        let all: Vec<_> = violations(&device).iter().map(Violation::path).collect();
        assert_eq!(all, ["name", "session.keys"]);
    }

    #[test]
    fn numbers_have_ranges_also_in_wrappers_and_outside_ranges() {
        let mut device = device();
        path::set(&mut device, "battery_percentage.value", Value::F32(1.5));
        assert_eq!(broken(&device), "battery_percentage: value must be inside range [0, 1]");
        path::clear(&mut device, "battery_percentage");
        path::set(&mut device, "mac_settings.ping_slot_frequency.value", Value::U64(5));
        assert_eq!(
            broken(&device),
            "mac_settings.ping_slot_frequency.value: value must be outside range (0, 100000)"
        );
        let mut list = proto::message("ListEndDevicesRequest");
        path::set(&mut list, "limit", Value::U32(1001));
        assert_eq!(broken(&list), "limit: value must be less than or equal to 1000");
        path::clear(&mut list, "limit");
        path::set(&mut list, "order", text("nonsense"));
        assert!(broken(&list).starts_with("order: value must be in list [ device_id -device_id join_eui"));
    }

    #[test]
    fn addresses_must_be_absolute_and_oneofs_set() {
        let mut hook = proto::message("ApplicationWebhook");
        path::set(&mut hook, "base_url", text("not a url"));
        assert_eq!(violation_in(&hook, &["base_url"]).expect("relative").reason(), "value must be absolute");
        path::set(&mut hook, "base_url", text("http://a host/%zz"));
        assert_eq!(violation_in(&hook, &["base_url"]).expect("bad").reason(), "value must be a valid URI");
        let ids = proto::message("OrganizationOrUserIdentifiers");
        assert_eq!(violation(&ids).expect("empty").to_string(), "ids: value is required");
    }

    #[test]
    fn lists_have_a_size() {
        let mut batch = proto::message("BatchGetEndDevicesRequest");
        path::set(&mut batch, "application_ids.application_id", text("meters"));
        let reason = "device_ids: value must contain between 1 and 20 items, inclusive";
        assert_eq!(broken(&batch), reason);
        path::set(&mut batch, "device_ids", Value::List(vec![text("a_b")]));
        assert!(broken(&batch).starts_with("device_ids[0]: value does not match regex pattern"));
    }
}
