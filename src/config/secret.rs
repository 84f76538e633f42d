//! Where secrets are, and how they are fetched when they are needed. A configuration never holds one.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use zeroize::Zeroizing;

use super::env::Env;
use crate::model::secret::Secret;

/// How long a command may take to write a secret.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest secret, in bytes: what is longer is surely the wrong file.
const MAX_LENGTH: u64 = 64 << 10;

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretRef {
    /// In this environment variable.
    Env(String),
    /// In this file.
    File(PathBuf),
    /// On the standard output of this program, run without a shell.
    Command(Vec<String>),
}

/// Why a secret cannot be had. No text of a secret is in it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The variable is not there, or not Unicode.
    #[error("environment variable `{0}` is not set")]
    NotSet(String),
    /// There is nothing but white space.
    #[error("{0} is empty")]
    Empty(String),
    /// Not text on one line.
    #[error("{0} is not one line of text")]
    NotText(String),
    /// The file cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others on this machine can read or change the file.
    #[error("`{}` {} (mode {mode:04o})", path.display(), exposure(*mode))]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file belongs to somebody else, who can read and change it.
    #[error("`{}` belongs to another user (user ID {owner})", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
    },
    /// A folder, a pipe or a device.
    #[error("`{}` is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// The command cannot be started.
    #[error("cannot start `{program}`: {source}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The command took too long and was ended.
    #[error("`{program}` wrote no secret within {} s", COMMAND_TIMEOUT.as_secs())]
    Timeout {
        /// The program.
        program: String,
    },
    /// The command failed.
    #[error("`{program}` failed ({status})")]
    Failed {
        /// The program.
        program: String,
        /// Its exit status.
        status: String,
    },
}

impl SecretError {
    /// What to do about it.
    pub fn help(&self) -> String {
        match self {
            Self::NotSet(name) => format!("set it: export {name}=…"),
            Self::Empty(_) | Self::NotText(_) => "put the secret there, and nothing else".to_owned(),
            Self::File { path, .. } if path.components().any(|part| part.as_os_str() == "~") => {
                "`~` is not expanded: write the whole path".to_owned()
            }
            Self::File { .. } => "relative paths start at the folder of this file".to_owned(),
            Self::Exposed { path, .. } => {
                format!("chmod 600 {} (mounted into a container: mode 0400)", path.display())
            }
            Self::Foreign { path, .. } => {
                format!("make a file of your own: chown it to this user, then chmod 600 {}", path.display())
            }
            Self::NotAFile(_) => {
                "name a file that holds the secret; for what a program writes there is `command`".to_owned()
            }
            Self::Start { .. } => "the first item is the program; no shell is used".to_owned(),
            Self::Timeout { .. } | Self::Failed { .. } => {
                "run it by hand to see why; its standard error is not shown, as it may hold the secret"
                    .to_owned()
            }
        }
    }
}

impl SecretRef {
    /// Fetches the secret, without its trailing newline. Blocks: a command may take [`COMMAND_TIMEOUT`].
    ///
    /// # Errors
    /// When it is not there, empty, not one line of text, or open to everybody.
    pub fn resolve(&self, env: &Env) -> Result<Secret, SecretError> {
        match self {
            Self::Env(name) => {
                let text = env.get(name).ok_or_else(|| SecretError::NotSet(name.clone()))?;
                line(Zeroizing::new(text.into_bytes()), || format!("environment variable `{name}`"))
            }
            Self::File(path) => line(read_private(path)?, || format!("`{}`", path.display())),
            Self::Command(command) => {
                let (program, arguments) =
                    command.split_first().map_or(("", command.as_slice()), |(p, a)| (p, a));
                line(run(program, arguments, COMMAND_TIMEOUT)?, || format!("what `{}` wrote", shown(program)))
            }
        }
    }

    /// Finds out without running a command whether the secret can be had.
    ///
    /// # Errors
    /// As [`SecretRef::resolve`], for variables and files.
    pub fn probe(&self, env: &Env) -> Result<(), SecretError> {
        match self {
            Self::Env(_) | Self::File(_) => self.resolve(env).map(drop),
            Self::Command(_) => Ok(()),
        }
    }
}

/// One line of text without its end.
fn line(bytes: Zeroizing<Vec<u8>>, place: impl Fn() -> String) -> Result<Secret, SecretError> {
    let text = std::str::from_utf8(&bytes).map_err(|_| SecretError::NotText(place()))?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.trim().is_empty() {
        return Err(SecretError::Empty(place()));
    }
    if text.contains(|c: char| c.is_control()) {
        return Err(SecretError::NotText(place()));
    }
    Ok(Secret::new(text))
}

/// The contents of a file that others cannot read.
fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let fail = |source| SecretError::File { path: path.to_owned(), source };
    // Looked at before it is opened: opening a pipe waits for its writer. Links are followed, as secrets in containers are.
    if !fs::metadata(path).map_err(fail)?.is_file() {
        return Err(SecretError::NotAFile(path.to_owned()));
    }
    let file = fs::File::open(path).map_err(fail)?;
    // Of what was opened, not of what the name may mean by now.
    check_private(path, &file.metadata().map_err(fail)?)?;
    read_all(file).map_err(fail)
}

