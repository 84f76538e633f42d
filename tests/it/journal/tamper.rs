//! What can happen to the files of a journal: by themselves, by a person, and by somebody who knows the format but not
//! the key.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use rusqlite::{Connection, params};

use super::{
    Dice,
    image::{self, FILES, Files, Image},
    reader,
};

/// What a tamperer has.
#[derive(Debug, Clone, Copy)]
pub struct Loot<'a> {
    /// The journal as it is.
    pub now: &'a Image,
    /// The same journal at an earlier time.
    pub older: &'a Image,
    /// The journal of another run, sealed with the same key.
    pub foreign: &'a Image,
}

const PAGE: usize = 4096;
/// A page in the write-ahead log, with its header; and the header of the log.
const FRAME: (usize, usize) = (24 + PAGE, 32);

/// Puts the journal there and does something to it. Returns what.
pub fn tamper(path: &Path, loot: &Loot<'_>, dice: &mut Dice) -> String {
    match dice.roll(10) {
        0..=3 => bytes(path, loot, dice),
        4..=5 => files(path, loot, dice),
        _ => rows(path, loot, dice),
    }
}

/// One of the files that are there; the small ones less often.
fn target(files: &Files, dice: &mut Dice) -> &'static str {
    let wanted = ["", "", "", "-wal", "-wal", "-wal", "-shm", ".lock", ".key"];
    loop {
        let suffix = dice.one_of(&wanted);
        if files.contains_key(suffix) {
            return suffix;
        }
    }
}

fn bytes(path: &Path, loot: &Loot<'_>, dice: &mut Dice) -> String {
    let mut files = loot.now.files.clone();
    let suffix = target(&files, dice);
    let bytes = files.get_mut(suffix).expect("it is there");
    let other = dice.one_of(&[loot.older, loot.foreign]).files.get(suffix);
    let what = damage(bytes, other, dice);
    image::put(&files, path);
    format!("{what} of `{suffix}`")
}

fn damage(bytes: &mut Vec<u8>, other: Option<&Vec<u8>>, dice: &mut Dice) -> &'static str {
    if bytes.is_empty() {
        bytes.push(dice.roll(256) as u8);
        return "a byte in the empty file";
    }
    let at = dice.roll(bytes.len());
    let end = (at + 1 + dice.roll(600)).min(bytes.len());
    match dice.roll(11) {
        0 | 1 => {
            bytes[at] ^= 1 << dice.roll(8);
            "a bit"
        }
        2 => {
            for _ in 0..20 {
                let at = dice.roll(bytes.len());
                bytes[at] ^= 1 << dice.roll(8);
            }
            "20 bits"
        }
        3 => {
            bytes[at..end].fill(0);
            "zeroes in the middle"
        }
        4 => {
            bytes[at..end].iter_mut().for_each(|b| *b = dice.roll(256) as u8);
            "random bytes in the middle"
        }
        5 => {
            bytes.truncate(at);
            "the end"
        }
        6 => {
            // As a file system truncates: at a page, or at a page of the log.
            let (size, header) = dice.one_of(&[(PAGE, 0), FRAME]);
            let pages = bytes.len().saturating_sub(header) / size;
            bytes.truncate(header + dice.roll(pages) * size);
            "the last pages"
        }
        7 => {
            bytes.extend((0..1 + dice.roll(3 * PAGE)).map(|_| dice.roll(256) as u8));
            "more bytes at the end"
        }
        8 => {
            let from = dice.roll(bytes.len() - (end - at));
            bytes.copy_within(at..end, from);
            "a piece elsewhere"
        }
        9 => swap_pages(bytes, dice),
        _ => old_page(bytes, other, dice),
    }
}

fn swap_pages(bytes: &mut [u8], dice: &mut Dice) -> &'static str {
    let (size, header) = dice.one_of(&[(PAGE, 0), FRAME]);
    let pages = bytes.len().saturating_sub(header) / size;
    let (a, b) = (dice.roll(pages), dice.roll(pages));
    for i in (0..size).filter(|_| pages > 1) {
        bytes.swap(header + a * size + i, header + b * size + i);
    }
    "two pages changed places"
}

