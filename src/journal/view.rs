//! The journal as it is read: by the run that writes it, and by `status` while a run works.

use std::{collections::BTreeMap, fmt, fs, io, path::Path, thread, time::Duration};

use rusqlite::{Connection, OptionalExtension as _, named_params};

use super::{
    DeviceKey, Event, Pins, SealInfo, create,
    error::{Error, ErrorKind},
    files::Paths,
    format::{self, Head, Id, Row, Stored},
    lock::{self, Who},
};

/// An open journal, for reading. It holds no lock, and needs no key: sealed bodies stay closed.
///
/// Each entry is checked against its hash when it is read.
pub struct View {
    pub(super) paths: Paths,
    pub(super) connection: Connection,
    pub(super) id: Id,
    pub(super) genesis: Head,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("path", &self.paths.named).field("run", &self.run_id()).finish()
    }
}

/// The columns of [`Stored`], then the hash of the entry before, which each hash covers.
const ENTRY: &str = "SELECT e.seq, e.at, e.device, e.kind, e.sealed, e.body, e.hash, p.hash \
                     FROM entry e LEFT JOIN entry p ON p.seq = e.seq - 1";

impl View {
    /// Opens the journal for reading and checks the whole of it; a run may be writing it.
    ///
    /// # Errors
    /// [`ErrorKind::Missing`], or as [`super::Journal::open`] has them for a file that is no whole journal.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if !Self::is_there(path)? {
            return Err(Error::new(path, ErrorKind::Missing));
        }
        let paths = Paths::new(path)?;
        let (connection, row) = match Self::checked(&paths, false) {
            // A run died while the file changed its form. Only a connection that may write takes back the half of it.
            Err(Error { kind: ErrorKind::ReadOnly(_), .. }) if paths.beside("-journal").exists() => {
                Self::checked(&paths, true)?
            }
            checked => checked?,
        };
        let genesis = Head::genesis(&row.id, &row.key_check);
        let view = Self { paths, connection, id: row.id, genesis };
        view.is_the_newest()?;
        Ok(view)
    }

    fn checked(paths: &Paths, write: bool) -> Result<(Connection, Row), Error> {
        let connection = format::connect(&paths.journal, &paths.named, write)?;
        let row = format::verify(&connection, &paths.named).map_err(|e| {
            let lacks_index = paths.beside("-wal").exists() && !paths.beside("-shm").exists();
            match e.kind {
                ErrorKind::Io { .. } if lacks_index => Error::new(&paths.named, ErrorKind::NoIndex),
                _ => e,
            }
        })?;
        Ok((connection, row))
    }

    /// Whether there is a journal; false when nothing has run with it yet.
    ///
    /// # Errors
    /// When something else stands there, or when it is gone and what is beside it tells of an earlier run.
    pub fn is_there(path: &Path) -> Result<bool, Error> {
        let paths = match Paths::new(path) {
            // Not even its folder is there.
            Err(_) if fs::symlink_metadata(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) => {
                return Ok(false);
            }
            paths => paths?,
        };
        let is_there = paths.journal_exists()?;
        if !is_there {
            create::must_be_new(&paths, lock::noted_beside(&paths).is_some())?;
        }
        Ok(is_there)
    }

    /// Refuses a journal without the entry that the lock file notes. A run that works may rewrite the line while it is
    /// read, so one that does not fit is read again.
    fn is_the_newest(&self) -> Result<(), Error> {
        let mut missing = None;
        for _ in 0..5 {
            let Some(noted) = lock::noted_beside(&self.paths) else { return Ok(()) };
            if self.hash_of(noted.seq)? == Some(noted.hash) {
                return Ok(());
            }
            missing = Some(noted.seq);
            thread::sleep(Duration::from_millis(5));
        }
        missing.map_or(Ok(()), |seq| Err(Error::new(self.path(), ErrorKind::Older { seq })))
    }

    /// The journal, as the config names it.
    pub fn path(&self) -> &Path {
        &self.paths.named
    }

    /// The random name of the journal, and so of the migration: 32 hexadecimal digits, drawn once.
    pub fn run_id(&self) -> String {
        hex::encode(self.id)
    }

    /// Who runs with the journal now, and since when; `None` when nobody does.
    pub fn held_by(&self) -> Option<String> {
        lock::held_by(&self.paths)
    }

    /// What the journal was made for, with the changes that were accepted since.
    ///
    /// # Errors
    /// When the journal cannot be read or is damaged.
    pub fn pins(&self) -> Result<Pins, Error> {
        let mut items: Vec<(String, String)> = Vec::new();
        for (key, body) in self.own("pin/")? {
            items.retain(|(k, _)| *k != key);
            items.extend(self.json::<Option<String>>(&body)?.map(|value| (key, value)));
        }
        Ok(Pins { items })
    }

    /// When, and by whom, the journal was opened for writing, first to last.
    ///
    /// # Errors
    /// When the journal cannot be read or is damaged.
    pub fn openings(&self) -> Result<Vec<(jiff::Timestamp, Who)>, Error> {
        let opened = "WHERE e.device IS NULL AND e.kind = 'opened' ORDER BY e.seq";
        let entries = self.entries(opened, None, &[])?;
        entries.iter().map(|e| Ok((self.time(e)?, self.json(&e.body)?))).collect()
    }

    /// The last value given to [`super::Journal::set_meta`].
    ///
    /// # Errors
    /// When the journal cannot be read or is damaged.
    pub fn meta(&self, key: &str) -> Result<Option<String>, Error> {
        let found = self.own("meta/")?.into_iter().rfind(|(k, _)| k == key);
        found.map(|(_, body)| self.json(&body)).transpose()
    }

    /// The last values given to names that begin so: the rest of the name, and the value.
    ///
    /// # Errors
    /// When the journal cannot be read or is damaged.
    pub fn metas(&self, prefix: &str) -> Result<BTreeMap<String, String>, Error> {
        let own = self.own(&format!("meta/{prefix}"))?.into_iter();
        own.map(|(name, body)| Ok((name, self.json(&body)?))).collect()
    }

    /// The devices that have entries, in the order of their first.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn devices(&self) -> Result<Vec<DeviceKey>, Error> {
        let read = || {
            let mut statement =
                self.connection.prepare_cached("SELECT application, device FROM device ORDER BY id")?;
            let rows = statement
                .query_map([], |r| Ok(DeviceKey::new(r.get::<_, String>(0)?, r.get::<_, String>(1)?)))?;
            rows.collect::<rusqlite::Result<_>>()
        };
        read().map_err(|e| self.sql(&e))
    }

    /// The events of a device, oldest first; empty for a device that has none.
    ///
    /// # Errors
    /// When the journal cannot be read or is damaged.
    pub fn events(&self, device: &DeviceKey) -> Result<Vec<Event>, Error> {
        let Some(id) = self.find(device)? else { return Ok(Vec::new()) };
        let events = "WHERE e.device = :device AND e.sealed = 0 ORDER BY e.seq";
        let entries = self.entries(events, Some(device), named_params! { ":device": id })?;
        entries
            .into_iter()
            .map(|e| Ok(Event { seq: e.seq, at: self.time(&e)?, kind: e.kind, body: e.body }))
            .collect()
    }

    /// Gives each device with its events to `f`, one device in memory at a time.
    ///
    /// # Errors
    /// Those of [`View::events`], and the first of `f`.
    pub fn for_each_device<E: From<Error>>(
        &self,
        mut f: impl FnMut(DeviceKey, Vec<Event>) -> Result<(), E>,
    ) -> Result<(), E> {
        for device in self.devices()? {
            let events = self.events(&device)?;
            f(device, events)?;
        }
        Ok(())
    }

    /// The sealed entries of a device, oldest first.
    ///
    /// # Errors
    /// When the journal cannot be read or is damaged.
    pub fn seals(&self, device: &DeviceKey) -> Result<Vec<SealInfo>, Error> {
        let Some(id) = self.find(device)? else { return Ok(Vec::new()) };
        let seals = "WHERE e.device = :device AND e.sealed = 1 ORDER BY e.seq";
        let entries = self.entries(seals, Some(device), named_params! { ":device": id })?;
        entries.into_iter().map(|e| Ok(SealInfo { id: e.seq, at: self.time(&e)?, kind: e.kind })).collect()
    }

    /// The hash of an entry, as it is stored.
    pub(super) fn hash_of(&self, seq: u64) -> Result<Option<format::Hash>, Error> {
        self.connection
            .query_row("SELECT hash FROM entry WHERE seq = ?1", [seq], |row| row.get(0))
            .optional()
            .map_err(|e| self.sql(&e))
    }

    /// The device whose entry `seq` is, if it is an entry of a device.
    pub(super) fn device_of(&self, seq: u64) -> Result<Option<DeviceKey>, Error> {
        let query =
            "SELECT d.application, d.device FROM entry e JOIN device d ON d.id = e.device WHERE e.seq = ?1";
        self.connection
            .query_row(query, [seq], |r| Ok(DeviceKey::new(r.get::<_, String>(0)?, r.get::<_, String>(1)?)))
            .optional()
            .map_err(|e| self.sql(&e))
    }

    /// The checked entries that `condition` selects, all of `device` or all of the journal itself.
    pub(super) fn entries(
        &self,
        condition: &str,
        device: Option<&DeviceKey>,
        params: &[(&str, &dyn rusqlite::ToSql)],
    ) -> Result<Vec<Stored>, Error> {
        let read = || {
            let mut statement = self.connection.prepare_cached(&format!("{ENTRY} {condition}"))?;
            let rows = statement
                .query_map(params, |row| Ok((Stored::read(row)?, row.get::<_, Option<format::Hash>>(7)?)))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        let checked = read().map_err(|e| self.sql(&e))?.into_iter().map(|(stored, previous)| {
            let hash = previous.unwrap_or(self.genesis.hash);
            let before = Head { seq: stored.seq.saturating_sub(1), hash };
            stored.after(&before, device, self.path())?;
            Ok(stored)
        });
        checked.collect()
    }

    /// The journal's own entries whose kind starts with `prefix`: the rest of the kind, and the body.
    fn own(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let own = "WHERE e.device IS NULL AND substr(e.kind, 1, :length) = :prefix ORDER BY e.seq";
        let entries =
            self.entries(own, None, named_params! { ":length": prefix.len() as i64, ":prefix": prefix })?;
        Ok(entries.into_iter().map(|e| (e.kind[prefix.len()..].to_owned(), e.body)).collect())
    }

    fn find(&self, device: &DeviceKey) -> Result<Option<i64>, Error> {
        let find = || {
            let mut statement = self
                .connection
                .prepare_cached("SELECT id FROM device WHERE application = ?1 AND device = ?2")?;
            statement
                .query_row([device.application.as_str(), device.device.as_str()], |row| row.get(0))
                .optional()
        };
        find().map_err(|e| self.sql(&e))
    }

    fn time(&self, entry: &Stored) -> Result<jiff::Timestamp, Error> {
        jiff::Timestamp::from_millisecond(entry.at)
            .map_err(|_| Error::damaged(self.path(), format!("entry {} has no time", entry.seq)))
    }

    fn json<T: serde::de::DeserializeOwned>(&self, body: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(body)
            .map_err(|e| Error::damaged(self.path(), format!("an entry of its own cannot be read: {e}")))
    }

    pub(super) fn sql(&self, error: &rusqlite::Error) -> Error {
        Error::sql(self.path(), "reading it", error)
    }
}
