//! Why the journal cannot be used, or can no longer be written.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

/// A journal error: which journal, what is wrong, and what to do ([`Error::hint`]).
///
/// It can be cloned because a journal that failed once gives every later caller the same error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("journal `{}` {kind}", path.display())]
pub struct Error {
    /// The journal, as the config names it.
    pub path: PathBuf,
    /// What is wrong.
    pub kind: ErrorKind,
}

/// What is wrong with a journal. The texts continue "journal `path` …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ErrorKind {
    /// Another run has it.
    #[error("is in use by {by}")]
    Locked {
        /// Who, from which process, and since when, as the lock file says.
        by: String,
    },
    /// It was made for something else.
    #[error("was made for another configuration: {}", list(.0))]
    Changed(Vec<PinChange>),
    /// There is nothing to read.
    #[error("does not exist")]
    Missing,
    /// It was there, and is no longer.
    #[error("is gone: {0}")]
    Gone(&'static str),
    /// The lock file tells of entries that this file does not have.
    #[error("is not the one that ran here last: its entry {seq} is missing or another")]
    Older {
        /// The last entry that was written.
        seq: u64,
    },
    /// Something stands there that is no journal.
    #[error("cannot be used: {0}")]
    NotAJournal(&'static str),
    /// Its format is not one that this build reads.
    #[error("has format {found}, and this build reads format {known}")]
    Format {
        /// `user_version` of the file.
        found: i64,
        /// What this build reads and writes.
        known: i64,
    },
    /// Its contents are not what was written.
    #[error("is damaged: {0}")]
    Damaged(String),
    /// The key is a key, but not this journal's.
    #[error("was sealed with another key")]
    WrongKey,
    /// The key file is not there, and the journal is.
    #[error("cannot be unsealed: its key file `{}` is missing", .0.display())]
    KeyMissing(PathBuf),
    /// Others can read the key file.
    #[error("has a key file `{}` that others can read (mode {mode:04o})", file.display())]
    KeyExposed {
        /// The key file.
        file: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key is not 32 bytes.
    #[error("has a seal key that is not 32 bytes in hexadecimal or base64")]
    BadKey,
    /// The file, its folder or its disk cannot be written.
    #[error("cannot be written: {0} is read-only")]
    ReadOnly(String),
    /// The disk is full.
    #[error("cannot be written: no space is left on its disk")]
    Full,
    /// Another program keeps it locked.
    #[error("is held by another program")]
    Busy,
    /// A run ended in the middle, and the index of its log is neither there nor can it be made.
    #[error("cannot be read here: the index of its write-ahead log is not there, and cannot be made")]
    NoIndex,
    /// Its file system cannot lock files: two runs could not be kept apart.
    #[error("cannot be locked: {0}")]
    NoLocks(String),
    /// Its file system is shared with other machines, whose locks and memory do not reach this one.
    #[error("is on a network file system ({0})")]
    Network(String),
    /// One entry is larger than the journal takes.
    #[error("does not take an entry of {bytes} bytes, {limit} at most")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The largest size.
        limit: usize,
    },
    /// No sealed entry has this number.
    #[error("has no sealed entry {0}")]
    NoSuchSeal(u64),
    /// It was closed before.
    #[error("was closed")]
    Closed,
    /// The operating system refused.
    #[error("failed while {doing}: {cause}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        cause: String,
    },
}

/// One thing that a journal was made for, and that is different now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinChange {
    /// Its name, such as `target.address`.
    pub key: String,
    /// In the journal; `None` when it is new.
    pub was: Option<String>,
    /// Now; `None` when it is no longer there.
    pub is: Option<String>,
}

impl fmt::Display for PinChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |v: &Option<String>| v.as_ref().map_or("absent".to_owned(), |v| format!("`{v}`"));
        write!(f, "{} was {}, is {}", self.key, side(&self.was), side(&self.is))
    }
}

fn list(changes: &[PinChange]) -> String {
    changes.iter().map(PinChange::to_string).collect::<Vec<_>>().join("; ")
}

/// What every failure in mid-run comes down to.
const STOPS: &str = "the run stops: nothing further is done without a journal";

impl Error {
    pub(super) fn new(path: &Path, kind: ErrorKind) -> Self {
        Self { path: path.to_owned(), kind }
    }

