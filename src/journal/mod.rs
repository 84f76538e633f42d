//! The journal: the durable log that lets a crashed migration go on (S5) and restores any device (S3).
//!
//! An append-only log of *entries* in one SQLite file. An entry is an *event* of a device (unsealed, so it must hold no
//! secret: S7) or a *seal* (a snapshot, encrypted). Each is durable when the call that wrote it returns. Hashes chain all
//! entries, so that damage is an error with a name and never a wrong history. Format and durability: `docs/journal.md`.
//!
//! A run opens a [`Journal`], which is locked (S8), and shares it among its tasks as a [`JournalHandle`]. `status` opens a
//! [`View`] beside it. Only this module opens SQLite.

mod create;
mod error;
mod files;
mod format;
mod handle;
mod lock;
mod network;
mod seal;
mod tail;
#[cfg(test)]
mod tests;
mod view;
mod writer;

use std::fmt;

use zeroize::Zeroizing;

pub use self::{
    error::{Error, ErrorKind, PinChange},
    handle::JournalHandle,
    lock::Who,
    seal::SealKeyRef,
    view::View,
    writer::{Journal, Opened},
};
use crate::model::ids::{AppId, DeviceId};

/// The largest body of an event, in bytes.
pub const MAX_EVENT: usize = 1 << 20;
/// The largest snapshot, in bytes.
pub const MAX_SEAL: usize = 16 << 20;

/// An opened snapshot, wiped from memory when dropped.
pub type Plain = Zeroizing<Vec<u8>>;

/// What a journal was made for: names and values from the config that must not change between runs. No secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pins {
    /// Names, each once, such as `source.address`, and values.
    pub items: Vec<(String, String)>,
}

/// Whose entries: a device, by its IDs at the source, which never change during a migration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceKey {
    /// Application at the source.
    pub application: AppId,
    /// Device at the source; empty for the application itself.
    pub device: DeviceId,
}

impl DeviceKey {
    /// From IDs as the source has them.
    pub fn new(application: impl Into<String>, device: impl Into<String>) -> Self {
        Self { application: AppId::unchecked(application), device: DeviceId::unchecked(device) }
    }

    /// For the steps of an application itself, kept under a device ID that no device has: the empty one.
    pub fn of_application(application: &AppId) -> Self {
        Self { application: application.clone(), device: DeviceId::unchecked("") }
    }
}

impl fmt::Display for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.device.as_str() {
            "" => write!(f, "application `{}`", self.application),
            device => write!(f, "device `{device}` of application `{}`", self.application),
        }
    }
}

/// An event as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its number in the journal; events are ordered by it.
    pub seq: u64,
    /// When it was written, to the millisecond.
    pub at: jiff::Timestamp,
    /// What kind of event, in the words of the engine.
    pub kind: String,
    /// Its body, usually JSON.
    pub body: Vec<u8>,
}

/// A sealed entry, closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealInfo {
    /// Its number in the journal, for [`Journal::unseal`].
    pub id: u64,
    /// When it was sealed, to the millisecond.
    pub at: jiff::Timestamp,
    /// What was sealed, such as `source-1`.
    pub kind: String,
}

/// An entry to write, for several in one transaction.
#[derive(Debug, Clone)]
pub struct Write {
    /// `None` for the journal's own entries.
    device: Option<DeviceKey>,
    kind: String,
    body: Body,
}

#[derive(Clone)]
enum Body {
    Event(Vec<u8>),
    Seal(Plain),
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event(body) => write!(f, "Event({} bytes)", body.len()),
            Self::Seal(plain) => write!(f, "Seal({} bytes)", plain.len()),
        }
    }
}

impl Write {
    /// An event. `body` is stored as it is: it must hold no secret.
    pub fn event(device: &DeviceKey, kind: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { device: Some(device.clone()), kind: kind.to_owned(), body: Body::Event(body.into()) }
    }

    /// A snapshot, to be encrypted.
    pub fn seal(device: &DeviceKey, kind: &str, plain: &[u8]) -> Self {
        Self {
            device: Some(device.clone()),
            kind: kind.to_owned(),
            body: Body::Seal(Zeroizing::new(plain.to_vec())),
        }
    }

    /// A value for the whole migration, as [`Journal::set_meta`] has it.
    pub fn meta(key: &str, value: &str) -> Self {
        Self::own(&format!("meta/{key}"), &value)
    }

    /// An entry of the journal about itself.
    fn own(kind: &str, body: &impl serde::Serialize) -> Self {
        // Texts and numbers only, which JSON always takes.
        let body = serde_json::to_vec(body).unwrap_or_default();
        Self { device: None, kind: kind.to_owned(), body: Body::Event(body) }
    }

    fn bytes(&self) -> usize {
        match &self.body {
            Body::Event(body) => body.len(),
            Body::Seal(plain) => plain.len(),
        }
    }

    fn limit(&self) -> usize {
        match self.body {
            Body::Event(_) => MAX_EVENT,
            Body::Seal(_) => MAX_SEAL,
        }
    }
}
