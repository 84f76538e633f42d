//! The options of `proto/stackferry/wire.proto`: JSON forms and validation rules that messages carry beyond their types.

use std::{collections::HashSet, sync::LazyLock};

use prost_reflect::{DynamicMessage, ExtensionDescriptor, FieldDescriptor, MessageDescriptor};

use crate::proto;

/// One of our own options, by its full name (`stackferry.json`).
///
/// # Panics
/// When `proto/stackferry/wire.proto` has no such extension: names are constants of this program.
pub fn extension(name: &str) -> ExtensionDescriptor {
    proto::pool().get_extension_by_name(name).unwrap_or_else(|| panic!("proto/ has no option {name}"))
}

/// The `stackferry.FieldRules` of a field, if it has any.
pub fn rules(field: &FieldDescriptor) -> Option<DynamicMessage> {
    let (options, option) = (field.options(), extension("stackferry.rules"));
    options.has_extension(&option).then(|| options.get_extension(&option).as_message().cloned()).flatten()
}

static WRAPPERS: LazyLock<HashSet<String>> = LazyLock::new(wrappers);

/// The value of a wrapper message (`RxDelayValue`, `google.protobuf.FloatValue`): a message that is there to tell an
/// absent value from one at its default, and that JSON writes bare. `None` for other messages.
pub fn wrapped(descriptor: &MessageDescriptor) -> Option<FieldDescriptor> {
    WRAPPERS.contains(descriptor.full_name()).then(|| descriptor.get_field_by_name("value")).flatten()
}

/// The wrappers of protobuf and those that `proto/` marks (`thethings.json.message` upstream).
fn wrappers() -> HashSet<String> {
    const WELL_KNOWN: &[&str] = &[
        "BoolValue",
        "BytesValue",
        "DoubleValue",
        "FloatValue",
        "Int32Value",
        "Int64Value",
        "StringValue",
        "UInt32Value",
        "UInt64Value",
    ];
    let option = extension("stackferry.json_wrapper");
    let marked =
        proto::pool().all_messages().filter(|m| m.options().get_extension(&option).as_bool() == Some(true));
    let marked = marked.map(|m| m.full_name().to_owned());
    marked.chain(WELL_KNOWN.iter().map(|n| format!("google.protobuf.{n}"))).collect()
}
