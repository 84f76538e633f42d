//! Each way in which a journal cannot be used is an error with a name and a hint.

use std::{
    fs, os::unix, os::unix::fs::MetadataExt as _, os::unix::fs::PermissionsExt as _,
    os::unix::process::CommandExt as _,
};

use rusqlite::Connection;

use super::*;

#[test]
fn what_is_no_journal_is_refused() {
    let place = Place::new();
    fs::create_dir(&place.path).expect("makes");
    assert_eq!(place.refused(), ErrorKind::NotAJournal("it is a folder"));
    fs::remove_dir(&place.path).expect("removes");
    fs::write(&place.path, "").expect("writes");
    assert_eq!(place.refused(), ErrorKind::NotAJournal("it is an empty file"));
    for text in ["a few words".to_owned(), "many words ".repeat(1000)] {
        fs::write(&place.path, &text).expect("writes");
        let no_database = ErrorKind::NotAJournal("it is no SQLite database, or its first page is damaged");
        assert_eq!(place.refused(), no_database);
        assert_eq!(View::open(&place.path).expect_err("no journal").kind, no_database);
        assert_eq!(fs::read_to_string(&place.path).expect("reads"), text, "left as it is");
    }
    fs::remove_file(&place.path).expect("removes");
    let other = Connection::open(&place.path).expect("opens");
    other.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)").expect("writes");
    assert_eq!(place.refused(), ErrorKind::NotAJournal("it is the database of another program"));
    unix::net::UnixListener::bind(place.beside(".socket")).expect("binds");
    let socket =
        Journal::open(&place.beside(".socket"), &SealKeyRef::Beside, &Pins::default(), &Who::current(), &[]);
    assert_eq!(socket.expect_err("no file").kind, ErrorKind::NotAJournal("it is not a regular file"));
}

#[test]
fn other_formats_are_refused_by_number() {
    for (found, hint) in [
        (0, "no version of stackferry wrote this"),
        (2, "a newer version of stackferry wrote it: update stackferry"),
    ] {
        let place = Place::new();
        drop(place.open());
        Connection::open(&place.path)
            .and_then(|c| c.pragma_update(None, "user_version", found))
            .expect("changes the version");
        let error = place.try_open().expect_err("refused");
        assert_eq!(error.kind, ErrorKind::Format { found, known: 1 });
        assert!(error.hint().starts_with(hint), "{}", error.hint());
    }
}

#[test]
fn a_missing_folder_a_broken_link_and_a_second_name_are_refused() {
    let place = Place::new();
    let nowhere = place.folder.path().join("no/such/a.journal");
    let error = Journal::open(&nowhere, &SealKeyRef::Beside, &Pins::default(), &Who::current(), &[]);
    assert!(error.expect_err("no folder").to_string().contains("failed while looking for its folder"));
    unix::fs::symlink(place.folder.path().join("unmounted"), &place.path).expect("links");
    assert_eq!(place.refused(), ErrorKind::Gone("it is a link to a file that is not there"));
    fs::remove_file(&place.path).expect("removes");
    drop(place.open());
    fs::hard_link(&place.path, place.folder.path().join("again")).expect("links");
    assert_eq!(place.refused(), ErrorKind::NotAJournal("it has a second name (a hard link)"));
}

#[test]
fn a_lost_journal_does_not_begin_anew() {
    let place = Place::new();
    drop(place.open());
    let kept = fs::read(&place.path).expect("reads");
    fs::remove_file(&place.path).expect("removes");
    assert_eq!(place.refused(), ErrorKind::Gone("its lock file tells of an earlier run"));
    fs::write(&place.path, kept).expect("puts back");
    drop(place.open());
    fs::remove_file(&place.path).expect("removes");
    fs::remove_file(place.beside(".lock")).expect("removes");
    fs::write(place.beside("-wal"), "log").expect("writes");
    assert_eq!(place.refused(), ErrorKind::Gone("its write-ahead log is still there"));
    fs::remove_file(place.beside("-wal")).expect("removes");
    assert!(!place.try_open().expect("anew, as the user wants").resumed);
}

