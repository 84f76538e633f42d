//! The journal as it is written: opening, appending, sealing, closing.

use std::{
    fmt,
    ops::{Deref, Range},
    path::Path,
    time::Duration,
};

use rusqlite::named_params;

use super::{
    DeviceKey, PinChange, Pins, Plain, SealKeyRef, Write, create,
    error::{Error, ErrorKind},
    files::{self, Identity, Paths},
    format::{self, Head},
    lock::{Lock, Who},
    network,
    seal::Sealer,
    tail::Tail,
    view::View,
};

/// A journal that this process writes. It reads as a [`View`] does.
///
/// After a write has failed, every later write fails with the same error: the run must stop. Dropping it closes it.
pub struct Journal {
    view: View,
    tail: Tail,
    /// The journal and its write-ahead log as this run found them; `None` until it has started.
    in_place: Option<[Option<Identity>; 2]>,
    failed: Option<Error>,
    /// Last: the lock ends after the connection.
    lock: Lock,
}

/// What [`Journal::open`] found.
#[derive(Debug)]
pub struct Opened {
    /// The journal, locked.
    pub journal: Journal,
    /// True when it was there before.
    pub resumed: bool,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("view", &self.view).field("entries", &self.tail.head.seq).finish()
    }
}

impl Deref for Journal {
    type Target = View;

    fn deref(&self) -> &View {
        &self.view
    }
}

impl Journal {
    /// Opens the journal at `path` for this run, or creates it with `pins`, and locks it.
    ///
    /// The whole file is read and checked. Pins that differ from those of the journal are refused, unless their names
    /// are in `accept_changed`: then the journal takes the new values.
    ///
    /// # Errors
    /// Every [`ErrorKind`] that names something of the file, its key, its lock or its pins.
    pub fn open(
        path: &Path,
        key: &SealKeyRef,
        pins: &Pins,
        who: &Who,
        accept_changed: &[&str],
    ) -> Result<Opened, Error> {
        let paths = Paths::new(path)?;
        paths.journal_exists()?;
        if let Some(name) = network::of(&paths.folder) {
            return Err(Error::new(path, ErrorKind::Network(name)));
        }
        let (lock, noted) = Lock::take(&paths, who)?;
        let resumed = paths.journal_exists()?;
        if !resumed {
            create::must_be_new(&paths, noted.is_some())?;
            let first = [vec![Write::own("created", &who)], pin_entries(&changes(&Pins::default(), pins))];
            create::create(&paths, Sealer::resolve(key, &paths, true)?, &first.concat())?;
        }
        let connection = create::connect(&paths)?;
        let row = format::verify(&connection, path)?;
        let sealer = Sealer::resolve(key, &paths, false)?;
        create::check_key(&sealer, &row, &paths)?;
        // Only now: another program's file is not ours to change.
        paths.tighten()?;
        let genesis = Head::genesis(&row.id, &row.key_check);
        let view = View { paths, connection, id: row.id, genesis };
        if let Some(noted) = noted
            && view.hash_of(noted.seq)? != Some(noted.hash)
        {
            return Err(Error::new(path, ErrorKind::Older { seq: noted.seq }));
        }
        let changes = changes(&view.pins()?, pins);
        refuse_changes(path, &changes, accept_changed)?;
        let tail = Tail::new(path.to_owned(), row.id, sealer, row.head);
        let mut journal = Self { view, tail, in_place: None, failed: None, lock };
        journal.start(&[vec![Write::own("opened", &who)], pin_entries(&changes)].concat())?;
        Ok(Opened { journal, resumed })
    }

    /// Makes what was read durable, then writes what this run adds about itself.
    fn start(&mut self, own: &[Write]) -> Result<(), Error> {
        create::start_log(&self.view.connection, &self.view.paths)?;
        self.commit(own)?;
        // SQLite syncs the folder when it makes its log, but does not say so when that fails.
        self.view.paths.sync_folder()?;
        self.in_place = Some(self.files_now());
        Ok(())
    }

    /// Writes an event and returns its number, once it is durable.
    ///
    /// # Errors
    /// Those of [`Journal::write`].
    pub fn append(&mut self, device: &DeviceKey, kind: &str, body: &[u8]) -> Result<u64, Error> {
        self.write(&[Write::event(device, kind, body)]).map(|seqs| seqs.start)
    }

    /// Encrypts a snapshot, writes it and returns its number, once it is durable. Earlier ones of the kind are kept.
    ///
    /// # Errors
    /// Those of [`Journal::write`].
    pub fn seal(&mut self, device: &DeviceKey, kind: &str, plain: &[u8]) -> Result<u64, Error> {
        self.write(&[Write::seal(device, kind, plain)]).map(|seqs| seqs.start)
    }

    /// Writes entries in one transaction, all or none, and returns their numbers, once they are durable.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`]; or what the disk refused, and then every later write fails with the same error.
    pub fn write(&mut self, writes: &[Write]) -> Result<Range<u64>, Error> {
        check_sizes(self.path(), writes)?;
        let first = self.tail.head.seq + 1;
        self.commit(writes)?;
        Ok(first..self.tail.head.seq + 1)
    }

