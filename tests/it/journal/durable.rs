//! What `docs/journal.md` says of durability, seen in the system calls of a real run.

use std::{collections::HashMap, fs};

use super::{CONFIG, DEVICES, locks::need_strace, shell};
use crate::world::World;

/// One system call, from where it began in the trace to where it ended.
#[derive(Debug)]
struct Call {
    from: usize,
    to: usize,
    name: String,
    /// What stands between its parentheses, as far as the trace shows it.
    arguments: String,
    result: i64,
}

impl Call {
    fn is(&self, names: &[&str], file: &str) -> bool {
        names.contains(&self.name.as_str()) && self.arguments.contains(file)
    }
}

/// The calls of `strace -f -y`, in the order of their beginnings; those that were interrupted by others put together.
fn calls(trace: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut open: HashMap<&str, usize> = HashMap::new();
    for (at, line) in trace.lines().enumerate() {
        let Some((thread, text)) = line.split_once(' ') else { continue };
        let text = text.trim_start();
        let result =
            |text: &str| text.rsplit_once(" = ").and_then(|(_, r)| r.split(' ').next()?.parse().ok());
        if text.starts_with("<...") {
            if let Some(call) = open.remove(thread).and_then(|i| calls.get_mut(i)) {
                (call.to, call.result) = (at, result(text).unwrap_or(-1));
            }
        } else if let Some((name, rest)) = text.split_once('(') {
            if text.ends_with("<unfinished ...>") {
                open.insert(thread, calls.len());
            }
            let (name, arguments) = (name.to_owned(), rest.to_owned());
            calls.push(Call { from: at, to: at, name, arguments, result: result(text).unwrap_or(-1) });
        }
    }
    calls
}

const WRITES: [&str; 2] = ["pwrite64", "write"];
const SYNCS: [&str; 2] = ["fsync", "fdatasync"];
/// A frame of HTTP/2 that keeps a connection is smaller, a call is larger.
const HOUSEKEEPING: i64 = 40;

#[test]
fn nothing_is_sent_before_what_was_written_is_on_the_disk() {
    need_strace();
    let world = World::some(&DEVICES);
    world.config(CONFIG);
    // It shows the making of the seal key: not a file of the run.
    let elsewhere = tempfile::tempdir().expect("a folder");
    let trace = elsewhere.path().join("trace");
    let wrap = [
        "strace",
        "-f",
        "-y",
        "-qqq",
        "-s",
        "100",
        "-o",
        trace.to_str().expect("a path"),
        "-e",
        "trace=pwrite64,write,fsync,fdatasync,rename,renameat2,unlink,sendto,sendmsg,writev",
        "--",
    ];
    shell(&world, "run", "true", &wrap).expect(0);
    let calls = calls(&fs::read_to_string(&trace).expect("a trace"));
    let folder = world.dir.path().canonicalize().expect("there").display().to_string();
    creation_is_durable_step_by_step(&calls, &folder);
    let (commits, notes) = acknowledged_is_synced(&calls);
    let sent = nothing_is_sent_meanwhile(&calls);
    println!(
        "journal: {commits} commits synced before their {notes} acknowledgements, {sent} sends, none of them while an \
         entry was not on the disk"
    );
    assert!(commits > 60 && notes > 60 && sent > 100);
}

/// Key and journal are whole and synced before they have their names, and the names are before anything builds on them.
fn creation_is_durable_step_by_step(calls: &[Call], folder: &str) {
    let find = |what: &str, from: usize, is: &dyn Fn(&Call) -> bool| {
        calls.iter().position(|c| c.from >= from && is(c)).unwrap_or_else(|| panic!("no {what}"))
    };
    let folder = format!("<{folder}>");
    let mut at = 0;
    for (what, names, file) in [
        ("sync of the key", &SYNCS[..], ".key.new>"),
        ("name of the key", &["rename", "renameat2"], "test.journal.key\""),
        ("sync of the folder", &SYNCS, folder.as_str()),
        ("sync of the journal", &SYNCS, "test.journal.new>"),
        ("name of the journal", &["rename", "renameat2"], "test.journal\""),
        ("sync of the folder", &SYNCS, folder.as_str()),
        ("log", &WRITES, "test.journal-wal>"),
        ("sync of the log", &SYNCS, "test.journal-wal>"),
        ("sync of the folder", &SYNCS, folder.as_str()),
        ("send to the target", &["sendto", "sendmsg", "writev"], "socket:"),
    ] {
        at = calls[find(what, at, &|call| call.is(names, file))].to + 1;
    }
}

/// The lock file notes an entry only when everything that was written to the log is synced. Returns how often.
fn acknowledged_is_synced(calls: &[Call]) -> (usize, usize) {
    let (mut dirty, mut commits, mut notes) = (false, 0, 0);
    for call in calls {
        if call.is(&WRITES, "test.journal-wal>") {
            dirty = true;
        } else if call.is(&SYNCS, "test.journal-wal>") {
            assert_eq!(call.result, 0);
            commits += usize::from(dirty);
            dirty = false;
        } else if call.is(&WRITES, "test.journal.lock>") && call.arguments.contains("\"head ") {
            let is_first = call.arguments.contains("\"head 00000000000000000000 ");
            assert!(!dirty || is_first, "an entry is noted before it is synced: {call:?}");
            notes += usize::from(!is_first);
        }
    }
    (commits, notes)
}

/// One device is in hand: from the first byte of an entry to the end of its sync no call leaves. Returns how many leave.
fn nothing_is_sent_meanwhile(calls: &[Call]) -> usize {
    let mut unsynced: Vec<(usize, usize)> = Vec::new();
    let mut since = None;
    for call in calls {
        if call.is(&WRITES, "test.journal-wal>") {
            since.get_or_insert(call.from);
        } else if call.is(&SYNCS, "test.journal-wal>") {
            unsynced.extend(since.take().map(|since| (since, call.to)));
        }
    }
    let sends = calls.iter().filter(|c| {
        c.is(&["sendto", "sendmsg", "writev", "write"], "socket:") || c.is(&["writev", "sendto"], "TCP:")
    });
    let sends: Vec<_> = sends.filter(|c| c.result > HOUSEKEEPING).collect();
    for send in &sends {
        let meanwhile = unsynced.iter().find(|(from, to)| send.from < *to && send.to > *from);
        assert!(meanwhile.is_none(), "sent between {meanwhile:?}: {send:?}");
    }
    sends.len()
}