/// A write that the disk lost, or put into the wrong file.
fn old_page(bytes: &mut [u8], other: Option<&Vec<u8>>, dice: &mut Dice) -> &'static str {
    let Some(other) = other else { return "nothing" };
    let (size, header) = dice.one_of(&[(PAGE, 0), FRAME]);
    let pages = bytes.len().min(other.len()).saturating_sub(header) / size;
    if pages > 0 {
        let from = header + dice.roll(pages) * size;
        bytes[from..from + size].copy_from_slice(&other[from..from + size]);
    }
    "a page of another journal or time"
}

fn files(path: &Path, loot: &Loot<'_>, dice: &mut Dice) -> String {
    let mut files = loot.now.files.clone();
    let suffix = target(&files, dice);
    let (other, name) = dice.one_of(&[(loot.older, "older"), (loot.foreign, "another's")]);
    let keep = |files: &mut Files, suffix: &'static str| {
        files.remove(suffix);
        files.extend(loot.now.files.get(suffix).map(|bytes| (suffix, bytes.clone())));
    };
    let what = match dice.roll(9) {
        0 => {
            files.remove(suffix);
            format!("`{suffix}` is deleted")
        }
        1 => {
            files.retain(|_, _| dice.roll(2) == 0);
            "some are deleted".into()
        }
        2 => {
            files.insert(suffix, Vec::new());
            format!("`{suffix}` is empty")
        }
        3 => {
            files.remove(suffix);
            files.extend(other.files.get(suffix).map(|bytes| (suffix, bytes.clone())));
            format!("{name} `{suffix}`")
        }
        4 => {
            files = other.files.clone();
            keep(&mut files, ".lock");
            format!("{name} files under the lock file of this one")
        }
        5 => {
            files = other.files.clone();
            let suffix = dice.one_of(&FILES);
            keep(&mut files, suffix);
            format!("{name} files, but for `{suffix}`")
        }
        6 => {
            files = other.files.clone();
            format!("{name} files")
        }
        7 => {
            files.insert(".key", format!("{:064x}\n", dice.roll(usize::MAX)).into_bytes());
            "another key".into()
        }
        _ => {
            image::put(&files, path);
            return odd(path, suffix, dice);
        }
    };
    image::put(&files, path);
    what
}

/// Something that is no private file stands in the place of one.
fn odd(path: &Path, suffix: &str, dice: &mut Dice) -> String {
    let file = image::beside(path, suffix);
    match dice.roll(4) {
        0 => {
            fs::set_permissions(image::beside(path, ".key"), fs::Permissions::from_mode(0o644))
                .expect("sets");
            "others can read the key".into()
        }
        1 => {
            fs::remove_file(&file).expect("it is there");
            fs::create_dir(&file).expect("makes");
            format!("a folder in the place of `{suffix}`")
        }
        2 => {
            fs::remove_file(&file).expect("it is there");
            std::os::unix::fs::symlink("nowhere", &file).expect("links");
            format!("a link to nothing in the place of `{suffix}`")
        }
        _ => {
            fs::hard_link(path, image::beside(path, ".copy")).expect("links");
            "a second name".into()
        }
    }
}

