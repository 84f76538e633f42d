//! One run at a time (S8), and a note of how far the journal got.
//!
//! The lock file stays when a run ends. Its first line is rewritten after each commit and holds the last entry's number
//! and hash. It is not synced, so it may lag behind the journal, but it never leads: a journal that does not have that
//! entry has lost its end (a damaged or deleted `-wal` file) or is an older copy.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use super::{
    error::{Error, ErrorKind},
    files::Paths,
    format::Head,
};

/// Who runs: for the lock file, its error, and the journal's own history.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Who {
    /// Login name.
    pub user: String,
    /// Host name.
    pub host: String,
    /// Process ID.
    pub pid: u32,
    /// Version of stackferry.
    pub version: String,
}

impl Who {
    /// This process.
    pub fn current() -> Self {
        let var = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
        let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let host = var("HOSTNAME").or_else(host).map(|h| h.trim().to_owned());
        Self {
            user: var("USER").or_else(|| var("LOGNAME")).unwrap_or_else(|| "unknown".into()),
            host: host.unwrap_or_else(|| "unknown".into()),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The texts come from the environment and end in a file of lines.
        let line = |text: &str| text.replace(char::is_control, "?");
        let (user, host, version) = (line(&self.user), line(&self.host), line(&self.version));
        write!(f, "{user}@{host}, process {}, stackferry {version}", self.pid)
    }
}

/// `head <20 digits> <64 hex digits>\n`
const HEAD_LINE: u64 = 5 + 20 + 1 + 64 + 1;

/// How long a lock is waited for: `status` takes it for a moment to see whether a run is alive.
const PATIENCE: Duration = Duration::from_secs(1);

/// The lock of a journal, held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    named: PathBuf,
    who: Who,
}

impl Lock {
    /// Takes the lock, and returns the last entry that the runs before have noted.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] when another run has it, or when the file cannot be written.
    pub fn take(paths: &Paths, who: &Who) -> Result<(Self, Option<Head>), Error> {
        let io = |e: &io::Error| paths.creation_error("locking it", e);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(paths.beside(".lock")).map_err(|e| io(&e))?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE => {
                    thread::sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => {
                    let by = holder(&mut file).unwrap_or_else(|| "another run".into());
                    return Err(Error::new(&paths.named, ErrorKind::Locked { by }));
                }
                Err(TryLockError::Error(e)) => {
                    return Err(Error::new(&paths.named, ErrorKind::NoLocks(e.to_string())));
                }
            }
        }
        let noted = noted(&file);
        let lock = Self { file, named: paths.named.clone(), who: who.clone() };
        if noted.is_none() {
            lock.note(&Head::NONE)?;
        }
        lock.say("held by")?;
        Ok((lock, noted))
    }

    /// Notes the last entry that is durable.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn note(&self, head: &Head) -> Result<(), Error> {
        let line = format!("head {:020} {}\n", head.seq, hex::encode(head.hash));
        self.write(line.as_bytes(), 0)
    }

    /// Says that the run has ended by itself.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn release(&self) -> Result<(), Error> {
        self.say("closed by")
    }

    fn say(&self, verb: &str) -> Result<(), Error> {
        let text = format!("{verb} {}, since {:.0}\n", self.who, jiff::Timestamp::now());
        self.write(text.as_bytes(), HEAD_LINE)?;
        self.file.set_len(HEAD_LINE + text.len() as u64).map_err(|e| Error::io(&self.named, "locking it", &e))
    }

    fn write(&self, bytes: &[u8], at: u64) -> Result<(), Error> {
        self.file.write_all_at(bytes, at).map_err(|e| Error::io(&self.named, "noting its last entry", &e))
    }
}

/// The last entry that the runs before have noted, and the one that works now, if the lock file tells.
pub(super) fn noted_beside(paths: &Paths) -> Option<Head> {
    noted(&File::open(paths.beside(".lock")).ok()?)
}

/// Who holds the lock now, if anybody.
pub(super) fn held_by(paths: &Paths) -> Option<String> {
    let mut file = File::open(paths.beside(".lock")).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Some(holder(&mut file).unwrap_or_else(|| "another run".into())),
        _ => None,
    }
}

fn holder(file: &mut File) -> Option<String> {
    let mut text = String::new();
    file.take(HEAD_LINE + 1000).read_to_string(&mut text).ok()?;
    text.lines().find_map(|line| line.strip_prefix("held by ")).map(str::to_owned)
}

/// A first line that cannot be read says nothing: the lock file proves loss, it does not prove wholeness.
fn noted(file: &File) -> Option<Head> {
    let mut line = [0; HEAD_LINE as usize];
    file.read_exact_at(&mut line, 0).ok()?;
    let mut words = std::str::from_utf8(&line).ok()?.strip_prefix("head ")?.split_ascii_whitespace();
    let seq = words.next()?.parse().ok()?;
    let mut hash = [0; 32];
    hex::decode_to_slice(words.next()?, &mut hash).ok()?;
    (seq > 0).then_some(Head { seq, hash })
}
