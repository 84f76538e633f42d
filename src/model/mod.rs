//! Stack-neutral types: identifiers, secrets and the records of a device. No I/O.

pub mod device;
pub mod ids;
pub mod secret;
