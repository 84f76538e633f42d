//! Protobuf and JSON to model and back: pure functions, no I/O. Silent loss would happen here, so it is tested by
//! property.

pub mod mask;
pub mod path;
pub mod rules;
