//! The end of the log, where entries are added.

use std::{collections::HashMap, path::PathBuf};

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::{
    Body, DeviceKey, Write,
    error::Error,
    format::{Entry, Head, Id},
    seal::Sealer,
};

/// What it takes to add to a journal: its last entry, and the key.
pub(super) struct Tail {
    pub named: PathBuf,
    pub id: Id,
    pub sealer: Sealer,
    pub head: Head,
    device_ids: HashMap<DeviceKey, i64>,
}

impl Tail {
    pub fn new(named: PathBuf, id: Id, sealer: Sealer, head: Head) -> Self {
        Self { named, id, sealer, head, device_ids: HashMap::new() }
    }

    /// Adds `writes` in one transaction. They are as durable as the connection's settings make them.
    ///
    /// # Errors
    /// What the disk refused. Nothing may be added afterwards: whether the entries are there is only known to the next
    /// opening.
    pub fn commit(&mut self, connection: &mut Connection, writes: &[Write]) -> Result<(), Error> {
        let named = self.named.clone();
        let sql = |e: rusqlite::Error| Error::sql(&named, "writing it", &e);
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
        let at = jiff::Timestamp::now().as_millisecond();
        let mut head = self.head;
        for write in writes {
            head = self.add(&transaction, head, at, write)?;
        }
        let tag = self.sealer.seal(&named, &head.context(&self.id), &[])?;
        let moved = transaction
            .prepare_cached("UPDATE journal SET head_seq = ?1, head_tag = ?2 WHERE head_seq = ?3")
            .and_then(|mut statement| statement.execute(params![head.seq, tag, self.head.seq]))
            .map_err(sql)?;
        if moved != 1 {
            return Err(Error::damaged(&named, "another program wrote it"));
        }
        transaction.commit().map_err(sql)?;
        self.head = head;
        Ok(())
    }

    fn add(&mut self, to: &Transaction<'_>, head: Head, at: i64, write: &Write) -> Result<Head, Error> {
        let sql = |named: &PathBuf, e| Error::sql(named, "writing it", &e);
        let device = write.device.as_ref();
        let device_id = device.map(|d| self.device_id(to, d)).transpose().map_err(|e| sql(&self.named, e))?;
        let (sealed, body) = match &write.body {
            Body::Event(body) => (false, body.as_slice()),
            Body::Seal(plain) => (true, plain.as_slice()),
        };
        let mut entry = Entry { at, device, kind: &write.kind, sealed, body };
        let closed;
        if sealed {
            closed = self.sealer.seal(&self.named, &entry.context(&self.id, head.seq + 1), body)?;
            entry.body = &closed;
        }
        let after = head.then(&entry);
        let insert = "INSERT INTO entry (seq, at, device, kind, sealed, body, hash) \
                      VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let row = params![after.seq, at, device_id, entry.kind, sealed, entry.body, after.hash];
        to.prepare_cached(insert)
            .and_then(|mut statement| statement.execute(row))
            .map_err(|e| sql(&self.named, e))?;
        Ok(after)
    }

    fn device_id(&mut self, transaction: &Transaction<'_>, device: &DeviceKey) -> rusqlite::Result<i64> {
        if let Some(id) = self.device_ids.get(device) {
            return Ok(*id);
        }
        let names = [device.application.as_str(), device.device.as_str()];
        transaction
            .prepare_cached(
                "INSERT INTO device (application, device) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            )?
            .execute(names)?;
        let id = transaction
            .prepare_cached("SELECT id FROM device WHERE application = ?1 AND device = ?2")?
            .query_row(names, |row| row.get(0))?;
        self.device_ids.insert(device.clone(), id);
        Ok(id)
    }
}
