//! Making a new journal, and starting to write one that is there.

use std::{fs, io};

use rusqlite::{Connection, params};

use super::{
    Write,
    error::{Error, ErrorKind},
    files::{self, Paths},
    format::{self, Head, Id, Row},
    seal::{self, Sealer},
    tail::Tail,
};

/// A journal that once was there must not silently begin anew: devices may be half moved.
pub(super) fn must_be_new(paths: &Paths, noted: bool) -> Result<(), Error> {
    let gone = |what| Err(Error::new(&paths.named, ErrorKind::Gone(what)));
    if noted {
        return gone("its lock file tells of an earlier run");
    }
    // SQLite would play a log that lies there into the new file.
    if paths.beside("-wal").exists() || paths.beside("-journal").exists() {
        return gone("its write-ahead log is still there");
    }
    if paths.beside("-shm").exists() {
        return gone("the index of its write-ahead log is still there");
    }
    Ok(())
}

/// Makes a whole journal under another name, then names it: an interrupted creation leaves nothing that looks like one.
pub(super) fn create(paths: &Paths, sealer: Sealer, first: &[Write]) -> Result<(), Error> {
    let named = &paths.named;
    let sql = |e: rusqlite::Error| Error::sql(named, "creating it", &e);
    let io = |e: io::Error| paths.creation_error("creating it", &e);
    let unfinished = paths.beside(".new");
    let _ = fs::remove_file(paths.beside(".new-journal"));
    files::create_private(&unfinished, b"").map_err(io)?;
    let id: Id = seal::random(named)?;
    let key_check = sealer.seal(named, &format::key_check_context(&id), &[])?;

    let mut connection = format::connect(&unfinished, named, true)?;
    make_tables(&connection, &id, &key_check).map_err(sql)?;
    Tail::new(named.clone(), id, sealer, Head::genesis(&id, &key_check)).commit(&mut connection, first)?;
    connection.close().map_err(|(_, e)| sql(e))?;
    fs::File::open(&unfinished).and_then(|file| file.sync_all()).map_err(io)?;
    fs::rename(&unfinished, &paths.journal).map_err(io)?;
    paths.sync_folder()
}

fn make_tables(connection: &Connection, id: &Id, key_check: &[u8]) -> rusqlite::Result<()> {
    // Until it has its name nobody uses it: it is synced once, when it is whole.
    connection.pragma_update(None, "synchronous", "OFF")?;
    connection.pragma_update(None, "application_id", format::APPLICATION_ID)?;
    connection.pragma_update(None, "user_version", format::FORMAT)?;
    connection.execute_batch(&format::SCHEMA.join("; "))?;
    let row = "INSERT INTO journal (id, key_check, head_seq, head_tag) VALUES (?1, ?2, 0, x'')";
    connection.execute(row, params![id, key_check]).map(drop)
}

/// A connection that may write.
pub(super) fn connect(paths: &Paths) -> Result<Connection, Error> {
    let connection = format::connect(&paths.journal, &paths.named, true)?;
    // SQLite falls back to reading when it may not write.
    if connection.is_readonly("main").unwrap_or(true) {
        return Err(Error::new(&paths.named, ErrorKind::ReadOnly("the file".into())));
    }
    Ok(connection)
}

/// Names a wrong key before anything is sealed with it, and a history that was rewritten without the key.
pub(super) fn check_key(sealer: &Sealer, row: &Row, paths: &Paths) -> Result<(), Error> {
    if sealer.unseal(&format::key_check_context(&row.id), &row.key_check).is_none() {
        return Err(Error::new(&paths.named, ErrorKind::WrongKey));
    }
    if sealer.unseal(&row.head.context(&row.id), &row.head_tag).is_none() {
        return Err(Error::damaged(&paths.named, "its history was not written with its key"));
    }
    Ok(())
}

/// From here on commits go to a write-ahead log that is synced each time.
///
/// What an earlier process left in its log is moved into the file and synced first: after a failed sync the system may
/// show contents that are not on the disk, and nothing may be built on those.
pub(super) fn start_log(connection: &Connection, paths: &Paths) -> Result<(), Error> {
    let start = || {
        // FULL for the log; EXTRA also for the moments without one, when the mode changes.
        connection.pragma_update(None, "synchronous", "EXTRA")?;
        connection.pragma_update(None, "fullfsync", true)?;
        connection.pragma_update(None, "checkpoint_fullfsync", true)?;
        // A reader may keep the log from being emptied, which is no reason not to run.
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))
    };
    let mode = start().map_err(|e| Error::sql(&paths.named, "starting its write-ahead log", &e))?;
    if mode != "wal" {
        let cause = "its disk cannot share memory between processes: is it a network folder?".into();
        let kind = ErrorKind::Io { doing: "starting its write-ahead log", cause };
        return Err(Error::new(&paths.named, kind));
    }
    Ok(())
}