    pub(super) fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::new(path, ErrorKind::Damaged(what.into()))
    }

    /// What the user can do about it.
    pub fn hint(&self) -> String {
        let journal = self.path.display();
        match &self.kind {
            ErrorKind::Locked { .. } => {
                "wait for that run to end, or stop it with Ctrl-C; the lock ends with its process".into()
            }
            ErrorKind::Changed(_) => {
                "go back to what the journal was made for, or use another journal".into()
            }
            ErrorKind::Missing => "nothing has run with it yet; check `path` under `[journal]`".into(),
            ErrorKind::Gone(_) => format!(
                "{STOPS}; put it back. Only if no device was moved with it, remove `{journal}.lock`, `{journal}-wal` and `{journal}-shm` to begin anew"
            ),
            ErrorKind::Older { .. } => format!(
                "put the newest copy back, with its `-wal` file. Only to go on from this one, knowing that later steps are forgotten, remove `{journal}.lock`"
            ),
            ErrorKind::NotAJournal(_) => {
                "name another file as `path` under `[journal]`, or put the journal back there".into()
            }
            ErrorKind::Format { found, known } if found > known => {
                "a newer version of stackferry wrote it: update stackferry, then run the same command again"
                    .into()
            }
            ErrorKind::Format { .. } => {
                "no version of stackferry wrote this; name another file under `[journal]`".into()
            }
            ErrorKind::Damaged(_) => {
                format!(
                    "{STOPS}; keep a copy of it, check the disk, and put back a whole copy if there is one"
                )
            }
            ErrorKind::WrongKey => "give the key that the journal was made with".into(),
            ErrorKind::KeyMissing(file) => {
                format!(
                    "put `{}` back: without it no device can be restored from the journal",
                    file.display()
                )
            }
            ErrorKind::KeyExposed { file, .. } => format!("run `chmod 600 {}`", file.display()),
            ErrorKind::BadKey => "make one with `openssl rand -hex 32`".into(),
            ErrorKind::ReadOnly(_) => {
                format!("{STOPS}; allow writing, or name a file elsewhere under `[journal]`")
            }
            ErrorKind::Full => format!("{STOPS}; free some space, then run the same command again"),
            ErrorKind::Busy => format!(
                "{STOPS}; end the other program, then run the same command again; if there is none, its disk cannot lock files: keep it on a local disk"
            ),
            ErrorKind::NoIndex => format!(
                "copy `{journal}` and `{journal}-wal` to a folder that can be written, and look at them there"
            ),
            ErrorKind::NoLocks(_) | ErrorKind::Network(_) => {
                "keep it on a local disk: name a file there as `path` under `[journal]`".into()
            }
            ErrorKind::TooLarge { .. } | ErrorKind::NoSuchSeal(_) | ErrorKind::Closed => {
                "this is a mistake in stackferry: please report it".into()
            }
            ErrorKind::Io { .. } => format!("{STOPS}; mend the cause, then run the same command again"),
        }
    }

    /// From the file system.
    pub(super) fn io(path: &Path, doing: &'static str, error: &io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Full,
            io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly("its disk".into()),
            _ => ErrorKind::Io { doing, cause: error.to_string() },
        };
        Self::new(path, kind)
    }

    /// From SQLite. Whatever is neither the disk nor another program is damage: the statements are fixed.
    pub(super) fn sql(path: &Path, doing: &'static str, error: &rusqlite::Error) -> Self {
        use rusqlite::{ErrorCode as Code, ffi};
        let extended = error.sqlite_error().map(|e| e.extended_code);
        let kind = match error.sqlite_error_code() {
            Some(Code::DiskFull) => ErrorKind::Full,
            Some(Code::ReadOnly) => {
                let folder = extended == Some(ffi::SQLITE_READONLY_DIRECTORY);
                ErrorKind::ReadOnly(if folder { "its folder" } else { "the file" }.into())
            }
            Some(Code::DatabaseBusy | Code::DatabaseLocked) => ErrorKind::Busy,
            Some(Code::NotADatabase) => {
                ErrorKind::NotAJournal("it is no SQLite database, or its first page is damaged")
            }
            Some(Code::SystemIoFailure)
                if matches!(
                    extended,
                    Some(ffi::SQLITE_IOERR_LOCK | ffi::SQLITE_IOERR_RDLOCK | ffi::SQLITE_IOERR_SHMLOCK)
                ) =>
            {
                ErrorKind::NoLocks(error.to_string())
            }
            Some(Code::SystemIoFailure | Code::CannotOpen | Code::OutOfMemory | Code::PermissionDenied) => {
                ErrorKind::Io { doing, cause: error.to_string() }
            }
            _ => ErrorKind::Damaged(format!("{error}, while {doing}")),
        };
        Self::new(path, kind)
    }
}
