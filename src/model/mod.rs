//! Stack-neutral types: identifiers, secrets and the records of a device. No I/O.

pub mod belonging;
pub mod device;
pub mod gateway;
pub mod ids;
pub mod secret;