/// Refuses a file that anybody but its owner may read or change. A group may read it when the owner is another user than
/// ours: so secrets are mounted into containers (owned by root, readable by the group of the process), and the group is
/// then all that lets us read it. An owner other than this user and root can read it too.
#[cfg(unix)]
fn check_private(path: &Path, metadata: &fs::Metadata) -> Result<(), SecretError> {
    use std::os::unix::fs::MetadataExt as _;
    let (mode, owner, us) = (metadata.mode() & 0o7777, metadata.uid(), rustix::process::geteuid().as_raw());
    let forbidden = if owner == us { 0o077 } else { 0o037 };
    if mode & forbidden != 0 {
        return Err(SecretError::Exposed { path: path.to_owned(), mode });
    }
    // Root reads the files of its users on purpose (sudo, bind mounts).
    if owner != us && owner != 0 && us != 0 {
        return Err(SecretError::Foreign { path: path.to_owned(), owner });
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_private(_: &Path, _: &fs::Metadata) -> Result<(), SecretError> {
    Ok(())
}

/// What others may do with a file of this mode.
fn exposure(mode: u32) -> &'static str {
    match mode {
        mode if mode & 0o004 != 0 => "can be read by every user of this machine",
        mode if mode & 0o003 != 0 => "can be changed or run by every user of this machine",
        mode if mode & 0o030 != 0 => "can be changed or run by its group",
        _ => "can be read by its group",
    }
}

fn read_all(from: impl io::Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(1024));
    let read = from.take(MAX_LENGTH + 1).read_to_end(&mut bytes)?;
    if read as u64 > MAX_LENGTH {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "longer than any secret"));
    }
    Ok(bytes)
}

/// The name of a program for people; somebody may have put the secret itself in its place.
fn shown(program: &str) -> String {
    super::mask::tokens(program)
}

/// Runs a program and gives what it wrote to standard output.
fn run(program: &str, arguments: &[String], timeout: Duration) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let start = |source| SecretError::Start { program: shown(program), source };
    let deadline = Instant::now() + timeout;
    // Standard input may be the list of devices: the command must not eat it.
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(start)?;
    let output = child.stdout.take().ok_or_else(|| start(io::Error::other("no standard output")))?;
    // A grandchild may keep the pipe open, so reading has its own thread and the deadline holds for it too.
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(read_all(output)).ok());
    let read = receiver.recv_timeout(timeout);
    let status = wait_until(&mut child, deadline);
    match (read, status) {
        (Ok(Ok(_)), Some(status)) if !status.success() => {
            Err(SecretError::Failed { program: shown(program), status: status.to_string() })
        }
        (Ok(Ok(bytes)), Some(_)) => Ok(bytes),
        (Ok(Err(source)), _) => Err(start(source)),
        _ => Err(SecretError::Timeout { program: shown(program) }),
    }
}

/// The exit status, or `None` after the child had to be ended at the deadline.
fn wait_until(child: &mut Child, deadline: Instant) -> Option<std::process::ExitStatus> {
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() >= deadline {
            // It may have ended just now; either way it is gone after this.
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn shell(script: &str) -> SecretRef {
        SecretRef::Command(vec!["sh".into(), "-c".into(), script.into()])
    }

    fn resolve(reference: &SecretRef) -> Result<String, String> {
        let env = Env::fixed([("KEY", "NNSXS.ENV"), ("BLANK", " \n")]);
        reference.resolve(&env).map(|s| s.reveal().to_owned()).map_err(|e| e.to_string())
    }

    #[test]
    fn a_secret_comes_from_each_place_without_its_newline() {
        assert_eq!(resolve(&SecretRef::Env("KEY".into())), Ok("NNSXS.ENV".into()));
        assert_eq!(resolve(&shell("echo NNSXS.COMMAND")), Ok("NNSXS.COMMAND".into()));
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("key");
        fs::write(&path, "NNSXS.FILE\r\n").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
        assert_eq!(resolve(&SecretRef::File(path)), Ok("NNSXS.FILE".into()));
    }

    #[test]
    fn a_file_that_others_read_or_change_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("key");
        fs::write(&path, "NNSXS.FILE").expect("written");
        let reference = SecretRef::File(path.clone());
        for bit in 0..6 {
            let mode = 0o600 | 1 << bit;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
            let error = reference.resolve(&Env::process()).expect_err("exposed");
            assert!(matches!(&error, SecretError::Exposed { mode: m, .. } if *m == mode), "{error}");
            assert!(error.help().starts_with("chmod 600 "));
        }
        for mode in [0o600, 0o400, 0o700] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
            assert_eq!(resolve(&reference), Ok("NNSXS.FILE".into()), "{mode:o}");
        }
    }

    #[test]
    fn a_folder_is_no_key() {
        let dir = tempfile::tempdir().expect("a folder");
        let error = SecretRef::File(dir.path().to_owned()).resolve(&Env::process()).expect_err("a folder");
        assert!(matches!(error, SecretError::NotAFile(_)), "{error}");
    }

    #[test]
    fn what_is_missing_or_empty_is_said() {
        let error = |reference| resolve(&reference).expect_err("no secret");
        assert_eq!(error(SecretRef::Env("NONE".into())), "environment variable `NONE` is not set");
        assert_eq!(error(SecretRef::Env("BLANK".into())), "environment variable `BLANK` is empty");
        assert_eq!(error(shell("true")), "what `sh` wrote is empty");
        assert_eq!(error(shell("printf 'a\\nb'")), "what `sh` wrote is not one line of text");
        assert_eq!(error(shell("echo secret; echo secret >&2; exit 3")), "`sh` failed (exit status: 3)");
        assert!(error(SecretRef::Command(vec!["/no/such".into()])).starts_with("cannot start `/no/such`"));
        assert!(error(SecretRef::Command(vec![])).starts_with("cannot start ``"));
        assert!(error(shell("head -c 100000 /dev/zero")).contains("longer than any secret"));
    }

    #[test]
    fn a_slow_command_is_ended() {
        let started = Instant::now();
        for script in ["sleep 20", "sleep 20 & echo key"] {
            let error = run("sh", &["-c".into(), script.into()], Duration::from_millis(200));
            assert!(matches!(error, Err(SecretError::Timeout { .. })), "{script}");
        }
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
