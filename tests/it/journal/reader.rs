//! A second reader of the format, made from `docs/journal.md` alone: it agrees with the first, or the page is wrong.

use std::{collections::BTreeSet, fs, path::Path};

use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305,
    aead::{Aead as _, Payload},
};
use rusqlite::{Connection, params};
use sha2::{Digest as _, Sha256};
use stackferry::journal::DeviceKey;

use super::image::{self, Entry, Image};

/// A row of `entry`, with its device's names.
#[derive(Debug, Clone)]
pub struct Raw {
    pub seq: u64,
    pub at: i64,
    pub device: Option<(String, String)>,
    pub kind: String,
    pub sealed: bool,
    pub body: Vec<u8>,
    pub hash: Vec<u8>,
}

/// The row of `journal`.
#[derive(Debug, Clone)]
pub struct Own {
    pub id: Vec<u8>,
    pub key_check: Vec<u8>,
    pub head_seq: u64,
    pub head_tag: Vec<u8>,
}

fn len(bytes: &[u8]) -> [u8; 8] {
    (bytes.len() as u64).to_be_bytes()
}

impl Raw {
    fn place(&self) -> Vec<u8> {
        let mut place = self.seq.to_be_bytes().to_vec();
        let names = self.device.iter().flat_map(|(application, device)| [application, device]);
        for text in names.chain([&self.kind]) {
            place.extend(len(text.as_bytes()));
            place.extend(text.as_bytes());
        }
        place.push(u8::from(self.device.is_some()));
        place
    }

    fn hash_after(&self, before: &[u8]) -> Vec<u8> {
        let sealed = [u8::from(self.sealed)];
        let parts: [&[u8]; 6] =
            [before, &self.place(), &self.at.to_be_bytes(), &sealed, &len(&self.body), &self.body];
        Sha256::digest(parts.concat()).to_vec()
    }
}

impl Own {
    fn hash_0(&self) -> Vec<u8> {
        let parts: [&[u8]; 4] = [b"stackferry journal 1", &self.id, &len(&self.key_check), &self.key_check];
        Sha256::digest(parts.concat()).to_vec()
    }
}

/// Every row, in order.
pub fn rows(journal: &Connection) -> (Own, Vec<Raw>) {
    let own = journal
        .query_row("SELECT id, key_check, head_seq, head_tag FROM journal", [], |r| {
            Ok(Own { id: r.get(0)?, key_check: r.get(1)?, head_seq: r.get(2)?, head_tag: r.get(3)? })
        })
        .expect("one row");
    let all = "SELECT seq, at, d.application, d.device, kind, sealed, body, hash
               FROM entry e LEFT JOIN device d ON d.id = e.device ORDER BY seq";
    let mut statement = journal.prepare(all).expect("the tables are there");
    let rows = statement.query_map([], |r| {
        let device = r.get::<_, Option<String>>(2)?.zip(r.get::<_, Option<String>>(3)?);
        let (sealed, body, hash) = (r.get(5)?, r.get(6)?, r.get(7)?);
        Ok(Raw { seq: r.get(0)?, at: r.get(1)?, device, kind: r.get(4)?, sealed, body, hash })
    });
    (own, rows.expect("reads").collect::<Result<_, _>>().expect("reads"))
}

/// What a forger without the key can do: makes every hash anew, so that the history is consistent again. Returns the
/// last number and hash.
pub fn rehash(journal: &Connection) -> (u64, Vec<u8>) {
    let (own, rows) = rows(journal);
    let mut hash = own.hash_0();
    for row in &rows {
        hash = row.hash_after(&hash);
        journal.execute("UPDATE entry SET hash = ?1 WHERE seq = ?2", params![hash, row.seq]).expect("forges");
    }
    let last = rows.last().map_or(0, |row| row.seq);
    journal.execute("UPDATE journal SET head_seq = ?1", [last]).expect("forges");
    (last, hash)
}

fn unseal(key: &[u8], context: &[&[u8]], sealed: &[u8]) -> Vec<u8> {
    let key: [u8; 32] = key.try_into().expect("32 bytes");
    let nonce: [u8; 24] = sealed[..24].try_into().expect("24 bytes");
    let payload = Payload { msg: &sealed[24..], aad: &context.concat() };
    XChaCha20Poly1305::new(&key.into()).decrypt(&nonce.into(), payload).expect("it opens in its place")
}

/// Everything of `journal`, by the page; panics where the page is wrong.
fn read(path: &Path) -> Vec<Entry> {
    let journal = Connection::open(path).expect("opens");
    let number = |name| journal.pragma_query_value(None, name, |r| r.get::<_, i64>(0)).expect("reads");
    assert_eq!((number("application_id"), number("user_version")), (0x5346_4a4c, 1));
    let key = fs::read_to_string(image::beside(path, ".key")).expect("reads");
    let key = hex::decode(key.trim()).expect("hexadecimal");
    let (own, rows) = rows(&journal);
    let empty: [u8; 0] = [];
    assert_eq!(unseal(&key, &[b"stackferry journal 1 key", &own.id], &own.key_check), empty);
    let mut hash = own.hash_0();
    let (mut entries, mut nonces) = (Vec::new(), BTreeSet::new());
    for (n, row) in rows.into_iter().enumerate() {
        assert_eq!(row.seq, n as u64 + 1, "without gaps");
        hash = row.hash_after(&hash);
        assert_eq!(row.hash, hash);
        let Some((application, device)) = row.device.clone() else {
            let known = ["created", "opened"].contains(&row.kind.as_str())
                || ["pin/", "meta/application/"].iter().any(|start| row.kind.starts_with(start));
            assert!(known, "`{}` is not in docs/journal.md", row.kind);
            continue;
        };
        let plain = if row.sealed {
            assert!(nonces.insert(row.body[..24].to_vec()), "a nonce is used once");
            unseal(&key, &[b"stackferry journal 1 seal", &own.id, &row.place()], &row.body)
        } else {
            row.body
        };
        entries.push(Entry {
            seq: row.seq,
            at: jiff::Timestamp::from_millisecond(row.at).expect("a time"),
            device: DeviceKey::new(application, device),
            kind: row.kind,
            sealed: row.sealed,
            plain,
        });
    }
    let seq = own.head_seq.to_be_bytes();
    assert_eq!(unseal(&key, &[b"stackferry journal 1 head", &own.id, &seq, &hash], &own.head_tag), empty);
    entries
}

#[test]
fn the_format_is_as_the_page_has_it() {
    let last = image::of_two_runs(&[1, 4, 2], super::CONFIG, None).pop().expect("at the end");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("test.journal");
    image::put(&last, &path);
    let entries = read(&path);
    assert!(entries.iter().filter(|e| e.sealed).count() >= 9, "three seals of each device");
    assert_eq!(entries, Image::new(last).contents.entries);
}
