//! Integration tests: the built binary against embedded servers, and the embedded servers against the recordings.
// Tests print what they covered.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod applications;
mod around;
mod conformance;
mod endings;
mod fidelity;
mod gateways;
mod guards;
mod inputs;
mod journal;
mod lock;
mod moves;
mod old_recipe;
mod refusals;
mod resume;
mod rollback;
mod safety;
mod secrets;
mod swap;
mod tls;
mod transport;
mod ttn_v2;
mod wire_tables;
#[path = "../world/mod.rs"]
mod world;