    /// Keeps `value` for the whole migration under `key`. Earlier values stay in the log: it is for few changes.
    ///
    /// # Errors
    /// Those of [`Journal::write`].
    pub fn set_meta(&mut self, key: &str, value: &str) -> Result<(), Error> {
        self.write(&[Write::meta(key, value)]).map(drop)
    }

    /// The plain text of a sealed entry, read from the file again and authenticated.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchSeal`], [`ErrorKind::Damaged`], or from the disk.
    pub fn unseal(&self, id: u64) -> Result<Plain, Error> {
        let again = self.read_again()?;
        let none = || Error::new(self.path(), ErrorKind::NoSuchSeal(id));
        let device = again.device_of(id)?.ok_or_else(none)?;
        self.unseal_from(&again, &device, id)?.ok_or_else(none)
    }

    /// The number and the plain text of the newest sealed entry of a device and kind, as [`Journal::unseal`] reads it.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`], or from the disk.
    pub fn latest_seal(&self, device: &DeviceKey, kind: &str) -> Result<Option<(u64, Plain)>, Error> {
        let again = self.read_again()?;
        let Some(latest) = again.seals(device)?.into_iter().rfind(|seal| seal.kind == kind) else {
            return Ok(None);
        };
        Ok(self.unseal_from(&again, device, latest.id)?.map(|plain| (latest.id, plain)))
    }

    /// Why writing has failed, once it has.
    pub fn failure(&self) -> Option<&Error> {
        self.failed.as_ref()
    }

    /// Ends the use of the journal: afterwards it is one file again, without a write-ahead log beside it.
    ///
    /// # Errors
    /// The error of an earlier write, if one has failed.
    pub fn close(self) -> Result<(), Error> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// A new connection: nothing that this process still has in memory can hide what is in the file.
    fn read_again(&self) -> Result<View, Error> {
        self.still_in_place()?;
        let connection = format::connect(&self.paths.journal, self.path(), false)?;
        Ok(View { paths: self.paths.clone(), connection, id: self.id, genesis: self.genesis })
    }

    fn unseal_from(&self, view: &View, device: &DeviceKey, id: u64) -> Result<Option<Plain>, Error> {
        let one = "WHERE e.seq = :seq AND e.sealed = 1";
        let Some(stored) = view.entries(one, Some(device), named_params! { ":seq": id })?.pop() else {
            return Ok(None);
        };
        let context = stored.entry(Some(device)).context(&self.id, stored.seq);
        match self.tail.sealer.unseal(&context, &stored.body) {
            Some(plain) => Ok(Some(plain)),
            None => Err(Error::damaged(self.path(), format!("seal {id} cannot be opened"))),
        }
    }

    /// Durable when it returns. The first failure is the last: what the disk then holds is only known by opening again.
    fn commit(&mut self, writes: &[Write]) -> Result<(), Error> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let done = self.try_commit(writes);
        self.failed = done.as_ref().err().cloned();
        done
    }

    fn try_commit(&mut self, writes: &[Write]) -> Result<(), Error> {
        self.tail.commit(&mut self.view.connection, writes)?;
        self.still_in_place()?;
        self.lock.note(&self.tail.head)
    }

    fn files_now(&self) -> [Option<Identity>; 2] {
        [&self.paths.journal, &self.paths.beside("-wal")].map(|file| files::identity(file))
    }

    /// SQLite goes on writing files that have no name any more: what it wrote there ends with the process.
    fn still_in_place(&self) -> Result<(), Error> {
        if self.in_place.is_some_and(|before| before != self.files_now()) {
            let what = "it, or its `-wal` file, was removed or replaced while the run used it";
            return Err(Error::new(self.path(), ErrorKind::Gone(what)));
        }
        Ok(())
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if self.failed.is_some() {
            return;
        }
        // Whatever fails here is made good by the next opening, as after a crash.
        let connection = &self.view.connection;
        let _ = connection.busy_timeout(Duration::from_millis(500));
        let _ = connection.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(()));
        let _ = self.lock.release();
    }
}

/// Refuses entries that are larger than the journal takes.
pub(super) fn check_sizes(named: &Path, writes: &[Write]) -> Result<(), Error> {
    match writes.iter().find(|w| w.bytes() > w.limit()) {
        Some(w) => Err(Error::new(named, ErrorKind::TooLarge { bytes: w.bytes(), limit: w.limit() })),
        None => Ok(()),
    }
}

/// How `is` differs from `was`.
fn changes(was: &Pins, is: &Pins) -> Vec<PinChange> {
    let value = |pins: &Pins, key: &str| pins.items.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone());
    let new = is.items.iter().filter(|(key, _)| value(was, key).is_none());
    let keys = was.items.iter().chain(new).map(|(key, _)| key);
    keys.map(|key| PinChange { key: key.clone(), was: value(was, key), is: value(is, key) })
        .filter(|change| change.was != change.is)
        .collect()
}

fn refuse_changes(path: &Path, changes: &[PinChange], accepted: &[&str]) -> Result<(), Error> {
    let refused: Vec<_> = changes.iter().filter(|c| !accepted.contains(&c.key.as_str())).cloned().collect();
    if refused.is_empty() { Ok(()) } else { Err(Error::new(path, ErrorKind::Changed(refused))) }
}

fn pin_entries(changes: &[PinChange]) -> Vec<Write> {
    changes.iter().map(|change| Write::own(&format!("pin/{}", change.key), &change.is)).collect()
}