#[test]
fn an_older_copy_is_refused() {
    let place = Place::new();
    let mut journal = place.open();
    journal.append(&device("a"), "planned", b"").expect("writes");
    drop(journal);
    let older = fs::read(&place.path).expect("reads");
    let mut journal = place.open();
    let last = journal.append(&device("a"), "cleared", b"").expect("writes");
    drop(journal);
    fs::write(&place.path, &older).expect("puts the old one back");
    assert_eq!(place.refused(), ErrorKind::Older { seq: last });
    fs::remove_file(place.beside(".lock")).expect("removes");
    drop(place.open());
}

#[test]
fn an_unfinished_creation_is_begun_again() {
    let place = Place::new();
    for (left, text) in [(".new", "torn"), (".new-journal", "torn"), (".key.new", "00"), (".lock", "")] {
        fs::write(place.beside(left), text).expect("writes");
    }
    let mut journal = place.open();
    journal.seal(&device("a"), "source-1", b"x").expect("seals");
    drop(journal);
    let mut names: Vec<_> =
        fs::read_dir(&place.folder).expect("lists").map(|e| e.expect("lists").file_name()).collect();
    names.sort();
    assert_eq!(names, ["acme.journal", "acme.journal.key", "acme.journal.lock"]);
    drop(place.open());
}

#[test]
fn a_file_that_is_removed_or_replaced_under_a_run_stops_it() {
    for (suffix, replace) in [("", false), ("", true), ("-wal", false), ("-wal", true)] {
        let place = Place::new();
        let mut journal = place.open();
        let seal = journal.seal(&device("a"), "source-1", b"x").expect("seals");
        fs::rename(place.beside(suffix), place.beside(".away")).expect("moves away");
        if replace {
            fs::copy(place.beside(".away"), place.beside(suffix)).expect("replaces");
        }
        assert!(matches!(journal.unseal(seal).expect_err("gone").kind, ErrorKind::Gone(_)));
        let error = journal.append(&device("a"), "cleared", b"").expect_err("gone");
        assert!(matches!(error.kind, ErrorKind::Gone(_)), "{error}");
        assert!(error.hint().starts_with("the run stops: nothing further is done without a journal"));
        if !replace {
            fs::rename(place.beside(".away"), place.beside(suffix)).expect("puts back");
        }
        assert_eq!(journal.append(&device("a"), "x", b"").expect_err("poisoned"), error);
        assert_eq!(journal.close().expect_err("poisoned"), error);
    }
}

#[test]
fn a_full_disk_stops_the_run_and_keeps_what_was_acknowledged() {
    let place = Place::new();
    let mut journal = place.open();
    let limit: u64 = format::pragma(&journal.connection, "page_count").expect("reads");
    journal
        .connection
        .pragma_update_and_check(None, "max_page_count", limit + 8, |_| Ok(()))
        .expect("limits");
    let mut written = Vec::new();
    let error = loop {
        match journal.append(&device("a"), "step", &[7; 3000]) {
            Ok(seq) => written.push(seq),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind, ErrorKind::Full);
    assert!(!written.is_empty() && written.len() < 20);
    assert_eq!(journal.seal(&device("a"), "source-1", b"").expect_err("poisoned"), error);
    assert_eq!(journal.failure(), Some(&error));
    drop(journal);
    let events = place.open().events(&device("a")).expect("reads");
    assert_eq!(events.iter().map(|e| e.seq).collect::<Vec<_>>(), written);
}

/// The kernel refuses to let a file grow, as a quota does.
#[test]
fn a_file_that_may_not_grow_stops_the_run_and_keeps_what_was_acknowledged() {
    let place = Place::new();
    drop(place.open());
    let inner = child("refusals::child_that_fills_the_disk", &place.path);
    let limited = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 300; exec \"$@\"", "sh"])
        .arg(inner.get_program())
        .args(inner.get_args())
        .env(CHILD, &place.path)
        .output()
        .expect("runs");
    let out = String::from_utf8_lossy(&limited.stdout);
    assert!(limited.status.success(), "{out}{}", String::from_utf8_lossy(&limited.stderr));
    let written: usize =
        out.lines().find_map(|l| l.strip_prefix("written ")).expect("said").parse().expect("a number");
    assert!(written > 0);
    assert_eq!(place.open().events(&device("a")).expect("reads").len(), written);
}

