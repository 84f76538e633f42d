//! System calls that fail: locks that a network drive does not have, and syncs that a broken disk does not do.

use std::{collections::BTreeMap, process::Command};

use super::{CONFIG, DEVICES, breaches, shell, stored, watch, writes};
use crate::world::{Ran, World};

/// Fails with what to do where there is no strace.
pub fn need_strace() {
    let have = Command::new("strace").arg("--version").output();
    assert!(have.is_ok_and(|o| o.status.success()), "these tests need strace: apt-get install strace");
}

/// Runs with the built binary under strace, which makes system calls on the files of the journal fail.
fn failing(world: &World, verb: &str, files: &[&str], what: &str) -> Ran {
    need_strace();
    let call = what.split(':').next().expect("a call");
    let folder = world.dir.path().canonicalize().expect("there");
    let paths: Vec<_> =
        files.iter().map(|end| format!("--trace-path={}/test.journal{end}", folder.display())).collect();
    let (trace, inject) = (format!("--trace={call}"), format!("--inject={what}"));
    let mut wrap = vec!["strace", "-f", "-qqq", "-o", "/dev/null", &trace, &inject];
    wrap.extend(paths.iter().map(String::as_str));
    wrap.push("--");
    shell(world, verb, "true", &wrap)
}

#[test]
fn a_drive_that_cannot_lock_is_named_and_nothing_is_sent() {
    for error in ["ENOLCK", "EOPNOTSUPP", "ENOSYS"] {
        let world = World::some(&[1]);
        world.config(CONFIG);
        let ran = failing(&world, "run", &[".lock"], &format!("flock:error={error}")).expect(6);
        ran.says("cannot be locked: ").says("help: keep it on a local disk");
        assert_eq!(writes(&world), 0, "{error}");
        assert!(!world.dir.path().join("test.journal").exists());
    }
}

/// The locks that the database takes for itself, when the journal is made and when it is there.
#[test]
fn a_drive_without_record_locks_is_named_and_nothing_is_sent() {
    let mut said = BTreeMap::new();
    for (files, error) in [
        (["", ".new"], "ENOLCK"),
        (["", ".new"], "EOPNOTSUPP"),
        (["-shm", "-wal"], "ENOLCK"),
        (["-shm", "-wal"], "EOPNOTSUPP"),
    ] {
        for begun in [false, true] {
            let world = World::some(&[1]);
            world.config(&CONFIG.replace("[clear]", "[clear]\nhold = true"));
            if begun {
                world.run().expect(0);
            }
            world.config(CONFIG);
            let before = writes(&world);
            let ran = failing(&world, "run", &files, &format!("fcntl:error={error}")).expect(6);
            assert!(ran.err.contains("error: journal `") && ran.err.contains("local disk"), "{}", ran.err);
            assert_eq!(writes(&world), before);
            said.insert(
                ran.err
                    .split("journal` ")
                    .nth(1)
                    .unwrap_or_default()
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
                (),
            );
            world.run().expect(0).says("1 device moved");
        }
    }
    println!("journal: record locks that fail: {:?}", said.keys());
}

/// A disk that fails to sync once, at any time: the run ends there, and the same command goes on.
#[test]
fn a_sync_that_fails_ends_the_run_and_the_same_command_goes_on() {
    let reference = World::some(&DEVICES);
    reference.config(CONFIG);
    reference.run().expect(0);
    let mut codes = BTreeMap::new();
    for n in [1, 2, 3, 4, 5, 6, 8, 11, 16, 25, 40, 60, 1000] {
        let world = World::some(&DEVICES);
        world.config(CONFIG);
        let auditor = watch(&world);
        let files = ["", ".new", "-wal", ".key.new"];
        let ran = failing(&world, "run", &files, &format!("fsync,fdatasync:error=EIO:when={n}"));
        assert!(matches!(ran.code, Some(0 | 6)), "sync {n}: {ran:?}");
        if ran.code == Some(6) {
            assert!(ran.err.contains("error: journal `") && ran.err.contains("help: "), "{}", ran.err);
        }
        world.run().expect(0);
        assert_eq!(stored(&world), stored(&reference), "sync {n}");
        assert_eq!(breaches(&auditor), [""; 0], "sync {n}");
        *codes.entry(ran.code).or_insert(0) += 1;
    }
    println!("journal: syncs that fail, exit codes: {codes:?}");
    assert!(codes[&Some(6)] > 6 && codes[&Some(0)] > 0, "{codes:?}");
}

/// When a run begins and ends, the file changes from and to the form without a log, under SQLite's own small journal.
/// Killed in the middle of that, `status` tells the same as before, and the same command goes on.
#[test]
fn a_kill_while_the_log_is_begun_or_ended_is_mended() {
    let mut killed = BTreeMap::new();
    for (call, files) in [
        ("pwrite64", &["-journal"][..]),
        ("fsync,fdatasync", &["-journal"]),
        ("pwrite64", &[""]),
        ("fsync,fdatasync", &[""]),
        ("unlink", &["-journal"]),
        ("unlink", &["-wal"]),
        ("unlink", &["-shm"]),
    ] {
        for n in 1..=2 {
            let world = World::some(&[1]);
            world.config(&CONFIG.replace("[clear]", "[clear]\nhold = true"));
            world.run().expect(0);
            world.config(CONFIG);
            let ran = failing(&world, "run", files, &format!("{call}:signal=KILL:when={n}"));
            let status = world.call("status", &[]);
            assert_eq!(status.code, Some(0), "{call} {n} of {files:?}: {status:?}");
            assert!(status.out.contains("1 device in the journal"), "{status:?}");
            world.run().expect(0);
            world.call("status", &[]).expect(0).says("1 done");
            *killed.entry(ran.code.is_none_or(|code| code == 137)).or_insert(0) += 1;
        }
    }
    println!("journal: killed while its log is begun or ended: {}", killed[&true]);
    assert!(killed[&true] > 7, "{killed:?}");
}
