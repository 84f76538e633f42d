//! Disks that are full, that may not be written, and that fail to sync.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use prost_reflect::DynamicMessage;
use stackferry::{
    journal::{Error, View},
    rehearsal::{CallInfo, store::Table},
    step::{Event, Step},
};
use tempfile::TempDir;

use super::{
    CONFIG, DEVICES, breaches,
    image::{self, Image},
    shell, stored, watch, writes,
};
use crate::world::{Ran, World, about_marker};

/// A file system in memory, of a size of its own, gone with this.
struct Disk {
    folder: TempDir,
}

impl Disk {
    /// `None`, with a word about it, where nothing may be mounted.
    fn mount(options: &str) -> Option<Self> {
        let disk = Self { folder: tempfile::tempdir().expect("a folder") };
        let done =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(disk.path()).output();
        match done {
            Ok(done) if done.status.success() => Some(disk),
            other => {
                println!(
                    "journal: no tmpfs can be mounted here, so real full and read-only disks are left out: {other:?}"
                );
                None
            }
        }
    }

    fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        let done = Command::new("mount").args(["-o", &options]).arg(self.path()).status().expect("mount");
        assert!(done.success());
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}

/// Every call that a run sent for a device has its intent in the journal: after a failed write nothing more was sent.
fn check_calls(world: &World, journal: &Path, what: &str) {
    let sent = world.source.tts.calls().into_iter().chain(world.target.tts.calls());
    let of_a_device = |c: &CallInfo| c.is_write && c.method.contains("EndDeviceRegistry") && !about_marker(c);
    let sent = sent.filter(of_a_device).count();
    let mut intents = 0;
    if let Ok(view) = View::open(journal) {
        let count = view.for_each_device::<Error>(|_, events| {
            for event in events.iter().filter(|e| e.kind == "intent") {
                let event: Event = serde_json::from_slice(&event.body).expect("an event");
                let reads = matches!(event, Event::Intent { step: Step::Verify(_) });
                intents += usize::from(!reads);
            }
            Ok(())
        });
        count.expect("it can still be read");
    }
    assert!(sent <= intents, "{what}: {sent} calls for devices, {intents} intents");
}

/// How far a run came before its disk was full.
#[derive(Debug, Default)]
struct Tally {
    before_a_journal: usize,
    before_a_device: usize,
    in_the_middle: usize,
    never: usize,
}

/// A run on a small disk ends with a named error, or at its end; with more room the same command goes on.
fn run_out_of_room(
    what: &str,
    journal: PathBuf,
    tally: &mut Tally,
    run: impl Fn(&World) -> Ran,
    more_room: impl Fn(),
) {
    let reference = reference();
    let world = World::some(&DEVICES);
    world.config(CONFIG);
    let auditor = watch(&world);
    let ran = run(&world);
    let said = format!("{what}\n{}{}", ran.out, ran.err);
    check_calls(&world, &journal, &said);
    if ran.code == Some(0) {
        tally.never += 1;
    } else {
        assert_eq!(ran.code, Some(6), "{said}");
        assert!(ran.err.contains("error: journal `") && ran.err.contains("help: "), "{said}");
        match (journal.exists(), writes(&world)) {
            (false, 0) => tally.before_a_journal += 1,
            (true, 0) => tally.before_a_device += 1,
            (there, _) => {
                assert!(there, "{said}");
                tally.in_the_middle += 1;
            }
        }
    }
    more_room();
    let mut again = world.command("run");
    Ran::of(again.arg("--yes").env("STACKFERRY_JOURNAL", &journal).output().expect("it starts")).expect(0);
    assert_eq!(stored(&world), reference, "{said}");
    assert_eq!(breaches(&auditor), [""; 0], "{said}");
}

/// The end of a run that nothing happened to.
fn reference() -> Vec<(Table, String, DynamicMessage)> {
    static STORED: OnceLock<Vec<(Table, String, DynamicMessage)>> = OnceLock::new();
    let run = || {
        let world = World::some(&DEVICES);
        world.config(CONFIG);
        world.run().expect(0);
        stored(&world)
    };
    STORED.get_or_init(run).clone()
}

#[test]
fn a_full_disk_ends_the_run_and_the_same_command_goes_on() {
    let mut tally = Tally::default();
    for kilobytes in [4, 8, 16, 24, 36, 48, 64, 96, 140, 200, 280, 400, 2000] {
        let Some(disk) = Disk::mount(&format!("size={kilobytes}k")) else { return };
        let journal = disk.path().join("test.journal");
        let run = |world: &World| {
            let mut command = world.command("run");
            Ran::of(command.arg("--yes").env("STACKFERRY_JOURNAL", &journal).output().expect("it starts"))
        };
        run_out_of_room(&format!("{kilobytes} kB"), journal.clone(), &mut tally, run, || {
            disk.remount("size=8m")
        });
    }
    println!("journal: full disks of 13 sizes: {tally:?}");
    assert!(tally.before_a_journal > 1 && tally.in_the_middle > 2 && tally.never > 0, "{tally:?}");
}

