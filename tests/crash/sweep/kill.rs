//! The servers kill the client.

use std::{
    fs::{self, DirEntry, File},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::Read as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::Pid,
};
use stackferry::rehearsal::{CallInfo, Fault, Tts};

use super::point::{Moment, Point};
use crate::world::World;

/// The client that is to be killed, and what was seen of it.
#[derive(Debug)]
pub struct Killer {
    point: Mutex<Point>,
    /// How many calls of a stage that is not swept are let through before it is killed for good.
    cut: AtomicUsize,
    /// True in a stage that is swept.
    swept: AtomicBool,
    /// The client's process; 0 while there is none.
    client: AtomicI32,
    /// The calls that count, so far.
    seen: Mutex<Seen>,
    /// True when every call counts.
    every: bool,
    /// Where the journal is.
    folder: PathBuf,
    /// The call at which it is killed: side, number there.
    chosen: Mutex<Option<(usize, CallInfo)>>,
    fired: AtomicBool,
}

/// A call counts when it may change something, or when something has changed since the call before it: the call before it
/// may have changed something, or the journal is another. Killed at any other call, the client leaves what it would have
/// left at the call before: the same servers and the same journal, but for what the air did meanwhile.
#[derive(Debug, Default)]
struct Seen {
    /// Of each call that counts: may it change something?
    calls: Vec<bool>,
    /// True when the call before this one, whether it counts or not, may have changed something.
    after_write: bool,
    /// The journal at the call before.
    journal: Option<u64>,
}

impl Killer {
    /// Hooks into both servers. `every`: all calls count.
    pub fn new(world: &World, point: Point, every: bool) -> Arc<Self> {
        let killer = Arc::new(Self {
            point: Mutex::new(point),
            cut: AtomicUsize::new(usize::MAX),
            swept: AtomicBool::new(true),
            client: AtomicI32::new(0),
            seen: Mutex::default(),
            every,
            folder: world.dir.path().to_owned(),
            chosen: Mutex::new(None),
            fired: AtomicBool::new(false),
        });
        for (side, tts) in deployments(world).into_iter().enumerate() {
            let on_call = Arc::clone(&killer);
            tts.on_call(move |call| on_call.arrived(side, call));
            let on_applied = Arc::clone(&killer);
            tts.on_applied(move |call| on_applied.passed(Moment::Applied, side, call));
            let on_replied = Arc::clone(&killer);
            tts.on_replied(move |call| on_replied.passed(Moment::Replied, side, call));
        }
        killer
    }

    /// Begins anew, with another point.
    pub fn aim(&self, point: Point) {
        *lock(&self.point) = point;
        *lock(&self.seen) = Seen::default();
        *lock(&self.chosen) = None;
        self.fired.store(false, SeqCst);
    }

    fn point(&self) -> Point {
        *lock(&self.point)
    }

    /// What follows is swept, or else killed for good at this call.
    pub fn begin(&self, swept: bool, cut: Option<usize>) {
        self.swept.store(swept, SeqCst);
        self.cut.store(cut.unwrap_or(usize::MAX), SeqCst);
    }

    /// From now on this process is the client; 0 for none.
    pub fn watch(&self, client: i32) {
        self.client.store(client, SeqCst);
    }

    /// Of each call that counts, whether it may change something.
    pub fn calls(&self) -> Vec<bool> {
        lock(&self.seen).calls.clone()
    }

    /// True once the client was killed from here.
    pub fn fired(&self) -> bool {
        self.fired.load(SeqCst)
    }

    /// The call of the point, once it has come.
    pub fn chosen(&self) -> Option<CallInfo> {
        lock(&self.chosen).as_ref().map(|(_, call)| call.clone())
    }

