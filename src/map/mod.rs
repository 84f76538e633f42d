//! Protobuf and JSON to model and back: pure functions, no I/O. Silent loss would happen here, so it is tested by
//! property.

pub mod csv;
pub mod diff;
pub mod generate;
pub mod json;
pub mod mask;
pub mod options;
pub mod owner;
pub mod path;
pub mod replaced;
pub mod rules;
pub mod ttn_v2;
pub mod unknown;