/// Changes rows with SQL: the file stays a sound database.
fn rows(path: &Path, loot: &Loot<'_>, dice: &mut Dice) -> String {
    image::put(&loot.now.files, path);
    let journal = Connection::open(path).expect("opens");
    let last: usize = journal.query_row("SELECT max(seq) FROM entry", [], |r| r.get(0)).expect("entries");
    // The rules of a sound database are no help to a tamperer.
    journal.execute_batch("PRAGMA foreign_keys = OFF").expect("sets");
    let seq = 1 + dice.roll(last);
    let (sql, what) = match dice.roll(24) {
        0..=7 => moved(&journal, dice, last),
        8..=12 => changed(dice, last),
        13..=15 => (String::new(), another(&journal, path, loot, dice, seq)),
        16..=20 => about(dice, last),
        _ => (String::new(), forge(&journal, path, dice, seq)),
    };
    journal.execute_batch(&sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    journal.close().expect("closes");
    what.to_owned()
}

/// Statements after which a column of two entries has changed places.
fn swap(column: &str, a: i64, b: i64) -> String {
    format!(
        "CREATE TEMP TABLE t AS SELECT seq, {column} v FROM entry WHERE seq IN ({a}, {b});
         UPDATE entry SET {column} = (SELECT v FROM t WHERE seq = {a}) WHERE seq = {b};
         UPDATE entry SET {column} = (SELECT v FROM t WHERE seq = {b}) WHERE seq = {a};
         DROP TABLE t;"
    )
}

/// Statements after which two rows have exchanged their numbers.
fn renumber(table: &str, column: &str, a: i64, b: i64) -> String {
    format!(
        "UPDATE {table} SET {column} = -1 WHERE {column} = {a}; UPDATE {table} SET {column} = {a} WHERE {column} = {b};
         UPDATE {table} SET {column} = {b} WHERE {column} = -1"
    )
}

/// Entries are gone, or stand elsewhere.
fn moved(journal: &Connection, dice: &mut Dice, last: usize) -> (String, &'static str) {
    let (a, b) = (1 + dice.roll(last) as i64, 1 + dice.roll(last) as i64);
    match dice.roll(8) {
        0 => (format!("DELETE FROM entry WHERE seq = {a}"), "an entry is taken out"),
        1 => (
            format!("DELETE FROM entry WHERE seq > {a}; UPDATE journal SET head_seq = {a}"),
            "the last entries are taken out, and the count set back",
        ),
        2 => (renumber("entry", "seq", a, b), "two entries change places"),
        3 => (swap("body", a, b), "two bodies change places"),
        4 => {
            let seals = pair(journal, "SELECT seq FROM entry WHERE sealed = 1", dice);
            let both = seals.map(|(a, b)| swap("body", a, b) + &swap("hash", a, b));
            (both.unwrap_or_default(), "two seals change places")
        }
        5 => (swap("device", a, b), "an entry is given to another device"),
        6 => {
            let devices = pair(journal, "SELECT id FROM device", dice);
            let renumbered = devices.map(|(a, b)| renumber("device", "id", a, b));
            (renumbered.unwrap_or_default(), "two devices change names")
        }
        _ => (
            format!(
                "INSERT INTO entry SELECT {last} + 1, at, device, kind, sealed, body, hash FROM entry WHERE seq = {a};
                 UPDATE journal SET head_seq = {last} + 1"
            ),
            "an entry stands there again",
        ),
    }
}

/// An entry or a device is another.
fn changed(dice: &mut Dice, last: usize) -> (String, &'static str) {
    let seq = 1 + dice.roll(last);
    match dice.roll(5) {
        0 => (format!("UPDATE entry SET kind = 'finished' WHERE seq = {seq}"), "a kind is changed"),
        1 => (format!("UPDATE entry SET at = at + 1 WHERE seq = {seq}"), "a time is changed"),
        2 => (
            format!("UPDATE entry SET sealed = 1 - sealed WHERE seq = {seq}"),
            "a seal is called an event, or the reverse",
        ),
        3 => {
            let body = dice.one_of(&["x''", "zeroblob(30000000)", "x'00ff'", "CAST('{}' AS BLOB)"]);
            (format!("UPDATE entry SET body = {body} WHERE seq = {seq}"), "a body is another")
        }
        _ => (
            "UPDATE device SET device = device || 'x' WHERE id = (SELECT max(id) FROM device)".into(),
            "a device is renamed",
        ),
    }
}

/// What the journal says of itself is another, or its tables are; or it was only tidied up.
fn about(dice: &mut Dice, last: usize) -> (String, &'static str) {
    match dice.roll(5) {
        0 => {
            let (column, length) = dice.one_of(&[("id", 16), ("key_check", 40), ("head_tag", 40)]);
            let bytes: Vec<u8> = (0..length).map(|_| dice.roll(256) as u8).collect();
            let sql = format!("UPDATE journal SET {column} = x'{}'", hex::encode(bytes));
            (sql, "something random about the journal itself")
        }
        1 => {
            let count = dice.one_of(&[0, last - 1, last + 1, i64::MAX as usize]);
            (format!("UPDATE journal SET head_seq = {count}"), "the count is another")
        }
        2 => {
            let number = dice.one_of(&[0, 2, 3, 1000, -1, i32::MAX]);
            let name = dice.one_of(&["user_version", "application_id"]);
            (format!("PRAGMA {name} = {number}"), "another format or program")
        }
        3 => {
            let sql = dice.one_of(&[
                "CREATE TABLE more (x)",
                "CREATE VIEW more AS SELECT 1",
                "CREATE INDEX more ON entry (at)",
                "CREATE TRIGGER more AFTER INSERT ON entry BEGIN DELETE FROM entry; END",
                "INSERT INTO journal SELECT * FROM journal",
                "INSERT INTO device (application, device) VALUES ('fleet-lab', 'nobody')",
                "DROP INDEX entry_device",
                "DELETE FROM journal",
            ]);
            (sql.into(), "more or less than a journal has")
        }
        _ => {
            let sql = dice.one_of(&[
                "VACUUM",
                "REINDEX",
                "PRAGMA page_size = 1024; VACUUM",
                "PRAGMA auto_vacuum = 1; VACUUM",
            ]);
            (sql.into(), "nothing but tidied up")
        }
    }
}

/// Two different values of a query, when there are two.
fn pair(journal: &Connection, query: &str, dice: &mut Dice) -> Option<(i64, i64)> {
    let mut statement = journal.prepare(query).expect("prepares");
    let all: Vec<i64> =
        statement.query_map([], |r| r.get(0)).expect("reads").map(|v| v.expect("a number")).collect();
    let (a, b) = (dice.roll(all.len()), dice.roll(all.len().saturating_sub(1)));
    (all.len() > 1).then(|| (all[a], all[if b < a { b } else { b + 1 }]))
}

/// Rows of another journal, or of an earlier time of this one.
fn another(journal: &Connection, path: &Path, loot: &Loot<'_>, dice: &mut Dice, at: usize) -> &'static str {
    let other = image::beside(path, ".other");
    let private = |file: &Path| {
        let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(file, owner_only).expect("ours");
    };
    let from = dice.one_of(&[loot.older, loot.foreign]);
    for suffix in ["", "-wal"] {
        from.files.get(suffix).iter().for_each(|bytes| {
            fs::write(image::beside(&other, suffix), bytes).expect("writes");
            private(&image::beside(&other, suffix));
        });
    }
    journal.execute("ATTACH ?1 AS other", params![other.to_str()]).expect("attaches");
    let (sql, what) = match dice.roll(5) {
        0 => (
            format!("INSERT OR REPLACE INTO entry SELECT * FROM other.entry WHERE seq = {at}"),
            "an entry of another journal or time",
        ),
        1 => (
            format!(
                "DELETE FROM entry WHERE seq > {at}; INSERT INTO entry SELECT * FROM other.entry WHERE seq > {at};
                 UPDATE journal SET head_seq = (SELECT max(seq) FROM entry)"
            ),
            "the last entries of another journal or time",
        ),
        2 => (
            "DELETE FROM entry; INSERT INTO entry SELECT * FROM other.entry;
             UPDATE journal SET head_seq = (SELECT max(seq) FROM entry)"
                .to_owned(),
            "all entries of another journal or time",
        ),
        3 => (
            "DELETE FROM journal; INSERT INTO journal SELECT * FROM other.journal".to_owned(),
            "the row about itself of another journal or time",
        ),
        _ => (
            "UPDATE journal SET head_tag = (SELECT head_tag FROM other.journal)".to_owned(),
            "the tag of another journal or time",
        ),
    };
    journal.execute_batch(&sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    journal.execute_batch("DETACH other").expect("detaches");
    what
}

/// A change, and every hash made anew; sometimes the lock file too.
fn forge(journal: &Connection, path: &Path, dice: &mut Dice, at: usize) -> &'static str {
    let sql = match dice.roll(4) {
        0 => format!("DELETE FROM entry WHERE seq > {at}"),
        1 => format!("UPDATE entry SET body = CAST(body || ' ' AS BLOB) WHERE seq = {at}"),
        2 => format!("DELETE FROM entry WHERE seq = {at}; UPDATE entry SET seq = seq - 1 WHERE seq > {at}"),
        _ => "INSERT INTO entry SELECT seq + 1, at, device, kind, sealed, body, hash FROM entry
              ORDER BY seq DESC LIMIT 1"
            .to_owned(),
    };
    journal.execute_batch(&sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    let (seq, hash) = reader::rehash(journal);
    if dice.roll(2) == 0 {
        return FORGED;
    }
    let lock = format!("head {seq:020} {}\nclosed by nobody, process 1\n", hex::encode(hash));
    fs::write(image::beside(path, ".lock"), lock).expect("writes");
    FORGED_TOO
}

/// Only the key tells: `status`, which has none, may be taken in.
pub const FORGED: &str = "a forged history";
pub const FORGED_TOO: &str = "a forged history with a forged lock file";
