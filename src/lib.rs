//! stackferry moves a LoRaWAN fleet from one network stack to another.
//!
//! The rooms and who may call whom are in `ARCHITECTURE.md`.

pub mod cli;
pub mod config;
pub mod engine;
pub mod journal;
pub mod map;
pub mod model;
pub mod plan;
pub mod proto;
pub mod rehearsal;
pub mod report;
pub mod source;
pub mod step;
pub mod target;
pub mod tts;
pub mod wire;
