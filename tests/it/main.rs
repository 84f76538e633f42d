//! Integration tests: the embedded servers against the recordings.

mod conformance;
mod transport;
mod wire_tables;
