//! The embedded The Things Stack: real gRPC servers with the real rules, for rehearsals, the quickstart and the tests.

pub mod air;
pub mod auditor;
pub mod device;
pub mod lorawan;
mod mini;
pub mod store;
pub use mini::{ADMIN, CallInfo, Fault, RateLimit, Served, Settings, Tts, load, serve};
