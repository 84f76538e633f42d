//! Files that hold secrets: ours are for their owner alone whatever the umask is, and those of others are refused with a
//! hint when somebody else can read them.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use stackferry::rehearsal::{Fault, store::Table};

use crate::world::{APP, LOSSES, Ran, World, dev};

const SOURCE: &str = "[source.tts]";
const SEAL: &str = "7b1f0a3c5d7e9f2b4d6f8091a3b5c7d9eb0d2f4163857a9bcdef102132435465";

/// The places of a configuration where a file of a secret can stand.
const PLACES: &[&str] = &["source", "target", "seal-key", "application"];

/// A world in which the secret of one place is in a file.
fn with_file(place: &str) -> (World, PathBuf, String) {
    let world = World::some(&[1]);
    let config = world.config("[transform]\nsession = \"keep\"\n");
    let text = fs::read_to_string(&config).expect("written");
    let file = world.dir.path().join("secret.pem");
    let reference = "{ file = \"secret.pem\" }";
    let (from, to) = match place {
        "source" => ("{ env = \"SOURCE_KEY\" }", reference.to_owned()),
        "target" => ("{ env = \"TARGET_KEY\" }", reference.to_owned()),
        "seal-key" => ("[journal]", format!("[journal]\nseal-key = {reference}")),
        _ => ("source = \"fleet-lab\"", format!("source = \"fleet-lab\"\napi-key = {reference}")),
    };
    assert!(text.contains(from) && text.contains(SOURCE));
    fs::write(&config, text.replacen(from, &to, 1)).expect("a file");
    let secret = match place {
        "target" => world.target.tts.settings().api_key.clone(),
        "seal-key" => SEAL.to_owned(),
        _ => world.source.tts.settings().api_key.clone(),
    };
    fs::write(&file, format!("{secret}\n")).expect("a file");
    set_mode(&file, 0o600);
    (world, file, secret)
}

fn set_mode(file: &Path, mode: u32) {
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).expect("it is ours");
}

/// `run` is refused before anything is connected to.
#[track_caller]
fn refused(world: &World, says: &[&str]) {
    let mut ran = world.run().expect(2);
    for text in says {
        ran = ran.says(text);
    }
    assert_eq!((world.source.tts.calls().len(), world.target.tts.calls().len()), (0, 0));
    assert!(!world.dir.path().join("test.journal").exists());
}

#[test]
fn a_key_file_that_others_can_read_is_refused_with_a_hint() {
    for place in PLACES {
        let (world, file, _) = with_file(place);
        for mode in [0o644, 0o604, 0o640, 0o660, 0o602, 0o620, 0o601, 0o777, 0o444] {
            set_mode(&file, mode);
            let shown = format!("mode {mode:04o}");
            refused(&world, &["secret.pem", &shown, "chmod 600"]);
        }
        set_mode(&file, 0o400);
        world.run().expect(0).says("1 device moved");
    }
}

#[test]
fn links_are_followed_to_the_file_that_counts() {
    let (world, file, _) = with_file("source");
    let real = world.dir.path().join("..data.pem");
    fs::rename(&file, &real).expect("it is there");
    symlink(&real, &file).expect("a link");
    set_mode(&real, 0o644);
    refused(&world, &["chmod 600"]);
    set_mode(&real, 0o600);
    world.run().expect(0);
    fs::remove_file(&real).expect("it is there");
    let (world, file, _) = with_file("source");
    fs::remove_file(&file).expect("it is there");
    symlink(world.dir.path().join("nowhere"), &file).expect("a link");
    refused(&world, &["cannot read", "secret.pem"]);
}

#[test]
fn what_is_no_file_of_one_line_is_refused() {
    let (world, file, secret) = with_file("source");
    for (text, says) in [
        (String::new(), "is empty"),
        (" \n".into(), "is empty"),
        ("\n\n".into(), "is empty"),
        (format!("{secret}\n{secret}\n"), "is not one line of text"),
        (format!("# my key\n{secret}\n"), "is not one line of text"),
        (format!("{secret}\0"), "is not one line of text"),
        ("x".repeat(100_000), "longer than any secret"),
    ] {
        fs::write(&file, text).expect("a file");
        refused(&world, &["secret.pem", says]);
    }
    fs::write(&file, [0xFF, 0xFE, 0x4E, 0x00]).expect("a file");
    refused(&world, &["is not one line of text"]);
    fs::remove_file(&file).expect("it is there");
    refused(&world, &["cannot read", "secret.pem"]);
    fs::create_dir(&file).expect("a folder");
    refused(&world, &["is not a regular file"]);
    fs::remove_dir(&file).expect("it is there");
    // Nobody will ever write into it.
    assert!(Command::new("mkfifo").arg(&file).status().expect("mkfifo").success());
    refused(&world, &["is not a regular file", "command"]);
    fs::remove_file(&file).expect("it is there");
    for end in ["", "\n", "\r\n"] {
        let (world, file, secret) = with_file("source");
        fs::write(&file, format!("{secret}{end}")).expect("a file");
        world.run().expect(0);
    }
}

