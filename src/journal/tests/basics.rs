//! Appending, sealing, resuming, locking, pins and permissions.

use std::{collections::HashMap, fs, os::unix::fs::PermissionsExt as _, path::Path};

use proptest::prelude::*;

use super::*;
use crate::model::secret::Secret;

#[test]
fn what_was_written_is_there_after_reopening() {
    let place = Place::new();
    let Opened { mut journal, resumed } = place.try_open().expect("new");
    assert!(!resumed);
    let run = journal.run_id();
    let first = journal.append(&device("a"), "planned", b"{\"n\":1}").expect("writes");
    let second = journal.append(&device("b"), "planned", b"{}").expect("writes");
    assert_eq!(second, first + 1);
    journal.append(&DeviceKey::of_application(&device("a").application), "created", b"").expect("writes");
    let seal = journal.seal(&device("a"), "source-1", b"snapshot").expect("seals");
    journal.set_meta("api-key-id", "one").expect("writes");
    journal.set_meta("api-key-id", "two").expect("writes");
    journal.close().expect("closes");
    assert!(!place.beside("-wal").exists() && !place.beside("-shm").exists(), "one file at rest");

    let Opened { mut journal, resumed } = place.try_open().expect("resumes");
    assert!(resumed);
    assert_eq!(journal.run_id(), run);
    assert_eq!(journal.devices().expect("reads"), [device("a"), device("b"), device("")]);
    journal.append(&device("a"), "done", b"x").expect("writes");
    let events = journal.events(&device("a")).expect("reads");
    assert_eq!(bodies(&events), [("planned", b"{\"n\":1}".as_slice()), ("done", b"x")]);
    assert_eq!(events[0].seq, first);
    assert_eq!(journal.events(&device("nobody")).expect("reads"), []);
    assert_eq!(journal.unseal(seal).expect("opens").as_slice(), b"snapshot");
    assert_eq!(journal.meta("api-key-id").expect("reads").as_deref(), Some("two"));
    assert_eq!(journal.meta("other").expect("reads"), None);
    assert_eq!(journal.openings().expect("reads").len(), 2);
}

/// No test can cut the power, so at least the settings that the argument of `docs/journal.md` rests on are pinned.
#[test]
fn commits_are_synced() {
    let place = Place::new();
    for _ in 0..2 {
        let journal = place.open();
        let setting = |name| format::pragma::<i64>(&journal.connection, name).expect("reads");
        assert_eq!(format::pragma::<String>(&journal.connection, "journal_mode").expect("reads"), "wal");
        assert_eq!(
            [setting("synchronous"), setting("fullfsync"), setting("checkpoint_fullfsync")],
            [3, 1, 1]
        );
    }
}

#[test]
fn every_version_of_a_seal_is_kept_and_the_newest_is_found() {
    let place = Place::new();
    let mut journal = place.open();
    let one = journal.seal(&device("a"), "source-1", b"one").expect("seals");
    let two = journal.seal(&device("a"), "source-1", b"two").expect("seals");
    journal.seal(&device("a"), "target-1", b"three").expect("seals");
    journal.seal(&device("b"), "source-1", b"four").expect("seals");
    let (id, plain) = journal.latest_seal(&device("a"), "source-1").expect("reads").expect("there");
    assert_eq!((id, plain.as_slice()), (two, b"two".as_slice()));
    assert_eq!(journal.unseal(one).expect("opens").as_slice(), b"one");
    assert!(journal.latest_seal(&device("b"), "target-1").expect("reads").is_none());
    let kinds: Vec<_> = journal.seals(&device("a")).expect("reads").into_iter().map(|s| s.kind).collect();
    assert_eq!(kinds, ["source-1", "source-1", "target-1"]);
    let event = journal.append(&device("a"), "done", b"").expect("writes");
    assert_eq!(journal.unseal(event).expect_err("an event").kind, ErrorKind::NoSuchSeal(event));
    assert_eq!(journal.unseal(99).expect_err("nothing").kind, ErrorKind::NoSuchSeal(99));
}

