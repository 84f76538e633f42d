//! Everything that a person or a program reads: the only place that writes to the terminal.

pub mod gateways;
pub mod json;
pub mod panic;
pub mod plan;
pub mod progress;
pub mod rollback;
pub mod status;
pub mod summary;
pub mod terminal;
pub mod verify;

pub use terminal::{Output, Terminal};
