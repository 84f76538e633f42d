//! Format 1 of the journal: tables, the hash chain, and the check of the whole file (`docs/journal.md`).

use std::{collections::HashMap, path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags, config::DbConfig};
use sha2::{Digest as _, Sha256};

use super::{
    DeviceKey,
    error::{Error, ErrorKind},
};

/// `application_id` in the file's header: "SFJL".
pub(super) const APPLICATION_ID: i32 = 0x5346_4a4c;
/// `user_version` in the file's header.
pub(super) const FORMAT: i64 = 1;

/// Every statement that makes the tables, as SQLite keeps it: a file with any other schema is refused.
pub(super) const SCHEMA: [&str; 4] = [
    "CREATE TABLE journal (id BLOB NOT NULL, key_check BLOB NOT NULL, head_seq INTEGER NOT NULL, \
     head_tag BLOB NOT NULL) STRICT",
    "CREATE TABLE device (id INTEGER PRIMARY KEY, application TEXT NOT NULL, device TEXT NOT NULL, \
     UNIQUE (application, device)) STRICT",
    "CREATE TABLE entry (seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, device INTEGER REFERENCES device (id), \
     kind TEXT NOT NULL, sealed INTEGER NOT NULL, body BLOB NOT NULL, hash BLOB NOT NULL) STRICT",
    "CREATE INDEX entry_device ON entry (device, seq)",
];

/// The random name of a journal.
pub(super) type Id = [u8; 16];
/// A SHA-256 hash.
pub(super) type Hash = [u8; 32];

/// The last entry: its number, counted from 1 without gaps, and its hash, which covers all entries before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub seq: u64,
    pub hash: Hash,
}

impl Head {
    /// No entry at all.
    pub const NONE: Self = Self { seq: 0, hash: [0; 32] };

    /// What stands before the first entry: it covers the journal's own row.
    pub fn genesis(id: &Id, key_check: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"stackferry journal 1");
        hash.update(id);
        part(&mut hash, key_check);
        Self { seq: 0, hash: hash.finalize().into() }
    }

    /// The head after `entry`, whose number is one higher.
    pub fn then(&self, entry: &Entry<'_>) -> Self {
        let seq = self.seq + 1;
        let mut hash = Sha256::new();
        hash.update(self.hash);
        hash.update(entry.place(seq));
        hash.update(entry.at.to_be_bytes());
        hash.update([u8::from(entry.sealed)]);
        part(&mut hash, entry.body);
        Self { seq, hash: hash.finalize().into() }
    }

    /// What the head's tag is bound to.
    pub fn context(&self, id: &Id) -> Vec<u8> {
        [b"stackferry journal 1 head".as_slice(), id, &self.seq.to_be_bytes(), &self.hash].concat()
    }
}

/// What the key check is bound to.
pub(super) fn key_check_context(id: &Id) -> Vec<u8> {
    [b"stackferry journal 1 key".as_slice(), id].concat()
}

/// One entry as it is hashed.
pub(super) struct Entry<'a> {
    /// Milliseconds since 1970.
    pub at: i64,
    /// `None` for the journal's own entries.
    pub device: Option<&'a DeviceKey>,
    pub kind: &'a str,
    pub sealed: bool,
    pub body: &'a [u8],
}

impl Entry<'_> {
    /// What a sealed body is bound to, besides the journal: no seal can stand in for another.
    pub fn context(&self, id: &Id, seq: u64) -> Vec<u8> {
        [b"stackferry journal 1 seal".as_slice(), id, &self.place(seq)].concat()
    }

    /// Number, device and kind, unambiguously.
    fn place(&self, seq: u64) -> Vec<u8> {
        let mut place = seq.to_be_bytes().to_vec();
        let mut text = |text: &str| {
            place.extend((text.len() as u64).to_be_bytes());
            place.extend(text.as_bytes());
        };
        if let Some(device) = self.device {
            text(device.application.as_str());
            text(device.device.as_str());
        }
        text(self.kind);
        // Two texts or four: the count tells an entry of a device from one of the journal itself.
        place.push(u8::from(self.device.is_some()));
        place
    }
}

fn part(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_be_bytes());
    hash.update(bytes);
}

