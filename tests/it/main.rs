//! Integration tests: the built binary against embedded servers, and the embedded servers against the recordings.
// Tests print what they covered.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod conformance;
mod endings;
mod fidelity;
mod inputs;
mod moves;
mod refusals;
mod resume;
mod safety;
mod secrets;
mod tls;
mod transport;
mod wire_tables;
#[path = "../world/mod.rs"]
mod world;
