//! What an embedded server has stored: tables of messages, optionally kept in a file.
//!
//! Every change goes through [`Store::put`] and [`Store::remove`], so that the auditor sees each of them and a file can
//! be replayed. The file is a sequence of changes; a torn last change (the process was killed) is dropped on opening.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::Path,
    sync::Arc,
};

use prost_reflect::{DynamicMessage, prost::Message as _};

use crate::{model::device::Component, proto};

/// What is stored, and under which key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Table {
    /// `Application` by `application_id`, soft-deleted ones with `deleted_at`.
    Applications,
    /// `EndDevice` of the Identity Server by `application_id.device_id`.
    Is,
    /// `EndDevice` of the Join Server, same key.
    Js,
    /// `EndDevice` of the Application Server, same key.
    As,
    /// `EndDevice` of the Network Server, same key.
    Ns,
    /// `ApplicationLink` by `application_id`.
    Links,
    /// `ApplicationWebhook` by `application_id.webhook_id`.
    Webhooks,
    /// `ApplicationPubSub` by `application_id.pub_sub_id`.
    PubSubs,
    /// `ApplicationPackageDefaultAssociation` by `application_id.f_port` (three digits).
    PackageDefaults,
    /// `ApplicationPackageAssociation` by `application_id.device_id.f_port` (three digits).
    Packages,
    /// `ApplicationActivationSettings` by `application_id`.
    ActivationSettings,
    /// `APIKey` with its secret by `application_id/key_id`, `gateway_id/key_id` …, prefixed by `app:`, `gtw:`, `usr:`.
    ApiKeys,
    /// `Collaborator` by `app:application_id/usr:user_id` and alike.
    Collaborators,
    /// `Gateway` by `gateway_id`, soft-deleted ones with `deleted_at`.
    Gateways,
    /// `GatewayConnectionStats` by `gateway_id`, of gateways that are, or lately were, connected.
    Connections,
    /// V2: `handler.Application` by `app_id`.
    V2Applications,
    /// V2: `handler.Device` as the handler keeps it, by `app_id.dev_id`.
    V2Devices,
    /// V2: `lorawan.Device` as the Network Server keeps it, by `app_eui.dev_eui` in hexadecimal.
    V2Network,
    /// V2: the `ApplicationDownlink` that waits for a device's next uplink, by `app_id.dev_id`.
    V2Downlinks,
}

impl Table {
    const ALL: [Self; 19] = [
        Self::Applications,
        Self::Is,
        Self::Js,
        Self::As,
        Self::Ns,
        Self::Links,
        Self::Webhooks,
        Self::PubSubs,
        Self::PackageDefaults,
        Self::Packages,
        Self::ActivationSettings,
        Self::ApiKeys,
        Self::Collaborators,
        Self::Gateways,
        Self::Connections,
        Self::V2Applications,
        Self::V2Devices,
        Self::V2Network,
        Self::V2Downlinks,
    ];

    /// The table of a component's device records.
    pub fn of(component: Component) -> Self {
        match component {
            Component::Is => Self::Is,
            Component::Js => Self::Js,
            Component::As => Self::As,
            Component::Ns => Self::Ns,
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::Applications => "Application",
            Self::Is | Self::Js | Self::As | Self::Ns => "EndDevice",
            Self::Links => "ApplicationLink",
            Self::Webhooks => "ApplicationWebhook",
            Self::PubSubs => "ApplicationPubSub",
            Self::PackageDefaults => "ApplicationPackageDefaultAssociation",
            Self::Packages => "ApplicationPackageAssociation",
            Self::ActivationSettings => "ApplicationActivationSettings",
            Self::ApiKeys => "APIKey",
            Self::Collaborators => "Collaborator",
            Self::Gateways => "Gateway",
            Self::Connections => "GatewayConnectionStats",
            Self::V2Applications => "handler.Application",
            Self::V2Devices => "handler.Device",
            Self::V2Network => "lorawan.Device",
            Self::V2Downlinks => "ApplicationDownlink",
        }
    }
}

/// The key of a device in the tables of the four components.
pub fn device_key(application_id: &str, device_id: &str) -> String {
    format!("{application_id}.{device_id}")
}

/// One change, as watchers see it after it happened.
pub struct Change<'a> {
    /// Where.
    pub table: Table,
    /// Which entry.
    pub key: &'a str,
    /// What it was, `None` when it was not there.
    pub before: Option<&'a DynamicMessage>,
}

impl fmt::Debug for Change<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Change({:?} {})", self.table, self.key)
    }
}