/// The kernel refuses to let files grow, as a quota does: this needs no privilege.
#[test]
fn files_that_may_not_grow_end_the_run_and_the_same_command_goes_on() {
    let mut tally = Tally::default();
    for blocks in [0, 1, 8, 32, 56, 80, 120, 200, 300, 500, 4000] {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = folder.path().join("test.journal");
        let before =
            format!("trap '' XFSZ; export STACKFERRY_JOURNAL='{}'; ulimit -f {blocks}", journal.display());
        let run = |world: &World| shell(world, "run", &before, &[]);
        run_out_of_room(&format!("{blocks} blocks"), journal.clone(), &mut tally, run, || ());
    }
    println!("journal: files limited to 11 sizes: {tally:?}");
    assert!(tally.before_a_journal > 1 && tally.in_the_middle > 2 && tally.never > 0, "{tally:?}");
}

/// What `status` says, without privileges that would see past permissions.
fn status(world: &World, journal: &Path, wrap: &[&str]) -> Ran {
    shell(world, "status", &format!("export STACKFERRY_JOURNAL='{}'", journal.display()), wrap)
}

#[test]
fn a_read_only_disk_is_named_nothing_is_sent_and_status_works() {
    let Some(disk) = Disk::mount("size=8m") else { return };
    let journal = disk.path().join("test.journal");
    let world = World::some(&DEVICES);
    let run = || {
        let mut command = world.command("run");
        Ran::of(command.arg("--yes").env("STACKFERRY_JOURNAL", &journal).output().expect("it starts"))
    };
    world.config(CONFIG);
    disk.remount("ro");
    run().expect(6).says("cannot be written: its disk is read-only").says("help: ");
    assert_eq!(writes(&world), 0);
    assert_eq!(fs::read_dir(disk.path()).expect("lists").count(), 0);
    disk.remount("rw");
    world.config(&CONFIG.replace("[clear]", "[clear]\nhold = true"));
    run().expect(0);
    world.config(CONFIG);
    let before = writes(&world);
    let said = status(&world, &journal, &[]).expect(0).says("clearing").out;
    disk.remount("ro");
    run().expect(6).says("cannot be written: its disk is read-only");
    assert_eq!(status(&world, &journal, &[]).expect(0).out, said);
    assert_eq!(writes(&world), before);
    disk.remount("rw");
    run().expect(0).says("3 devices moved");
}

/// Files and folders that their user may not write: by permissions, as a user who is bound by them.
#[test]
fn what_may_not_be_written_is_named_nothing_is_sent_and_status_works() {
    let world = World::some(&DEVICES);
    let folder = world.dir.path();
    let journal = folder.join("test.journal");
    let nobody = nobody();
    let run = || shell(&world, "run", "true", nobody);
    world.config(CONFIG);
    give(folder);
    mode(folder, 0o500);
    run().expect(6).says("cannot be written: folder `").says("help: ");
    assert_eq!(writes(&world), 0);
    mode(folder, 0o700);
    world.config(&CONFIG.replace("[clear]", "[clear]\nhold = true"));
    give(folder);
    run().expect(0);
    world.config(CONFIG);
    give(folder);
    let before = writes(&world);
    let said = status(&world, &journal, nobody).expect(0).says("clearing").out;
    for (path, bits, back, says) in [
        (journal.as_path(), 0o400, 0o600, "cannot be written: the file is read-only"),
        (folder, 0o500, 0o700, "cannot be written: its folder is read-only"),
    ] {
        mode(path, bits);
        run().expect(6).says(says).says("help: ");
        assert_eq!(status(&world, &journal, nobody).expect(0).out, said, "{says}");
        mode(path, back);
    }
    assert_eq!(writes(&world), before);
    run().expect(0).says("3 devices moved");
}

/// What makes a command that of a user who is bound by permissions; root is not.
fn nobody() -> &'static [&'static str] {
    if is_root() { &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] } else { &[] }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

/// Gives a folder and what is in it to the user of [`nobody`].
fn give(folder: &Path) {
    let inside = fs::read_dir(folder).expect("lists").map(|entry| entry.expect("lists").path());
    for path in inside.chain([folder.to_owned()]).filter(|_| is_root()) {
        chown(path, Some(65534), Some(65534)).expect("root may");
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("sets");
}

/// After a crash, on a disk that may not be written: what `status` needs is there, or is said.
#[test]
fn a_journal_after_a_crash_is_read_where_nothing_may_be_written() {
    let files = image::of_two_runs(&DEVICES, CONFIG, None);
    let files = &files[files.len() / 2];
    assert!(files.contains_key("-wal"), "in the middle of a run");
    let states = Image::new(files.clone()).contents.states();
    let world = World::some(&DEVICES);
    world.config(CONFIG);
    for without in ["", "-shm"] {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = folder.path().join("test.journal");
        let mut files = files.clone();
        if !without.is_empty() {
            files.remove(without);
        }
        image::put(&files, &journal);
        give(folder.path());
        for suffix in image::FILES.into_iter().filter(|s| files.contains_key(s)) {
            mode(&image::beside(&journal, suffix), 0o400);
        }
        mode(world.dir.path(), 0o755);
        mode(&world.dir.path().join("move.toml"), 0o644);
        mode(folder.path(), 0o500);
        let said = status(&world, &journal, nobody());
        mode(folder.path(), 0o700);
        if without.is_empty() {
            let said = said.expect(0);
            for (device, state) in &states {
                let line = said.out.lines().find(|line| line.contains(device.device.as_str()));
                assert!(line.expect("each device").contains(state.name()), "{said:?}");
            }
            continue;
        }
        // The index is made from the log, and there is no room for it.
        said.expect(6).says("the index of its write-ahead log is not there").says("help: copy `");
    }
}