#[test]
fn status_reads_while_a_run_writes() {
    let place = Place::new();
    assert_eq!(View::open(&place.path).expect_err("nothing there").kind, ErrorKind::Missing);
    let mut journal = place.open();
    journal.append(&device("a"), "planned", b"1").expect("writes");
    let view = View::open(&place.path).expect("reads");
    journal.append(&device("a"), "done", b"2").expect("writes beside a reader");
    assert_eq!(view.events(&device("a")).expect("reads").len(), 2);
    assert_eq!(view.run_id(), journal.run_id());
    let holder = view.held_by().expect("a run works");
    assert!(holder.contains(&format!("process {}", std::process::id())), "{holder}");
    drop(journal);
    assert_eq!(view.held_by(), None);
    drop(view);
    // The reader kept the last run from tidying up; the next one does.
    drop(place.open());
    let view = View::open(&place.path).expect("reads at rest");
    assert_eq!(view.events(&device("a")).expect("reads").len(), 2);
    assert!(!place.beside("-shm").exists(), "reading at rest leaves nothing behind");
}

#[test]
fn a_run_that_starts_while_status_reads_waits_for_it() {
    let place = Place::new();
    drop(place.open());
    let view = View::open(&place.path).expect("reads");
    let reading = view.connection.unchecked_transaction().expect("begins");
    let count = || view.connection.query_row("SELECT count(*) FROM entry", [], |row| row.get::<_, u64>(0));
    let before = count().expect("reads");
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| place.try_open().map(drop));
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert_eq!(count().expect("reads"), before);
        drop(reading);
        starting.join().expect("no panic").expect("starts when the reader is done");
    });
}

#[test]
fn a_second_run_is_refused_and_told_who_has_the_journal() {
    let place = Place::new();
    let journal = place.open();
    let error = place.try_open().expect_err("locked");
    let ErrorKind::Locked { by } = &error.kind else { panic!("{error}") };
    assert!(by.contains("process") && by.contains(", since 20"), "{by}");
    // Another name of the same file is the same journal.
    let link = place.folder.path().join("link");
    std::os::unix::fs::symlink(&place.path, &link).expect("links");
    let by_link = Journal::open(&link, &SealKeyRef::Beside, &Pins::default(), &Who::current(), &[]);
    assert!(matches!(by_link.expect_err("locked").kind, ErrorKind::Locked { .. }));
    drop(journal);
    place.open();
}

#[test]
fn changed_pins_are_listed_and_must_be_accepted_by_name() {
    let place = Place::new();
    drop(place.try_open_for(&[("source", "a"), ("target", "b")], &[]).expect("new"));
    drop(place.try_open_for(&[("target", "b"), ("source", "a")], &[]).expect("the same, in another order"));
    let now = [("source", "a"), ("target", "c"), ("session", "drop")];
    let error = place.try_open_for(&now, &["session"]).expect_err("changed");
    assert_eq!(
        error.to_string().split_once("` ").expect("a path first").1,
        "was made for another configuration: target was `b`, is `c`"
    );
    let ErrorKind::Changed(changes) = place.try_open_for(&[("source", "a")], &[]).expect_err("less").kind
    else {
        panic!("another error")
    };
    assert_eq!(changes, [PinChange { key: "target".into(), was: Some("b".into()), is: None }]);
    let journal = place.try_open_for(&now, &["session", "target"]).expect("accepted").journal;
    assert_eq!(journal.pins().expect("reads").items.len(), 3);
    drop(journal);
    drop(place.try_open_for(&now, &[]).expect("accepted once is enough"));
    drop(place.try_open_for(&[("source", "a")], &["session", "target"]).expect("accepted"));
    drop(place.try_open_for(&[("source", "a")], &[]).expect("pins that went stay away"));
}

