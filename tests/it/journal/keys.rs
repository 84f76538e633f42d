//! The key of the journal, from each place that can hold it, through the built binary.

use std::{fs, os::unix::fs::PermissionsExt as _};

use super::{CONFIG, DEVICES, breaches, image, shell, watch, writes};
use crate::world::{Ran, World};

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const OTHER: &str = "ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// A run that stops before the clear, then one that goes on, under a key from `place`; in between with other keys.
fn with_key_from(place: &str, give: impl Fn(&World, &str)) {
    let world = World::some(&DEVICES);
    let auditor = watch(&world);
    let configure = |more: &str| {
        let path = world.config(&CONFIG.replace("[clear]", &format!("[clear]{more}")));
        let text = fs::read_to_string(&path).expect("written");
        let key = place.replace("DIR", &world.dir.path().display().to_string());
        let text = text.replace("[journal]\n", &format!("[journal]\nseal-key = {key}\n"));
        fs::write(path, text).expect("writes");
    };
    let run = |key: &str| {
        give(&world, key);
        Ran::of(world.command("run").arg("--yes").env("SEAL_KEY", key).output().expect("it starts"))
    };
    configure("\nhold = true");
    run(KEY).expect(0).says("on hold");
    let journal = world.dir.path().join("test.journal");
    assert!(!image::beside(&journal, ".key").exists(), "{place}: the key is elsewhere");
    configure("");
    let (before, files) = (writes(&world), image::take(&journal));
    run(OTHER)
        .expect(6)
        .says("was sealed with another key")
        .says("give the key that the journal was made with");
    run(&KEY[1..]).expect(6).says("is not 32 bytes").says("openssl rand -hex 32");
    assert_eq!(writes(&world), before, "{place}: nothing is sent without the key");
    assert_eq!(image::take(&journal)[""], files[""]);
    run(KEY).expect(0).says("3 devices moved");
    assert_eq!(breaches(&auditor), [""; 0]);
    world.call("status", &[]).expect(0).says("3 done");
}

#[test]
fn a_key_comes_from_a_variable_a_file_or_a_command() {
    with_key_from("{ env = \"SEAL_KEY\" }", |_, _| {});
    let file = |world: &World, key: &str| {
        let path = world.dir.path().join("seal.key");
        fs::write(&path, format!("{key}\n")).expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("sets");
    };
    with_key_from("{ file = \"seal.key\" }", file);
    with_key_from("{ command = [\"cat\", \"DIR/seal.key\"] }", file);
}

#[test]
fn a_key_that_cannot_be_had_is_named_before_anything_is_made() {
    for (key, says) in [
        ("{ env = \"NOT_SET\" }", "NOT_SET"),
        ("{ file = \"nowhere.key\" }", "nowhere.key"),
        ("{ command = [\"false\"] }", "`false` failed"),
    ] {
        let world = World::some(&[1]);
        let path = world.config(CONFIG);
        let text = fs::read_to_string(&path).expect("written");
        fs::write(&path, text.replace("[journal]\n", &format!("[journal]\nseal-key = {key}\n")))
            .expect("writes");
        world.run().expect(2).says(says);
        assert_eq!(writes(&world), 0);
        assert!(!world.dir.path().join("test.journal").exists());
    }
}

#[test]
fn the_key_beside_the_journal_must_be_private_and_there() {
    let world = World::some(&[1]);
    world.config(&CONFIG.replace("[clear]", "[clear]\nhold = true"));
    world.run().expect(0);
    world.config(CONFIG);
    let key = image::beside(&world.dir.path().join("test.journal"), ".key");
    let before = writes(&world);
    for mode in [0o644, 0o640, 0o604, 0o666] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).expect("sets");
        let ran = world.run().expect(6).says(&format!("that others can read (mode {mode:04o})"));
        ran.says("help: run `chmod 600 ").says("test.journal.key`");
    }
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("sets");
    let away = world.dir.path().join("away");
    fs::rename(&key, &away).expect("moves");
    world.run().expect(6).says("its key file").says("is missing").says("put `");
    assert_eq!(writes(&world), before);
    fs::rename(&away, &key).expect("moves back");
    world.run().expect(0).says("1 device moved");
}

/// Whatever the shell allows, the files are their owner's alone, at every call of a run.
#[test]
fn the_files_are_private_under_any_umask() {
    for umask in ["000", "002", "077"] {
        let world = World::some(&[1]);
        world.config(CONFIG);
        let seen = std::sync::Arc::new(std::sync::Mutex::new(std::collections::BTreeMap::new()));
        for side in [&world.source, &world.target] {
            let (seen, folder) = (std::sync::Arc::clone(&seen), world.dir.path().to_owned());
            side.tts.on_call(move |_| {
                for entry in fs::read_dir(&folder).expect("lists") {
                    let entry = entry.expect("lists");
                    let name = entry.file_name().to_string_lossy().into_owned();
                    if let (true, Ok(metadata)) = (name.starts_with("test.journal"), entry.metadata()) {
                        let mode = metadata.permissions().mode() & 0o7777;
                        seen.lock().expect("no panic").insert((name, mode), ());
                    }
                }
                None
            });
        }
        shell(&world, "run", &format!("umask {umask}"), &[]).expect(0);
        let seen: Vec<_> = seen.lock().expect("no panic").keys().cloned().collect();
        let private = ["", "-shm", "-wal", ".key", ".lock"].map(|end| (format!("test.journal{end}"), 0o600));
        assert_eq!(seen, private, "umask {umask}");
    }
}