type Watcher = Box<dyn FnMut(&Tables, &Change<'_>) + Send>;

/// The stored messages, by table and key. Watchers share them rather than copy them.
pub type Tables = BTreeMap<Table, BTreeMap<String, Arc<DynamicMessage>>>;

/// All tables of one embedded server.
#[derive(Default)]
pub struct Store {
    tables: Tables,
    file: Option<File>,
    watchers: Vec<Watcher>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts = f.debug_map();
        for (table, entries) in &self.tables {
            counts.entry(table, &entries.len());
        }
        counts.finish()
    }
}

impl Store {
    /// A store that lives as long as the process.
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// A store kept in `path`, with what it holds from earlier.
    ///
    /// # Errors
    /// When the file cannot be opened, read or cut back to its last whole change.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        // It holds keys in the clear.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path)?;
        file.try_lock().map_err(|_| {
            let text = format!("{} is in use by another embedded stack", path.display());
            io::Error::new(io::ErrorKind::ResourceBusy, text)
        })?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut tables = Tables::new();
        let mut rest = bytes.as_slice();
        while let Some((change, after)) = LoggedChange::read(rest) {
            match change.message {
                Some(message) => {
                    tables.entry(change.table).or_default().insert(change.key, Arc::new(message))
                }
                None => tables.entry(change.table).or_default().remove(&change.key),
            };
            rest = after;
        }
        if !rest.is_empty() {
            file.set_len((bytes.len() - rest.len()) as u64)?;
        }
        Ok(Self { tables, file: Some(file), watchers: Vec::new() })
    }

    /// One entry.
    pub fn get(&self, table: Table, key: &str) -> Option<&DynamicMessage> {
        self.shared(table, key).map(Arc::as_ref)
    }

    /// One entry, to be kept without a copy.
    pub fn shared(&self, table: Table, key: &str) -> Option<&Arc<DynamicMessage>> {
        self.tables.get(&table)?.get(key)
    }

    /// All entries of a table in key order.
    pub fn iter(&self, table: Table) -> impl Iterator<Item = (&str, &DynamicMessage)> {
        self.tables.get(&table).into_iter().flatten().map(|(k, v)| (k.as_str(), v.as_ref()))
    }

    /// The entries of a table whose keys start with `prefix`, in order.
    pub fn starting(&self, table: Table, prefix: &str) -> impl Iterator<Item = (&str, &DynamicMessage)> {
        let entries = self.tables.get(&table).map(|entries| entries.range(prefix.to_owned()..));
        let prefix = prefix.to_owned();
        let entries = entries.into_iter().flatten().map(|(key, entry)| (key.as_str(), entry.as_ref()));
        entries.take_while(move |(key, _)| key.starts_with(&prefix))
    }

    /// All tables.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// True when nothing is stored at all.
    pub fn is_empty(&self) -> bool {
        self.tables.values().all(BTreeMap::is_empty)
    }

    /// Stores an entry, replacing the one with the same key.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn put(&mut self, table: Table, key: &str, message: DynamicMessage) -> io::Result<()> {
        self.put_shared(table, key, Arc::new(message))
    }

    fn put_shared(&mut self, table: Table, key: &str, message: Arc<DynamicMessage>) -> io::Result<()> {
        self.log(table, key, Some(&message))?;
        let before = self.tables.entry(table).or_default().insert(key.to_owned(), message);
        self.notify(table, key, before.as_deref());
        Ok(())
    }

    /// Makes everything what it was when `tables` was copied. Watchers see each change.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn restore(&mut self, tables: &Tables) -> io::Result<()> {
        let has = |table: &Table, key: &String| tables.get(table).is_some_and(|e| e.contains_key(key));
        let all = self.tables.iter().flat_map(|(table, entries)| entries.keys().map(move |key| (table, key)));
        let gone: Vec<_> = all.filter(|(t, key)| !has(t, key)).map(|(t, key)| (*t, key.clone())).collect();
        for (table, key) in gone {
            self.remove(table, &key)?;
        }
        for (table, entries) in tables {
            for (key, message) in entries {
                if self.shared(*table, key).is_none_or(|now| !Arc::ptr_eq(now, message)) {
                    self.put_shared(*table, key, Arc::clone(message))?;
                }
            }
        }
        Ok(())
    }

    /// Removes an entry and returns it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn remove(&mut self, table: Table, key: &str) -> io::Result<Option<DynamicMessage>> {
        if self.get(table, key).is_none() {
            return Ok(None);
        }
        self.log(table, key, None)?;
        let before = self.tables.entry(table).or_default().remove(key);
        self.notify(table, key, before.as_deref());
        Ok(before.map(Arc::unwrap_or_clone))
    }

    /// Calls `watcher` after every change.
    pub fn watch(&mut self, watcher: impl FnMut(&Tables, &Change<'_>) + Send + 'static) {
        self.watchers.push(Box::new(watcher));
    }

    fn notify(&mut self, table: Table, key: &str, before: Option<&DynamicMessage>) {
        for watcher in &mut self.watchers {
            watcher(&self.tables, &Change { table, key, before });
        }
    }

    fn log(&mut self, table: Table, key: &str, message: Option<&DynamicMessage>) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let body = message.map(DynamicMessage::encode_to_vec);
        let mut out = vec![table as u8];
        out.extend((key.len() as u32).to_le_bytes());
        out.extend(key.as_bytes());
        out.extend(body.as_ref().map_or(u32::MAX, |b| b.len() as u32).to_le_bytes());
        out.extend(body.unwrap_or_default());
        file.write_all(&out)
    }
}

