//! The embedded The Things Stack: real gRPC servers with the real rules, for rehearsals, the quickstart and the tests; and
//! simulated devices with an auditor.

pub mod air;
pub mod auditor;
pub mod device;
pub mod fleet;
pub mod lorawan;
mod service;
pub mod store;
mod tts;

pub use fleet::{LoadError, load};
pub use service::{Served, ServerTls, serve};
pub use tts::{ADMIN, CallInfo, EntityKind, Failure, Fault, RateLimit, Reply, Settings, Tts};
