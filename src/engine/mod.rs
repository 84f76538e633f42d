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
pub mod lock;
pub mod log;
mod mute_target;
pub mod rehearse;
pub mod rollback;
pub mod run;
pub mod verify;
