//! What a kind of belonging is: a table of its calls and its peculiarities.

use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};

use super::{Facts, api_key, collaborator, empty, link, package, pubsub, settings, webhook};
use crate::{
    map::{mask, path},
    model::{belonging::ItemKey, device::Component, ids::AppId},
    plan::{finding::Finding, transform::Write},
};

/// Every kind, in the order in which they are created.
pub static SORTS: [&Sort; 8] = [
    &settings::SETTINGS,
    &link::LINK,
    &package::DEFAULT,
    &webhook::WEBHOOK,
    &pubsub::PUBSUB,
    &collaborator::COLLABORATOR,
    &api_key::API_KEY,
    &package::DEVICE,
];

/// A kind of belonging.
#[derive(Debug)]
pub struct Sort {
    /// One of them, in plans and in the journal: a word that programs can take.
    pub name: &'static str,
    /// Many of them.
    pub plural: &'static str,
    /// The word of `application.copy` that takes them along.
    pub copy: &'static str,
    /// Which server keeps them.
    pub server: Component,
    /// Their message.
    pub message: &'static str,
    /// What identifies one.
    pub ids: Ids,
    /// How all of an application, or of a device, are listed; `None` where there is but one.
    pub list: Option<Method>,
    /// How one is read.
    pub get: Method,
    /// How one is created or written over: the API makes no difference.
    pub set: Method,
    /// How one is deleted.
    pub delete: Method,
    /// Paths that are identifiers or the server's own, and never copied.
    pub left: &'static [&'static str],
    /// Paths that can be set, where the calls that read take no field mask.
    pub fields: &'static [&'static str],
    /// Paths of newer servers that this build knows by name alone, as `map::owner::newer`.
    pub newer: &'static [&'static str],
    /// How one is paused, if there is such a thing.
    pub pause: Option<Pause>,
    /// True when it cannot be paused and begins by itself once it is set: then it is set only when the first device is live.
    pub defers: bool,
    /// The field that holds an API key of its own deployment: the copy gets a new one.
    pub key: Option<&'static str>,
    /// Rights on the application that writing them takes (docs/servers.md, Rights).
    pub rights: &'static [&'static str],
    /// Which setting says what becomes of the source's.
    pub cleared: Cleared,
    /// What is peculiar to them: findings beyond those that all kinds share.
    pub look: fn(&DynamicMessage, &Facts) -> Vec<Finding>,
}

/// What pauses a belonging, so that nothing of it is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// A flag.
    Flag(&'static str),
    /// A time: it ends then.
    Expiry(&'static str),
}

impl Pause {
    /// The field.
    pub fn path(self) -> &'static str {
        let (Self::Flag(path) | Self::Expiry(path)) = self;
        path
    }
}

/// What becomes of a kind at the source once all devices are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleared {
    /// It stays.
    Never,
    /// What `clear.integrations` says: data goes out by it.
    Integrations,
    /// What `clear.api-keys` says.
    ApiKeys,
}

/// A call about a belonging.
#[derive(Debug, Clone, Copy)]
pub struct Method {
    /// Its full name.
    pub rpc: &'static str,
    /// Its request.
    pub request: &'static str,
    /// Where the identifiers stand in the request, with a dot at the end; empty when they are the request.
    pub at: &'static str,
    /// The field of the belonging in a request to set, of the belongings in the answer of a list.
    pub field: &'static str,
}

/// What identifies a belonging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// The application and an ID in this field.
    Named(&'static str),
    /// The application and an FPort.
    Port,
    /// A device and an FPort.
    PortOfDevice,
    /// The application alone.
    Application,
    /// The application and a user or an organization.
    Account,
    /// The application and the ID of an API key, which is the server's to give.
    Key,
}

