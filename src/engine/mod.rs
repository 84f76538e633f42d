//! Carries a plan out: one dispatcher, a bounded number of workers, one event enum for everybody who watches.

pub mod application;
mod back;
mod back_whole;
pub mod belongings;
mod clear_whole;
mod copy;
mod course;
pub mod device;
pub mod event;
pub mod gateways;
pub mod gather;
mod guarded;
mod keys;
pub mod keys_file;
pub mod lock;
pub mod log;
mod mute_target;
mod radio_path;
pub mod rehearse;
pub mod rollback;
pub mod run;
mod run_gateways;
pub mod verify;
