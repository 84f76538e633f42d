//! Integration tests: the embedded servers against the recordings.

mod conformance;
mod wire_tables;