impl Ids {
    /// Writes the identifiers below `at`; `device` is the ID on the side that is asked.
    pub fn write(self, into: &mut DynamicMessage, at: &str, app: &AppId, device: &str, id: &str) {
        let text = |text: &str| Value::String(text.to_owned());
        if self == Self::Account {
            if path::exists(&into.descriptor(), "application_ids") {
                path::set(into, "application_ids.application_id", text(app.as_str()));
            }
            return collaborator::write(into, at, id);
        }
        if self == Self::Key {
            path::set(into, "application_ids.application_id", text(app.as_str()));
            let field = if at.is_empty() { "key_id".to_owned() } else { format!("{at}id") };
            return path::set(into, &field, text(id));
        }
        let owner =
            if self == Self::PortOfDevice { "end_device_ids.application_ids" } else { "application_ids" };
        path::set(into, &format!("{at}{owner}.application_id"), text(app.as_str()));
        match self {
            Self::Named(field) => path::set(into, &format!("{at}{field}"), text(id)),
            Self::Port | Self::PortOfDevice => {
                path::set(into, &format!("{at}f_port"), Value::U32(id.parse().unwrap_or(0)));
            }
            Self::Application | Self::Account | Self::Key => {}
        }
        if self == Self::PortOfDevice {
            path::set(into, &format!("{at}end_device_ids.device_id"), text(device));
        }
    }

    /// The identifier of one that was read.
    pub fn of(self, message: &DynamicMessage) -> String {
        match self {
            Self::Named(field) => path::string(message, &format!("ids.{field}")),
            Self::Port | Self::PortOfDevice => path::number(message, "ids.f_port").to_string(),
            Self::Application => String::new(),
            Self::Account => collaborator::name(message),
            Self::Key => path::string(message, "id"),
        }
    }
}

impl Sort {
    /// The kind of this name.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        SORTS.into_iter().find(|sort| sort.name == name)
    }

    /// True for what a device has, and not the application.
    pub fn is_of_device(&self) -> bool {
        self.ids == Ids::PortOfDevice
    }

    /// True for one that is emptied where others are deleted: an empty one is none.
    pub fn is_emptied(&self) -> bool {
        self.delete.rpc == self.set.rpc
    }

    /// The write that empties one.
    pub fn nothing(&self) -> Write {
        let top =
            mask::allowed(short(self.set.rpc)).iter().filter(|p| !p.contains('.') && !self.left.contains(p));
        Write { message: empty(self), paths: top.map(|p| (*p).to_owned()).collect() }
    }

    /// The mask that reads all of one: the topmost paths, so that fields of newer servers come along, but what is the
    /// server's own.
    pub fn whole(&self) -> Vec<String> {
        let rpc = short(self.list.map_or(self.get.rpc, |list| list.rpc));
        let top = mask::allowed(rpc).iter().filter(|p| !p.contains('.') && !self.left.contains(p));
        top.chain(self.newer).map(|p| (*p).to_owned()).collect()
    }

    /// Paths that are copied: those that can be set.
    pub(super) fn settable(&self, path: &str) -> bool {
        if !self.fields.is_empty() {
            return mask::cover(self.fields, path).is_some();
        }
        mask::cover(mask::allowed(short(self.set.rpc)), path).is_some()
    }

    /// True for what has an identifier of its own on the target, and no device.
    pub fn is_named_there(&self) -> bool {
        matches!(self.ids, Ids::Account | Ids::Key)
    }

    /// The IDs of the device and of the thing itself on the target; `target_name` is that of [`super::Found`].
    pub fn names_there<'a>(&self, key: &'a ItemKey, target_name: &'a str) -> (&'a str, &'a str) {
        if self.is_named_there() { ("", target_name) } else { (target_name, &key.id) }
    }

    pub(super) fn is_left(&self, path: &str) -> bool {
        self.left.iter().any(|left| path::covers(left, path))
    }
}

/// A method's name as the table of field masks has it.
pub(super) fn short(rpc: &str) -> &str {
    rpc.strip_prefix("/ttn.lorawan.v3.").unwrap_or(rpc)
}
