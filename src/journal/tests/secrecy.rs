//! What is sealed is nowhere else, and cannot be exchanged or rewritten without the key.

use std::fs;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use rusqlite::{Connection, params};

use super::*;
use crate::{
    journal::{
        format::{Entry, Head, Stored},
        seal::Sealer,
    },
    model::secret::Secret,
};

/// The forms in which a secret could lie in a file.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut forms =
        vec![secret.to_vec(), hex::encode(secret).into_bytes(), hex::encode_upper(secret).into_bytes()];
    // In base64 a text looks different at each of three offsets; its ends depend on what stands beside it.
    for offset in 0..3 {
        let text = STANDARD_NO_PAD.encode([&vec![0; offset], secret].concat());
        forms.push(text[[0, 2, 3][offset]..text.len() - 2].into());
    }
    forms
}

fn files_with(place: &Place, secret: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(&place.folder).expect("lists") {
        let path = entry.expect("lists").path();
        let bytes = fs::read(&path).expect("reads");
        if forms(secret).iter().any(|form| bytes.windows(form.len()).any(|w| w == form.as_slice())) {
            found.push(path.extension().expect("has one").to_string_lossy().into_owned());
        }
    }
    found.sort();
    found
}

#[test]
fn what_is_sealed_is_in_no_file() {
    let place = Place::new();
    let secret = b"\x2b\x7e\x15\x16\x28\xae\xd2\xa6\xab\xf7\x15\x88\x09\xcf\x4f\x3c";
    let mut journal = place.open();
    for form in forms(secret) {
        journal.seal(&device("a"), "source-1", &form).expect("seals");
        journal.seal(&device("a"), "source-1", &[b"key: ".as_slice(), &form, b"; "].concat()).expect("seals");
    }
    let sealed = journal.latest_seal(&device("a"), "source-1").expect("reads").expect("there").1;
    assert!(sealed.starts_with(b"key: "));
    assert_eq!(files_with(&place, secret), [""; 0], "while the run works");
    // The search finds what is there: each form, put where it must not be.
    for (i, form) in forms(b"canary canary canary").into_iter().enumerate() {
        assert!(i > 0 || files_with(&place, b"canary canary canary").is_empty());
        journal.append(&device("a"), "leak", &form).expect("writes");
        assert_eq!(files_with(&place, b"canary canary canary"), ["journal-wal"]);
    }
    drop(journal);
    assert_eq!(files_with(&place, secret), [""; 0], "at rest");
    assert_eq!(files_with(&place, b"canary canary canary"), ["journal"]);
    let key = hex::decode(fs::read_to_string(place.beside(".key")).expect("reads").trim()).expect("hex");
    assert_eq!(files_with(&place, &key), ["key"]);
}

#[test]
fn nothing_secret_is_in_a_debug_text() {
    let place = Place::new();
    let key =
        SealKeyRef::Given(Secret::new("00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"));
    let opened = Journal::open(&place.path, &key, &Pins::default(), &Who::current(), &[]).expect("opens");
    let paths = files::Paths::new(&place.path).expect("a folder");
    let sealer = Sealer::resolve(&key, &paths, false).expect("a key");
    let write = Write::seal(&device("a"), "source-1", b"plain");
    let text = format!("{key:?} {opened:?} {write:?} {sealer:?}");
    assert!(!text.contains("0011") && !text.contains("[0, 17,") && !text.contains("plain"), "{text}");
    assert!(!text.contains(&format!("{:?}", b"plain")), "{text}");
}

/// What holds a key or plain text wipes it when it goes: the compiler says so.
#[test]
fn keys_and_plain_texts_are_wiped() {
    fn is_wiped<T: zeroize::ZeroizeOnDrop>() {}
    is_wiped::<chacha20poly1305::XChaCha20Poly1305>();
    is_wiped::<Plain>();
    is_wiped::<Secret>();
}

#[test]
fn a_seal_opens_only_in_its_own_place() {
    let place = Place::new();
    drop(place.open());
    let paths = files::Paths::new(&place.path).expect("a folder");
    let sealer = Sealer::resolve(&SealKeyRef::Beside, &paths, false).expect("there");
    let (a, b, id) = (device("a"), device("b"), [1; 16]);
    let entry = |device, kind| Entry { at: 0, device: Some(device), kind, sealed: true, body: b"" };
    let context = entry(&a, "source-1").context(&id, 7);
    let sealed = sealer.seal(&place.path, &context, b"plain").expect("seals");
    assert_eq!(sealer.unseal(&context, &sealed).expect("opens").as_slice(), b"plain");
    for other in [
        entry(&a, "source-1").context(&id, 8),
        entry(&a, "source-1").context(&[2; 16], 7),
        entry(&b, "source-1").context(&id, 7),
        entry(&a, "source-2").context(&id, 7),
        entry(&DeviceKey::new("ap", "pa"), "source-1").context(&id, 7),
    ] {
        assert!(sealer.unseal(&other, &sealed).is_none());
    }
    for bit in 0..sealed.len() * 8 {
        let mut flipped = sealed.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(sealer.unseal(&context, &flipped).is_none(), "bit {bit}");
    }
    assert!(sealer.unseal(&context, &sealed[..20]).is_none());
    assert_ne!(sealer.seal(&place.path, &context, b"plain").expect("seals"), sealed, "a nonce is used once");
}

/// Somebody who can write the file, but has no key, cannot change the history, not even with all hashes made anew.
#[test]
fn a_history_that_was_rewritten_without_the_key_is_refused() {
    let place = Place::new();
    let mut journal = place.open();
    journal.append(&device("a"), "verified", b"no").expect("writes");
    let genesis = journal.genesis;
    drop(journal);
    let forge = Connection::open(&place.path).expect("opens");
    forge.execute("UPDATE entry SET body = x'796573' WHERE kind = 'verified'", []).expect("forges");
    assert!(matches!(place.refused(), ErrorKind::Damaged(what) if what.contains("is not what was written")));
    let mut head: Head = genesis;
    let mut statement = forge.prepare("SELECT * FROM entry ORDER BY seq").expect("prepares");
    let entries: Vec<Stored> =
        statement.query_map([], Stored::read).expect("reads").collect::<Result<_, _>>().expect("reads");
    for entry in &entries {
        head = head.then(&entry.entry(entry.device.map(|_| device("a")).as_ref()));
        forge
            .execute("UPDATE entry SET hash = ?1 WHERE seq = ?2", params![head.hash, head.seq])
            .expect("forges");
    }
    fs::remove_file(place.beside(".lock")).expect("forges");
    let without_key = View::open(&place.path).expect("the hashes are right");
    assert_eq!(bodies(&without_key.events(&device("a")).expect("reads")), [("verified", b"yes".as_slice())]);
    assert_eq!(place.refused(), ErrorKind::Damaged("its history was not written with its key".into()));
}