struct LoggedChange {
    table: Table,
    key: String,
    message: Option<DynamicMessage>,
}

impl LoggedChange {
    /// The first change in `bytes` and what follows it; `None` when it is not whole.
    fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (&table, rest) = bytes.split_first()?;
        let table = *Table::ALL.get(usize::from(table))?;
        let (len, rest) = read_u32(rest)?;
        let (key, rest) = rest.split_at_checked(len as usize)?;
        let key = std::str::from_utf8(key).ok()?.to_owned();
        let (len, rest) = read_u32(rest)?;
        if len == u32::MAX {
            return Some((Self { table, key, message: None }, rest));
        }
        let (body, rest) = rest.split_at_checked(len as usize)?;
        let message = DynamicMessage::decode(proto::descriptor(table.message()), body).ok()?;
        Some((Self { table, key, message: Some(message) }, rest))
    }
}

fn read_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*head), rest))
}

#[cfg(test)]
mod tests {
    use prost_reflect::Value;

    use super::*;
    use crate::map::path;

    fn application(name: &str) -> DynamicMessage {
        let mut message = proto::message("Application");
        path::set(&mut message, "name", Value::String(name.into()));
        message
    }

    #[test]
    fn a_file_keeps_every_change_and_drops_a_torn_one() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("server.state");
        let mut store = Store::open(&file).expect("new");
        store.put(Table::Applications, "kept", application("kept")).expect("writes");
        store.put(Table::Applications, "gone", application("gone")).expect("writes");
        store.remove(Table::Applications, "gone").expect("writes");
        drop(store);
        let whole = std::fs::metadata(&file).expect("there").len();
        OpenOptions::new().append(true).open(&file).and_then(|mut f| f.write_all(&[0, 9, 9])).expect("tears");

        let store = Store::open(&file).expect("opens");
        assert_eq!(store.get(Table::Applications, "kept"), Some(&application("kept")));
        assert_eq!(store.iter(Table::Applications).count(), 1);
        assert_eq!(std::fs::metadata(&file).expect("there").len(), whole);
    }

    #[test]
    fn what_was_is_restored_and_watchers_see_it() {
        let mut store = Store::in_memory();
        store.put(Table::Applications, "kept", application("kept")).expect("memory");
        store.put(Table::Applications, "changed", application("one")).expect("memory");
        store.put(Table::Applications, "gone", application("gone")).expect("memory");
        let saved = store.tables().clone();
        store.put(Table::Applications, "changed", application("two")).expect("memory");
        store.remove(Table::Applications, "gone").expect("memory");
        store.put(Table::Gateways, "new", proto::message("Gateway")).expect("memory");
        let (sender, receiver) = std::sync::mpsc::channel();
        store.watch(move |_, change| {
            let _ = sender.send(change.key.to_owned());
        });
        store.restore(&saved).expect("memory");
        assert_eq!(store.iter(Table::Applications).count(), 3);
        assert_eq!(store.get(Table::Applications, "changed"), Some(&application("one")));
        assert_eq!(store.iter(Table::Gateways).count(), 0);
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), ["new", "changed", "gone"]);
    }

    #[test]
    fn watchers_see_the_state_after_and_the_entry_before() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let mut store = Store::in_memory();
        store.watch(move |tables, change| {
            let now = tables[&change.table].get(change.key).map(|m| path::string(m, "name"));
            let _ = sender.send((now, change.before.map(|m| path::string(m, "name"))));
        });
        store.put(Table::Applications, "a", application("one")).expect("memory");
        store.put(Table::Applications, "a", application("two")).expect("memory");
        store.remove(Table::Applications, "a").expect("memory");
        let seen: Vec<_> = receiver.try_iter().collect();
        let text = |s: &str| Some(s.to_owned());
        assert_eq!(seen, [(text("one"), None), (text("two"), text("one")), (None, text("two"))]);
    }
}
