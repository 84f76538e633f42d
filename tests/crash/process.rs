//! The built binary under a stopwatch: nothing that goes wrong around it may make it hang or panic.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::sys::statvfs::statvfs;

use crate::world::{Ran, World};

/// No command takes longer, whatever the servers do. Waits are bounded by the client: a minute for a rate limit.
pub const LIMIT: Duration = Duration::from_secs(180);
/// Exit code of a Rust program that panicked.
const PANICKED: i32 = 101;

/// Runs a command to its end and hands the child to `with` as soon as it lives.
///
/// # Panics
/// When it panics, or is not over after [`LIMIT`]: it is ended then.
pub fn watched(world: &World, verb: &str, arguments: &[&str], with: impl FnOnce(&Child)) -> Ran {
    let path = |name: &str| world.dir.path().join(name);
    // Files, not pipes: nobody has to empty them.
    let file = |name: &str| File::create(path(name)).expect("a file");
    let mut command: Command = world.command(verb);
    let mut child = command
        .args(arguments)
        .stdout(Stdio::from(file("stdout")))
        .stderr(Stdio::from(file("stderr")))
        .spawn()
        .expect("it starts");
    with(&child);
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("our child") {
            break Some(status);
        }
        if begun.elapsed() > LIMIT {
            child.kill().expect("our child");
            child.wait().expect("our child");
            break None;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let text = |name: &str| fs::read_to_string(path(name)).unwrap_or_default();
    let ran = Ran { code: status.and_then(|s| s.code()), out: text("stdout"), err: text("stderr") };
    assert!(status.is_some(), "`{verb}` hangs: {ran:?}");
    assert!(ran.code != Some(PANICKED) && !ran.err.contains("panicked at"), "`{verb}` panicked: {ran:?}");
    ran
}

/// From now on the folders of this process's worlds are in memory, where there is room. A process that is killed takes no
/// page of a file with it, whatever was synced: what a sync is for is shown by `tests/it/journal/`.
pub fn in_memory() {
    let memory = Path::new("/dev/shm");
    let room = statvfs(memory).is_ok_and(|fs| fs.blocks_available() * fs.fragment_size() >= 256 << 20);
    if room && tempfile::tempdir_in(memory).is_ok() {
        // An error says that it was done before, by another test.
        tempfile::env::override_temp_dir(memory).ok();
    }
}

/// The number in an environment variable.
pub fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} must be a number, not `{text}`")))
}
