//! The JSON of The Things Stack, both ways, for every message of [`crate::proto`]: what its HTTP API answers, and what
//! `ttn-lw-cli` and `ttn-lw-migrate` write.
//!
//! It differs from the JSON of protobuf in that names stay as in the proto files, EUIs, addresses and keys are
//! upper-case hexadecimal, some enums are numbers, and optional values are bare. The forms are options in `proto/`
//! (`proto/stackferry/wire.proto`); the rules were learnt from the annotations of the stack's own proto files, its JSON
//! plugin (`protoc-gen-go-json` 1.6), and real answers, which the tests read and write back.

mod devices;
mod form;
mod read;
mod well_known;
mod write;

use std::fmt;

pub use devices::{Device, Devices, FileError, MAX_DEVICE};
use prost_reflect::{
    DynamicMessage, EnumDescriptor, FieldDescriptor, MessageDescriptor, ReflectMessage as _, Value,
};

/// JSON that is not the message it should be. It names the place and the reason, never the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct JsonError {
    /// Where in the JSON, in dotted form with list indices and map keys (`mac_state.current_parameters.channels.0`);
    /// `$` for the whole.
    pub path: String,
    /// What is wrong there.
    pub reason: String,
}

/// A message read from JSON, and what the JSON held beyond it.
#[derive(Clone, PartialEq)]
pub struct Parsed {
    /// The message.
    pub message: DynamicMessage,
    /// JSON paths that the message has no field for, in the order in which they stand. The servers ignore such fields;
    /// here each is a finding of the plan.
    pub unknown_fields: Vec<String>,
}

impl fmt::Debug for Parsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Parsed({}, unknown {:?})", self.message.descriptor().name(), self.unknown_fields)
    }
}

/// The JSON of a message. Fields at their default are left out, messages that are set but empty are `{}`.
///
/// Protobuf fields that the descriptor does not know have no JSON form: see [`crate::map::unknown`].
pub fn to_json(message: &DynamicMessage) -> serde_json::Value {
    write::message(message)
}

/// The JSON of one value of a field: an item of a list, or the value of a map entry.
pub(crate) fn value_to_json(field: &FieldDescriptor, value: &Value) -> serde_json::Value {
    write::single(field, value)
}

/// The number that a text names in an enum: a full name, a name without prefix, an alias, or a decimal number, which need
/// not have a name.
pub(crate) fn enum_number(descriptor: &EnumDescriptor, text: &str) -> Option<i32> {
    form::of_enum(descriptor).read(text)
}

/// Reads a message, leaving out what it has no field for.
///
/// # Errors
/// [`JsonError`] at the first value that does not fit its field.
pub fn from_json(
    descriptor: &MessageDescriptor,
    json: &serde_json::Value,
) -> Result<DynamicMessage, JsonError> {
    from_json_with_unknown(descriptor, json).map(|parsed| parsed.message)
}

/// Reads a message and lists the JSON fields that it has no field for.
///
/// # Errors
/// [`JsonError`] at the first value that does not fit its field.
pub fn from_json_with_unknown(
    descriptor: &MessageDescriptor,
    json: &serde_json::Value,
) -> Result<Parsed, JsonError> {
    let mut reader = read::Reader::default();
    let message = reader.message(descriptor, json)?;
    Ok(Parsed { message, unknown_fields: reader.unknown })
}

#[cfg(test)]
mod tests;