#[test]
fn the_key_file_beside_the_journal_is_refused_when_others_can_read_it() {
    let world = World::some(&[1]);
    world.config("[transform]\nsession = \"keep\"\n");
    world.run().expect(0);
    let key = world.dir.path().join("test.journal.key");
    for mode in [0o644, 0o640, 0o604] {
        set_mode(&key, mode);
        world.run().expect(6).says("chmod 600");
    }
    set_mode(&key, 0o600);
    world.run().expect(0);
}

/// The same command under another umask.
fn under_umask(command: &Command, umask: &str) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
    shell
}

#[test]
fn every_file_is_for_its_owner_alone_under_any_umask() {
    let world = World::some(&[1, 2, 3]);
    world.config(LOSSES);
    let mut modes = Vec::new();
    let mut look = || {
        for entry in fs::read_dir(world.dir.path()).expect("a folder").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("test.journal") || name.ends_with(".state") {
                modes.push((name, entry.metadata().map_or(0o600, |m| m.mode() & 0o777)));
            }
        }
    };
    // Killed in the middle, so that what SQLite makes beside the journal is there too.
    let mut run = world.command("run");
    let mut run = under_umask(run.arg("--yes"), "000");
    world.target.tts.on_call(|call| {
        call.method.ends_with("NsEndDeviceRegistry/Set").then_some(Fault::Delay(Duration::from_millis(300)))
    });
    let mut child = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    while world.target.count(Table::Js, APP) == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    look();
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    look();
    let mut run = world.command("run");
    Ran::of(under_umask(run.arg("--yes"), "000").output().expect("it starts")).expect(0);
    look();
    let text = fs::read_to_string(world.dir.path().join("move.toml")).expect("written");
    let (head, rest) = text.split_once("[target.tts]").expect("a target");
    let (_, rest) = rest.split_once("[journal]").expect("a journal");
    let rest = rest.replacen("test.journal", "test.journal-2", 1);
    let text = format!("{head}[target.rehearsal]\nstate = \"target.state\"\n[journal]{rest}");
    fs::write(world.dir.path().join("move.toml"), text).expect("a file");
    Ran::of(under_umask(&world.command("plan"), "000").output().expect("it starts"));
    look();
    let names: Vec<_> = modes.iter().map(|(name, _)| name.as_str()).collect();
    for needed in
        ["test.journal", "test.journal-wal", "test.journal.key", "test.journal.lock", "target.state"]
    {
        assert!(names.contains(&needed), "{needed}: {names:?}");
    }
    let open: Vec<_> = modes.iter().filter(|(_, mode)| mode & 0o077 != 0).collect();
    assert!(open.is_empty(), "{open:?}");
}

/// A user and group that exist on every system, and are not ours.
const NOBODY: u32 = 65534;

/// The command as another user, when we may become one and that one can run the binary.
pub fn as_nobody(world: &World, command: &mut Command) -> bool {
    if !rustix::process::geteuid().is_root() {
        println!("not root: what another user sees is not tested");
        return false;
    }
    let folder = world.dir.path();
    set_mode(folder, 0o755);
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        chown(entry.path(), Some(NOBODY), Some(NOBODY)).expect("we are root");
    }
    chown(folder, Some(NOBODY), Some(NOBODY)).expect("we are root");
    command.uid(NOBODY).gid(NOBODY);
    let can = Command::new(command.get_program()).arg("--version").uid(NOBODY).gid(NOBODY).output();
    let can = can.is_ok_and(|output| output.status.success());
    if !can {
        println!("another user cannot run the binary: what it sees is not tested");
    }
    can
}

#[test]
fn the_owner_of_a_key_file_counts() {
    for (owner, group, mode, says) in [
        (NOBODY, NOBODY, 0o600, None),
        (NOBODY, NOBODY, 0o640, Some("can be read by its group")),
        // As a secret is mounted into a container.
        (0, NOBODY, 0o440, None),
        (0, NOBODY, 0o640, None),
        (0, NOBODY, 0o444, Some("can be read by every user")),
        (0, NOBODY, 0o460, Some("can be changed")),
        (1, NOBODY, 0o440, Some("belongs to another user")),
    ] {
        let (world, file, _) = with_file("source");
        let mut command = world.command("run");
        if !as_nobody(&world, command.arg("--yes")) {
            return;
        }
        chown(&file, Some(owner), Some(group)).expect("we are root");
        set_mode(&file, mode);
        let ran = Ran::of(command.output().expect("it starts"));
        match says {
            None => drop(ran.expect(0)),
            Some(text) => drop(ran.expect(2).says(text).says("chmod 600")),
        }
    }
    // Root reads its users' files.
    let (world, file, _) = with_file("source");
    chown(&file, Some(NOBODY), Some(NOBODY)).expect("we are root");
    world.run().expect(0);
    assert!(world.target.record(Table::Ns, APP, &dev(1)).is_some());
}