#[test]
fn a_wrong_key_is_named_when_the_journal_is_opened() {
    let place = Place::new();
    let open = |text: &str| {
        let key = SealKeyRef::Given(Secret::new(text));
        Journal::open(&place.path, &key, &Pins::default(), &Who::current(), &[])
    };
    let hex = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";
    let mut journal = open(&format!("{hex}\n")).expect("new").journal;
    let seal = journal.seal(&device("a"), "source-1", b"snapshot").expect("seals");
    drop(journal);
    assert!(!place.beside(".key").exists());
    assert_eq!(open(&hex.replace("AA", "AB")).expect_err("wrong").kind, ErrorKind::WrongKey);
    for bad in ["", "secret", "00112233", &hex[1..], &hex.replace('0', "g")] {
        assert_eq!(open(bad).expect_err("no key").kind, ErrorKind::BadKey, "{bad}");
    }
    let base64 = "ABEiM0RVZneImaq7zN3u/wARIjNEVWZ3iJmqu8zd7v8";
    for same in [base64.to_owned(), format!("{base64}="), base64.replace('/', "_")] {
        let journal = open(&same).expect("the same key").journal;
        assert_eq!(journal.unseal(seal).expect("opens").as_slice(), b"snapshot");
    }
    assert_eq!(
        place.refused(),
        ErrorKind::KeyMissing(place.path.canonicalize().expect("there").with_extension("journal.key"))
    );
}

#[test]
fn nobody_else_may_read_any_of_the_files() {
    let place = Place::new();
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o7777;
    let journal = place.open();
    for suffix in ["", "-wal", "-shm", ".lock", ".key"] {
        assert_eq!(mode(&place.beside(suffix)), 0o600, "{suffix}");
    }
    drop(journal);
    fs::set_permissions(&place.path, fs::Permissions::from_mode(0o644)).expect("loosens");
    drop(place.open());
    assert_eq!(mode(&place.path), 0o600);
    fs::set_permissions(place.beside(".key"), fs::Permissions::from_mode(0o640)).expect("loosens");
    let error = place.try_open().expect_err("exposed");
    assert!(matches!(error.kind, ErrorKind::KeyExposed { mode: 0o640, .. }), "{error}");
    assert!(error.hint().starts_with("run `chmod 600 ") && error.hint().ends_with("acme.journal.key`"));
}

#[test]
fn entries_that_are_too_large_are_refused_and_the_journal_goes_on() {
    let place = Place::new();
    let mut journal = place.open();
    let error = journal.append(&device("a"), "big", &vec![0; MAX_EVENT + 1]).expect_err("too large");
    assert_eq!(error.kind, ErrorKind::TooLarge { bytes: MAX_EVENT + 1, limit: MAX_EVENT });
    journal.append(&device("a"), "big", &vec![0; MAX_EVENT]).expect("fits");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// A model: whatever is appended, in whatever groups and over however many openings, comes back per device in order.
    #[test]
    fn replay_gives_each_device_its_events_in_order(
        openings in prop::collection::vec(
            prop::collection::vec(
                prop::collection::vec((0..5_u8, "[a-z]{1,8}", prop::collection::vec(any::<u8>(), 0..40), any::<bool>()), 0..6),
                0..6,
            ),
            1..4,
        ),
    ) {
        let place = Place::new();
        let mut model: HashMap<DeviceKey, Vec<(String, Vec<u8>, bool)>> = HashMap::new();
        for groups in openings {
            let mut journal = place.open();
            for group in groups {
                let writes: Vec<_> = group.iter().map(|(d, kind, body, sealed)| {
                    let device = device(&format!("dev-{d}"));
                    if *sealed { Write::seal(&device, kind, body) } else { Write::event(&device, kind, body.clone()) }
                }).collect();
                let seqs = journal.write(&writes).expect("writes");
                prop_assert_eq!((seqs.end - seqs.start) as usize, group.len());
                for (d, kind, body, sealed) in group {
                    model.entry(device(&format!("dev-{d}"))).or_default().push((kind, body, sealed));
                }
            }
            let mut found: HashMap<DeviceKey, Vec<(String, Vec<u8>, bool)>> = HashMap::new();
            journal.for_each_device::<Error>(|device, events| {
                let mut all: Vec<_> = events.into_iter().map(|e| (e.seq, (e.kind, e.body, false))).collect();
                for seal in journal.seals(&device)? {
                    all.push((seal.id, (seal.kind, journal.unseal(seal.id)?.to_vec(), true)));
                }
                all.sort_by_key(|(seq, _)| *seq);
                found.insert(device, all.into_iter().map(|(_, entry)| entry).collect());
                Ok(())
            }).expect("replays");
            prop_assert_eq!(&found, &model);
        }
    }
}
