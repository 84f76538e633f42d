//! The embedded The Things Stack: real gRPC servers with the real rules, for rehearsals, the quickstart and the tests.

mod service;
pub mod store;
mod tts;

pub use service::{Served, ServerTls, serve};
pub use tts::{ADMIN, CallInfo, EntityKind, Failure, Fault, RateLimit, Reply, Settings, Tts};
