//! stackferry moves a LoRaWAN fleet from one network stack to another.

pub mod map;
pub mod model;
pub mod proto;
pub mod rehearsal;
pub mod wire;