#[test]
#[ignore = "started by another test"]
fn child_that_fills_the_disk() {
    let Some(path) = path_from_parent() else { return };
    let mut journal = Journal::open(&path, &SealKeyRef::Beside, &Pins::default(), &Who::current(), &[])
        .expect("opens")
        .journal;
    let mut written = 0;
    let error = loop {
        match journal.append(&device("a"), "step", &[7; 3000]) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1000, "there is no limit");
    };
    assert!(matches!(error.kind, ErrorKind::Full | ErrorKind::Io { .. }), "{error}");
    assert_eq!(journal.append(&device("a"), "x", b"").expect_err("poisoned"), error);
    println!("\nwritten {written}");
}

/// Runs a child without the rights of the superuser, who may write everything.
fn unprivileged(test: &str, place: &Place) -> String {
    let mut command = child(test, &place.path);
    let folder = place.folder.path();
    let mine = tempfile::NamedTempFile::new().and_then(|file| file.as_file().metadata()).expect("made");
    if mine.uid() == 0 {
        // Nobody may not be able to read the folder of the test binary.
        let binary = folder.join("test-binary");
        fs::copy(command.get_program(), &binary).expect("copies");
        let mut same = Command::new(&binary);
        same.args(command.get_args()).env(CHILD, &place.path).uid(65534).gid(65534);
        command = same;
        for entry in fs::read_dir(folder).expect("lists") {
            unix::fs::chown(entry.expect("lists").path(), Some(65534), Some(65534)).expect("gives away");
        }
        unix::fs::chown(folder, Some(65534), Some(65534)).expect("gives away");
    }
    let done = command.current_dir("/").output().expect("runs");
    let out = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{out}{}", String::from_utf8_lossy(&done.stderr));
    out.lines().find_map(|line| line.strip_prefix("opening: ")).expect("said").to_owned()
}

#[test]
#[ignore = "started by another test"]
fn child_that_opens() {
    let Some(path) = path_from_parent() else { return };
    let view = View::open(&path).map(|view| view.devices().expect("reads").len());
    let opened = Journal::open(&path, &SealKeyRef::Beside, &Pins::default(), &Who::current(), &[]);
    println!("\nopening: {:?} {:?}", opened.map(|o| o.resumed).map_err(|e| e.kind), view.map_err(|e| e.kind));
}

#[test]
fn what_cannot_be_written_is_named_and_can_still_be_read() {
    let place = Place::new();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("sets");
    mode(place.folder.path(), 0o500);
    let said = unprivileged("refusals::child_that_opens", &place);
    assert!(said.starts_with("Err(ReadOnly(\"folder `") && said.ends_with(" Err(Missing)"), "{said}");
    mode(place.folder.path(), 0o700);
    place.open().append(&device("a"), "x", b"").expect("writes");
    mode(&place.path, 0o400);
    let said = unprivileged("refusals::child_that_opens", &place);
    assert_eq!(said, "Err(ReadOnly(\"the file\")) Ok(1)");
    mode(&place.path, 0o600);
    mode(place.folder.path(), 0o500);
    let said = unprivileged("refusals::child_that_opens", &place);
    assert_eq!(said, "Err(ReadOnly(\"its folder\")) Ok(1)");
    mode(place.folder.path(), 0o700);
}
