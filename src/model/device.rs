//! A device as the four components of a stack hold it.
//!
//! The superset of every stack that we know is the end device of The Things Stack, so it is also our neutral form: other
//! sources map into it (`docs/adr/0001-dynamic-messages.md`).

use std::fmt;

use prost_reflect::DynamicMessage;
use serde::{Deserialize, Serialize};

use super::ids::{DevAddr, Eui64};
use crate::map::path;

/// A component of The Things Stack that stores its own part of each device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Component {
    /// Identity Server.
    Is,
    /// Join Server.
    Js,
    /// Application Server.
    As,
    /// Network Server.
    Ns,
}

impl Component {
    /// All four, in the order in which a device is created: the NS record comes last, as it makes the device live.
    pub const ALL: [Self; 4] = [Self::Is, Self::Js, Self::As, Self::Ns];

    /// Lower-case short name: `is`, `js`, `as`, `ns`.
    pub fn short(self) -> &'static str {
        match self {
            Self::Is => "is",
            Self::Js => "js",
            Self::As => "as",
            Self::Ns => "ns",
        }
    }

    /// The name that the Console uses.
    pub fn long(self) -> &'static str {
        match self {
            Self::Is => "Identity Server",
            Self::Js => "Join Server",
            Self::As => "Application Server",
            Self::Ns => "Network Server",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short().to_uppercase())
    }
}

/// The part of a device that one component stores: an `EndDevice` whose contents cannot be printed.
///
/// ```compile_fail,E0277
/// let record = stackferry::model::device::Record(stackferry::proto::message("EndDevice"));
/// let text = format!("{record}");
/// ```
/// ```compile_fail,E0277
/// let record = stackferry::model::device::Record(stackferry::proto::message("EndDevice"));
/// let text = serde_json::to_string(&record);
/// ```
#[derive(Clone, PartialEq)]
pub struct Record(pub DynamicMessage);

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({}: {} paths)", self.device_id(), path::stored(&self.0).len())
    }
}

impl Record {
    /// `ids.device_id`.
    pub fn device_id(&self) -> String {
        path::string(&self.0, "ids.device_id")
    }

    /// `ids.dev_eui`, when set.
    pub fn dev_eui(&self) -> Option<Eui64> {
        Eui64::from_bytes(&path::bytes(&self.0, "ids.dev_eui"))
    }

    /// `ids.join_eui`, when set.
    pub fn join_eui(&self) -> Option<Eui64> {
        Eui64::from_bytes(&path::bytes(&self.0, "ids.join_eui"))
    }

    /// `session.dev_addr`, when set.
    pub fn session_addr(&self) -> Option<DevAddr> {
        DevAddr::from_bytes(&path::bytes(&self.0, "session.dev_addr"))
    }
}

/// What the four components hold of one device; `None` where a component has no record of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Records {
    /// Identity Server.
    pub is: Option<Record>,
    /// Join Server.
    pub js: Option<Record>,
    /// Application Server.
    pub as_: Option<Record>,
    /// Network Server.
    pub ns: Option<Record>,
}

impl Records {
    /// The record of one component.
    pub fn get(&self, component: Component) -> Option<&Record> {
        match component {
            Component::Is => self.is.as_ref(),
            Component::Js => self.js.as_ref(),
            Component::As => self.as_.as_ref(),
            Component::Ns => self.ns.as_ref(),
        }
    }

    /// The place of one component's record.
    pub fn slot(&mut self, component: Component) -> &mut Option<Record> {
        match component {
            Component::Is => &mut self.is,
            Component::Js => &mut self.js,
            Component::As => &mut self.as_,
            Component::Ns => &mut self.ns,
        }
    }

    /// The components that hold a record, in creation order.
    pub fn present(&self) -> impl Iterator<Item = (Component, &Record)> {
        Component::ALL.into_iter().filter_map(|c| self.get(c).map(|r| (c, r)))
    }
}
