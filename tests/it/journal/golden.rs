//! A journal of each format that was ever released, as it lay there in the middle of a run: every later version reads it.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf};

use sha2::{Digest as _, Sha256};
use stackferry::plan::sealed;

use super::{
    CONFIG, DEVICES,
    image::{self, Contents, FILES, Files, Image},
};
use crate::world::World;

/// A key that protects nothing: the fixture's devices are made up.
const KEY: &str = "0000000000000000000000000000000000000000000000000000000000000001\n";

/// Where the journals of a format are. Both moments are of the same run.
fn folder(format: i64) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/journal-{format}"))
}

/// The names of the two moments.
const MOMENTS: [&str; 2] = ["crashed", "ended"];

fn files(format: i64, moment: &str) -> Files {
    let path = folder(format).join(format!("{moment}.db"));
    let mut files = image::take(&path);
    files.insert(".key", KEY.into());
    files
}

/// What a journal says, in words that a person can compare: each entry, with the hash of what a seal holds.
fn told(contents: &Contents) -> String {
    let mut text = format!("run {}\n", contents.run_id);
    for entry in &contents.entries {
        let what = if entry.sealed {
            format!("{} bytes, SHA-256 {}", entry.plain.len(), hex::encode(Sha256::digest(&entry.plain)))
        } else {
            String::from_utf8(entry.plain.clone()).expect("JSON")
        };
        writeln!(text, "{} {} {} {}: {what}", entry.seq, entry.at, entry.device.device, entry.kind)
            .expect("a text");
    }
    for (device, state) in contents.states() {
        writeln!(text, "{} is {}", device.device, state.name()).expect("a text");
    }
    text
}

/// Makes the fixture of the present format. By hand, once for each format: `STACKFERRY_BLESS=1 cargo test golden`.
fn make() {
    let all = image::of_two_runs(&DEVICES, CONFIG, Some(KEY.as_bytes()));
    let folder = folder(1);
    fs::create_dir_all(&folder).expect("makes");
    for (moment, files) in MOMENTS.into_iter().zip([&all[all.len() * 7 / 8], &all[all.len() - 1]]) {
        // The index is made from the log, and the key is in this file.
        for suffix in ["", "-wal", ".lock"] {
            files.get(suffix).iter().for_each(|bytes| {
                fs::write(folder.join(format!("{moment}.db{suffix}")), bytes).expect("writes");
            });
        }
        let contents = Image::new(files.clone()).contents;
        fs::write(folder.join(format!("{moment}.txt")), told(&contents)).expect("writes");
    }
}

#[test]
fn journals_of_every_released_format_are_read() {
    if std::env::var_os("STACKFERRY_BLESS").is_some() && !folder(1).exists() {
        make();
    }
    for format in 1..=1 {
        for moment in MOMENTS {
            let contents = Image::new(files(format, moment)).contents;
            let expected =
                fs::read_to_string(folder(format).join(format!("{moment}.txt"))).expect("a fixture");
            assert_eq!(told(&contents), expected, "format {format}, {moment}");
            for entry in contents.entries.iter().filter(|e| e.sealed) {
                let opened = match entry.kind.as_str() {
                    "copy" => sealed::copy_from_bytes(&entry.plain).map(drop),
                    _ => sealed::found_from_bytes(&entry.plain).map(drop),
                };
                opened.unwrap_or_else(|e| panic!("entry {}: {e}", entry.seq));
            }
        }
    }
}

/// The words of `status` come from the events alone.
#[test]
fn status_tells_of_a_journal_of_format_1() {
    let world = World::some(&[1]);
    world.config(CONFIG);
    let mut said = BTreeMap::new();
    for moment in MOMENTS {
        image::put(&files(1, moment), &world.dir.path().join("test.journal"));
        said.insert(moment, world.call("status", &[]).expect(0).out);
    }
    assert!(said["crashed"].starts_with("3 devices in the journal: "), "{said:?}");
    assert!(said["ended"].starts_with("3 devices in the journal: 3 done"), "{said:?}");
}

#[test]
fn a_newer_format_is_refused_and_says_to_update() {
    let world = World::some(&[1]);
    world.config(CONFIG);
    let journal = world.dir.path().join("test.journal");
    for (format, help) in
        [(2, "help: a newer version of stackferry wrote it: update stackferry"), (0, "help: no version")]
    {
        let files = files(1, "ended");
        image::put(&files, &journal);
        rusqlite::Connection::open(&journal)
            .and_then(|c| c.pragma_update(None, "user_version", format))
            .expect("changes the version");
        let changed = image::take(&journal);
        for verb in ["run", "status", "plan", "verify"] {
            let arguments: &[&str] = if verb == "run" { &["--yes"] } else { &[] };
            let ran = world.call(verb, arguments).expect(6);
            ran.says(&format!("has format {format}, and this build reads format 1")).says(help);
        }
        assert_eq!(super::writes(&world), 0);
        assert_eq!(image::take(&journal)[""], changed[""], "left as it is");
        for suffix in FILES {
            let _ = fs::remove_file(image::beside(&journal, suffix));
        }
    }
}