    fn arrived(&self, side: usize, call: &CallInfo) -> Option<Fault> {
        if !self.swept.load(SeqCst) {
            if self.cut.fetch_sub(1, SeqCst) != 1 {
                return None;
            }
            self.kill();
            return Some(Fault::CutBefore);
        }
        let n = self.counted(call)?;
        let Point::Call(moment, at) = self.point() else { return None };
        if n != at {
            return None;
        }
        *lock(&self.chosen) = Some((side, call.clone()));
        if moment != Moment::Before {
            return None;
        }
        self.fired.store(true, SeqCst);
        self.kill();
        Some(Fault::CutBefore)
    }

    /// The number of this call, from 1, if it counts.
    fn counted(&self, call: &CallInfo) -> Option<usize> {
        let mut seen = lock(&self.seen);
        let journal = (!self.every).then(|| journal(&self.folder));
        let counts = self.every || call.is_write || seen.after_write || seen.journal != journal;
        seen.after_write = call.is_write;
        seen.journal = journal;
        if counts {
            seen.calls.push(call.is_write);
        }
        counts.then_some(seen.calls.len())
    }

    fn passed(&self, moment: Moment, side: usize, call: &CallInfo) {
        let chosen = lock(&self.chosen);
        let here = chosen.as_ref().is_some_and(|(at, chosen)| *at == side && chosen.n == call.n);
        drop(chosen);
        if here && matches!(self.point(), Point::Call(at, _) if at == moment) {
            self.fired.store(true, SeqCst);
            self.kill();
        }
    }

    /// Returns when the client is dead: whatever happens afterwards, it did not see.
    fn kill(&self) {
        let mut client = self.client.load(SeqCst);
        while client == 0 {
            // Its first call is faster than the thread that started it.
            thread::sleep(Duration::from_micros(100));
            client = self.client.load(SeqCst);
        }
        let client = Pid::from_raw(client);
        let signal = match self.point() {
            Point::Call(_, n) if n.is_multiple_of(3) => Signal::SIGABRT,
            _ => Signal::SIGKILL,
        };
        kill(client, signal).expect("the client is ours");
        // An error says that it was waited for already: dead as well.
        waitid(Id::Pid(client), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).ok();
    }
}

/// Stands for what the journal in this folder holds. SQLite counts its transactions in the head of the index of its log
/// (<https://www.sqlite.org/walformat.html>, "The WAL-Index Header").
fn journal(folder: &Path) -> u64 {
    const HEAD: u64 = 48;
    let mut hasher = DefaultHasher::new();
    let mut files: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().collect();
    files.sort_by_key(DirEntry::file_name);
    for file in files {
        let (name, path) = (file.file_name(), file.path());
        let name = name.to_string_lossy();
        if !name.starts_with("test.journal") {
            continue;
        }
        name.hash(&mut hasher);
        file.metadata().map_or(0, |metadata| metadata.len()).hash(&mut hasher);
        let mut head = Vec::new();
        if let (true, Ok(file)) = (name.ends_with("-shm") || name.ends_with(".lock"), File::open(path)) {
            file.take(HEAD).read_to_end(&mut head).ok();
        }
        head.hash(&mut hasher);
    }
    hasher.finish()
}

/// Source and target: one, if they are the same.
pub fn deployments(world: &World) -> Vec<&Arc<Tts>> {
    let (source, target) = (&world.source.tts, &world.target.tts);
    if Arc::ptr_eq(source, target) { vec![source] } else { vec![source, target] }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Also when the log begins anew and no file grows.
#[test]
fn no_two_transactions_leave_the_same_journal() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = rusqlite::Connection::open(dir.path().join("test.journal")).expect("a database");
    log.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (n); INSERT INTO t VALUES (0)")
        .expect("written");
    let mut seen = std::collections::HashSet::from([journal(dir.path())]);
    for n in 1..40 {
        if n % 4 == 0 {
            log.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).expect("nobody reads");
        }
        log.execute("UPDATE t SET n = ?1", [n]).expect("written");
        assert!(seen.insert(journal(dir.path())), "after transaction {n}");
        assert!(!seen.insert(journal(dir.path())), "nothing was written since");
    }
}
