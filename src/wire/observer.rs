//! What calls tell to whoever watches: for `-v`, the status line and the count of calls.

use std::time::Duration;

use super::{About, Endpoint, Side, WaitReason};

/// One attempt of a call, when it is over.
#[derive(Debug)]
pub struct CallEvent<'a> {
    /// The side of the server.
    pub side: Side,
    /// The server.
    pub endpoint: &'a Endpoint,
    /// The method, such as `/ttn.lorawan.v3.NsEndDeviceRegistry/Get`.
    pub method: &'static str,
    /// What the call is about.
    pub about: &'a About,
    /// Which attempt it was, from 1.
    pub attempt: u32,
    /// Time from sending (or connecting) to the end.
    pub elapsed: Duration,
    /// `ok`, or the name of the [`Kind`](super::Kind) of error.
    pub code: &'static str,
}

/// A wait before an attempt, when it begins.
#[derive(Debug)]
pub struct WaitEvent<'a> {
    /// The side of the server.
    pub side: Side,
    /// The method that waits.
    pub method: &'static str,
    /// What the call is about.
    pub about: &'a About,
    /// Why.
    pub reason: WaitReason,
    /// How long.
    pub duration: Duration,
}

/// Told about every attempt and wait. Called in the middle of calls: it must not block.
pub trait Observer: Send + Sync {
    /// An attempt is over.
    fn call(&self, event: &CallEvent<'_>);
    /// A wait begins.
    fn wait(&self, event: &WaitEvent<'_>);
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn call(&self, _: &CallEvent<'_>) {}
    fn wait(&self, _: &WaitEvent<'_>) {}
}