/// Opens a connection, without creating anything, and refuses to run what a foreign file may have in its schema.
pub(super) fn connect(file: &Path, named: &Path, write: bool) -> Result<Connection, Error> {
    let access = if write { OpenFlags::SQLITE_OPEN_READ_WRITE } else { OpenFlags::SQLITE_OPEN_READ_ONLY };
    let connect = || {
        let connection = Connection::open_with_flags(file, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(Duration::from_secs(10))?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        // What was refused stays as it is: a damaged or foreign log must not be folded into the file by closing it.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.pragma_update(None, "cell_size_check", true)?;
        Ok(connection)
    };
    connect().map_err(|e| Error::sql(named, "opening it", &e))
}

/// The journal's own row.
#[derive(Debug)]
pub(super) struct Row {
    pub id: Id,
    pub key_check: Vec<u8>,
    pub head: Head,
    pub head_tag: Vec<u8>,
}

/// Reads the whole file once: format, schema, SQLite's own check of pages and indexes, and every hash.
///
/// # Errors
/// [`ErrorKind::NotAJournal`], [`ErrorKind::Format`], [`ErrorKind::Damaged`], or from the disk.
pub(super) fn verify(connection: &Connection, named: &Path) -> Result<Row, Error> {
    let sql = |e: &rusqlite::Error| Error::sql(named, "checking it", e);
    let application: i64 = pragma(connection, "application_id").map_err(|e| sql(&e))?;
    if application != i64::from(APPLICATION_ID) {
        return Err(Error::new(named, ErrorKind::NotAJournal("it is the database of another program")));
    }
    let found: i64 = pragma(connection, "user_version").map_err(|e| sql(&e))?;
    if found != FORMAT {
        return Err(Error::new(named, ErrorKind::Format { found, known: FORMAT }));
    }
    // One read transaction: a run may go on while `status` looks.
    let snapshot = connection.unchecked_transaction().map_err(|e| sql(&e))?;
    let row = verify_contents(&snapshot, named)?;
    snapshot.finish().map_err(|e| sql(&e))?;
    Ok(row)
}

fn verify_contents(connection: &Connection, named: &Path) -> Result<Row, Error> {
    let sql = |e: rusqlite::Error| Error::sql(named, "checking it", &e);
    let damaged = |what: &str| Err(Error::damaged(named, what));
    if schema(connection).map_err(sql)? != SCHEMA {
        return damaged("its tables are not those of a journal");
    }
    let check: String =
        connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(sql)?;
    if check != "ok" {
        return damaged(&check.replace('\n', " "));
    }
    let (mut row, head_seq) = own_row(connection, named)?;
    let devices = devices(connection).map_err(sql)?;
    let mut seen = HashMap::new();
    let mut head = row.head;
    let mut statement = connection
        .prepare("SELECT seq, at, device, kind, sealed, body, hash FROM entry ORDER BY seq")
        .map_err(sql)?;
    let mut rows = statement.query([]).map_err(sql)?;
    while let Some(columns) = rows.next().map_err(sql)? {
        let stored = Stored::read(columns).map_err(sql)?;
        let device = match stored.device {
            None => None,
            Some(id) => match devices.get(&id) {
                Some(device) => Some(device),
                None => return damaged(&format!("entry {} is of no device", stored.seq)),
            },
        };
        seen.extend(stored.device.map(|id| (id, ())));
        if stored.seq != head.seq + 1 {
            return damaged(&format!("entry {} is missing", head.seq + 1));
        }
        head = stored.after(&head, device, named)?;
    }
    if head.seq != head_seq || head_seq == 0 {
        return damaged(&format!("it has {} entries, and counted {head_seq}", head.seq));
    }
    if seen.len() != devices.len() {
        return damaged("it names a device without entries");
    }
    row.head = head;
    Ok(row)
}

/// The tables as they should be, and nothing else: no view, no trigger.
fn schema(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement =
        connection.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid")?;
    let found = statement.query_map([], |row| row.get(0))?;
    found.collect()
}

/// The journal's row with its genesis as head, and the number of the last entry as it was counted.
fn own_row(connection: &Connection, named: &Path) -> Result<(Row, u64), Error> {
    let sql = |e: rusqlite::Error| Error::sql(named, "checking it", &e);
    let mut statement =
        connection.prepare("SELECT id, key_check, head_seq, head_tag FROM journal").map_err(sql)?;
    let found = statement
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)))
        .and_then(Iterator::collect::<rusqlite::Result<Vec<(Id, Vec<u8>, u64, Vec<u8>)>>>)
        .map_err(sql)?;
    let [(id, key_check, head_seq, head_tag)] = <[_; 1]>::try_from(found)
        .map_err(|found| Error::damaged(named, format!("it has {} rows about itself", found.len())))?;
    let head = Head::genesis(&id, &key_check);
    Ok((Row { id, key_check, head, head_tag }, head_seq))
}

fn devices(connection: &Connection) -> rusqlite::Result<HashMap<i64, DeviceKey>> {
    let mut statement = connection.prepare("SELECT id, application, device FROM device")?;
    let rows = statement.query_map([], |row| {
        Ok((row.get(0)?, DeviceKey::new(row.get::<_, String>(1)?, row.get::<_, String>(2)?)))
    })?;
    rows.collect()
}

/// One entry as it is stored: `seq, at, device, kind, sealed, body, hash`.
pub(super) struct Stored {
    pub seq: u64,
    pub at: i64,
    pub device: Option<i64>,
    pub kind: String,
    pub sealed: bool,
    pub body: Vec<u8>,
    pub hash: Hash,
}

impl Stored {
    pub fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: row.get(0)?,
            at: row.get(1)?,
            device: row.get(2)?,
            kind: row.get(3)?,
            sealed: flag(row, 4)?,
            body: row.get(5)?,
            hash: row.get(6)?,
        })
    }

    pub fn entry<'a>(&'a self, device: Option<&'a DeviceKey>) -> Entry<'a> {
        Entry { at: self.at, device, kind: &self.kind, sealed: self.sealed, body: &self.body }
    }

    /// The head with this entry.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] when the entry is not what was written.
    pub fn after(&self, before: &Head, device: Option<&DeviceKey>, named: &Path) -> Result<Head, Error> {
        let head = before.then(&self.entry(device));
        if head.hash == self.hash {
            return Ok(head);
        }
        Err(Error::damaged(named, format!("entry {} is not what was written", self.seq)))
    }
}

/// 0 or 1, and nothing else that would count as true: the hash covers the truth value.
fn flag(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<bool> {
    match row.get(column)? {
        0_i64 => Ok(false),
        1 => Ok(true),
        other => Err(rusqlite::Error::IntegralValueOutOfRange(column, other)),
    }
}

/// The value of a pragma.
pub(super) fn pragma<T: rusqlite::types::FromSql>(
    connection: &Connection,
    name: &str,
) -> rusqlite::Result<T> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}
