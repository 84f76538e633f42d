//! The files of a journal: names, permissions, and making their existence durable.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::error::{Error, ErrorKind};

/// Where a journal and its companions are.
#[derive(Debug, Clone)]
pub(super) struct Paths {
    /// As the config names it: for messages.
    pub named: PathBuf,
    /// The journal itself, absolute and without symbolic links, so that two names of one journal share one lock.
    pub journal: PathBuf,
    /// Its folder.
    pub folder: PathBuf,
}

/// Which file a name refers to, whatever happens to the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity(u64, u64);

impl Paths {
    /// # Errors
    /// When the folder does not exist or the path cannot name a file.
    pub fn new(path: &Path) -> Result<Self, Error> {
        let io = |e: &io::Error| Error::io(path, "looking for it", e);
        let journal = match fs::canonicalize(path) {
            Ok(journal) => journal,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if fs::symlink_metadata(path).is_ok() {
                    return Err(Error::new(
                        path,
                        ErrorKind::Gone("it is a link to a file that is not there"),
                    ));
                }
                let folder = match path.parent() {
                    Some(parent) if parent != Path::new("") => parent,
                    _ => Path::new("."),
                };
                let name = path.file_name().ok_or_else(|| io(&e))?;
                fs::canonicalize(folder)
                    .map_err(|e| Error::io(path, "looking for its folder", &e))?
                    .join(name)
            }
            Err(e) => return Err(io(&e)),
        };
        let folder = journal.parent().unwrap_or(Path::new("/")).to_owned();
        Ok(Self { named: path.to_owned(), journal, folder })
    }

    /// The journal's path with `suffix`: `-wal`, `-shm`, `-journal` (SQLite's), `.lock`, `.key`, `.new`.
    pub fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = OsString::from(&self.journal);
        name.push(suffix);
        PathBuf::from(name)
    }

    /// Whether the journal is there.
    ///
    /// Only looked at, never opened: closing any descriptor of a file ends the locks that SQLite holds on it in this
    /// process (POSIX `fcntl`).
    ///
    /// # Errors
    /// When something else is there: a folder, a device, an empty file, a file with a second name.
    pub fn journal_exists(&self) -> Result<bool, Error> {
        let metadata = match fs::metadata(&self.journal) {
            Ok(metadata) => metadata,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(Error::io(&self.named, "looking for it", &e)),
        };
        let refuse = |what| Err(Error::new(&self.named, ErrorKind::NotAJournal(what)));
        if metadata.is_dir() {
            return refuse("it is a folder");
        }
        if !metadata.is_file() {
            return refuse("it is not a regular file");
        }
        if metadata.len() == 0 {
            return refuse("it is an empty file");
        }
        if metadata.nlink() > 1 {
            // Each name would have its own lock and its own write-ahead log (sqlite.org/howtocorrupt.html §2.5).
            return refuse("it has a second name (a hard link)");
        }
        Ok(true)
    }

    /// Takes away what group and others may do with the journal and SQLite's companions; SQLite gives new companions
    /// the permissions of the journal.
    ///
    /// # Errors
    /// When that is refused.
    pub fn tighten(&self) -> Result<(), Error> {
        for file in [self.journal.clone(), self.beside("-wal"), self.beside("-shm"), self.beside("-journal")]
        {
            let Ok(metadata) = fs::metadata(&file) else { continue };
            let mode = metadata.mode() & 0o7777;
            if mode & 0o077 != 0 {
                fs::set_permissions(&file, fs::Permissions::from_mode(mode & !0o077))
                    .map_err(|e| Error::io(&self.named, "taking away the permissions of others", &e))?;
            }
        }
        Ok(())
    }

    /// Makes names in the folder durable: a new file is only there after a power cut if its folder was synced.
    ///
    /// # Errors
    /// When the system cannot.
    pub fn sync_folder(&self) -> Result<(), Error> {
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|e| Error::io(&self.named, "making its folder durable", &e))
    }

    /// A failed creation, with the folder named when it cannot be written.
    pub fn creation_error(&self, doing: &'static str, error: &io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::PermissionDenied => {
                let what = format!("folder `{}`", self.folder.display());
                Error::new(&self.named, ErrorKind::ReadOnly(what))
            }
            _ => Error::io(&self.named, doing, error),
        }
    }
}

/// The file that `path` names now.
pub(super) fn identity(path: &Path) -> Option<Identity> {
    fs::metadata(path).ok().map(|m| Identity(m.dev(), m.ino()))
}

/// Creates a file that only its owner can read, with durable contents; an unfinished one of an earlier attempt goes.
///
/// # Errors
/// As the file system gives them.
pub(super) fn create_private(path: &Path, contents: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(contents)?;
    file.sync_all()
}
