//! Calls to servers: channels, TLS, deadlines, retries, rate limits and what errors mean. Transport only: what is called,
//! and why, is known elsewhere.

mod client;
pub mod codec;
mod connection;
mod endpoint;
mod error;
mod grpc;
mod hint;
mod judge;
mod mask;
mod observer;
mod pages;
mod pin;
mod redact;
mod retry;
mod status;
#[cfg(test)]
mod tests;
mod throttle;
mod tls;
mod ttn_v2;

pub use client::{Answer, Call, Client, Repeat, Settings};
pub use endpoint::{Endpoint, PLAINTEXT_PORT, TLS_PORT, Tls};
pub use error::{About, Error, Kind, Outcome, Side};
pub use hint::TlsProblem;
pub use judge::{Judged, judge};
pub use mask::MaskMemory;
pub use observer::{CallEvent, Observer, Unobserved, WaitEvent};
pub use pages::{List, Listing};
pub use retry::RetryPolicy;
pub use status::{Code, Detail, Status};
pub use throttle::{Rate, WaitReason};
