//! The journal, and what is sealed in it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use stackferry::{
    journal::{DeviceKey, Error, ErrorKind, Journal, Pins, SealKeyRef, View, Who, Write},
    map::json,
    model::{device::Component, secret::Secret},
    plan::sealed,
    step,
};
use tempfile::TempDir;

/// The key of every journal here.
const KEY: &str = "CA11A7CA11A7CA11A7CA11A7CA11A7CA11A7CA11A7CA11A7CA11A7CA11A7CA11";

/// Bytes as the file of a journal; or, when they begin with `E`, as changes to a sound one; or, with `W`, as what is
/// written into one. Whatever is read is what was written, or an error with a name.
pub fn journal(data: &[u8]) {
    match data.split_first() {
        Some((b'E', edits)) => {
            let mut file = SOUND.file.clone();
            for edit in edits.chunks_exact(3) {
                let at = usize::from(edit[0]) << 8 | usize::from(edit[1]);
                let length = file.len();
                file[at % length] ^= edit[2];
            }
            if let Some(contents) = read(&file) {
                assert!(contents == SOUND.contents, "it is read as what was not written");
            }
        }
        Some((b'W', lines)) => written(lines),
        _ => drop(read(data)),
    }
}

/// A device's name, its events (kind and body), and its seals (kind and text).
type Contents = Vec<(String, Vec<(String, Vec<u8>)>, Vec<(String, Vec<u8>)>)>;

struct Sound {
    file: Vec<u8>,
    contents: Contents,
}

/// A journal with two devices.
static SOUND: LazyLock<Sound> = LazyLock::new(|| {
    let (folder, path) = place();
    let mut journal = open(&path).expect("a new journal").journal;
    for device in ["meter-1", "meter-2"].map(|id| DeviceKey::new("fleet", id)) {
        journal.seal(&device, "source-1", b"{\"format\":1}").expect("sealed");
        journal.append(&device, "finished", b"{\"event\":\"finished\"}").expect("written");
    }
    let contents = contents(&journal).expect("readable");
    drop(journal);
    let file = fs::read(&path).expect("a file");
    drop(folder);
    Sound { file, contents }
});

/// A folder for one journal, in memory where the system has such a place.
fn place() -> (TempDir, PathBuf) {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let folder = folder.expect("a folder");
    let path = folder.path().join("x.journal");
    (folder, path)
}

fn open(path: &Path) -> Result<stackferry::journal::Opened, Error> {
    let who = Who { user: "fuzz".into(), host: "here".into(), pid: 1, version: "0".into() };
    Journal::open(path, &SealKeyRef::Given(Secret::new(KEY)), &Pins::default(), &who, &[])
}

/// What a journal with these bytes says; `None` after an error with a name.
fn read(file: &[u8]) -> Option<Contents> {
    let (_folder, path) = place();
    fs::write(&path, file).expect("written");
    let seen = View::open(&path).and_then(|view| {
        view.openings()?;
        view.meta("run")?;
        view.pins()?;
        events(&view)
    });
    let found = open(&path).and_then(|opened| contents(&opened.journal));
    for error in seen.iter().map(|_| None).chain([found.as_ref().err()]).flatten().chain(seen.as_ref().err())
    {
        named(error);
    }
    if let (Ok(seen), Ok(found)) = (&seen, &found) {
        let events = |(device, events, _): &(String, Vec<_>, _)| (device.clone(), events.clone());
        assert!(
            *seen == found.iter().map(events).collect::<Vec<_>>(),
            "with and without the key, two stories"
        );
    }
    found.ok()
}

/// Every error names the journal, tells what to do, and is one that the bytes of a file can cause.
fn named(error: &Error) {
    let text = error.to_string();
    assert!(text.starts_with("journal `") && !error.hint().is_empty(), "{text}");
    let strange = matches!(
        error.kind,
        ErrorKind::Locked { .. }
            | ErrorKind::Busy
            | ErrorKind::Missing
            | ErrorKind::BadKey
            | ErrorKind::Closed
            | ErrorKind::TooLarge { .. }
    );
    assert!(!strange && !text.contains(KEY), "{text}");
}

type Events = Vec<(String, Vec<(String, Vec<u8>)>)>;

fn events(view: &View) -> Result<Events, Error> {
    let mut all = Events::new();
    view.for_each_device::<Error>(|device, events| {
        let mut state = Ok(step::State::default());
        for event in &events {
            if let Ok(event) = serde_json::from_slice::<step::Event>(&event.body) {
                state = state.and_then(|state: step::State| state.apply(&event));
            }
        }
        all.push((device.to_string(), events.into_iter().map(|e| (e.kind, e.body)).collect()));
        Ok(())
    })?;
    Ok(all)
}

fn contents(journal: &Journal) -> Result<Contents, Error> {
    let mut all = Contents::new();
    journal.for_each_device::<Error>(|device, events| {
        let seals = journal.seals(&device)?.into_iter();
        let seals = seals.map(|seal| Ok((seal.kind, journal.unseal(seal.id)?.to_vec())));
        let seals = seals.collect::<Result<Vec<_>, Error>>()?;
        all.push((device.to_string(), events.into_iter().map(|e| (e.kind, e.body)).collect(), seals));
        Ok(())
    })?;
    Ok(all)
}

/// Lines as entries: the first byte says whose and whether it is sealed, a space ends the kind.
fn written(lines: &[u8]) {
    let (_folder, path) = place();
    let mut journal = open(&path).expect("a new journal").journal;
    let mut expected = Contents::new();
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).take(64) {
        let device = DeviceKey::new("fleet", format!("meter-{}", line[0] & 3));
        let (kind, body) = match line.iter().position(|byte| *byte == b' ') {
            Some(at) => (&line[1.min(at)..at], &line[at + 1..]),
            None => (&line[1..], &[][..]),
        };
        let kind = String::from_utf8_lossy(kind).into_owned();
        let sealed = line[0] & 4 != 0;
        let write =
            if sealed { Write::seal(&device, &kind, body) } else { Write::event(&device, &kind, body) };
        journal.write(&[write]).expect("written");
        let name = device.to_string();
        let index = expected.iter().position(|(device, ..)| *device == name).unwrap_or_else(|| {
            expected.push((name, Vec::new(), Vec::new()));
            expected.len() - 1
        });
        let (_, events, seals) = &mut expected[index];
        if sealed { seals } else { events }.push((kind, body.to_vec()));
    }
    assert!(contents(&journal).expect("readable") == expected);
    drop(journal);
    let again = open(&path).expect("sound").journal;
    assert!(contents(&again).expect("readable") == expected, "after a restart it is another");
}

/// What was sealed, once it is open. What can be read is sealed as the same again; what cannot is not shown.
pub fn sealed(data: &[u8]) {
    match sealed::found_from_bytes(data) {
        Ok(found) => {
            let again = sealed::found_from_bytes(&sealed::found_to_bytes(&found)).expect("readable");
            for component in Component::ALL {
                let json = |found: &stackferry::plan::transform::Found| {
                    found.records.get(component).map(|record| json::to_json(&record.0))
                };
                assert_eq!(json(&again), json(&found), "{component}");
            }
            let plain = |found: &stackferry::plan::transform::Found| {
                (found.elsewhere.clone(), found.external_js, found.hosts.clone())
            };
            assert_eq!(plain(&again), plain(&found));
        }
        Err(error) => quotes_nothing(data, &error.to_string()),
    }
    match sealed::copy_from_bytes(data) {
        Ok(copy) => {
            let again = sealed::copy_from_bytes(&sealed::copy_to_bytes(&copy)).expect("readable");
            assert_eq!(again.id, copy.id);
            for component in Component::ALL {
                let write = |copy: &stackferry::plan::transform::Copy| {
                    copy.get(component).map(|write| (json::to_json(&write.message), write.paths.clone()))
                };
                assert_eq!(write(&again), write(&copy), "{component}");
            }
        }
        Err(error) => quotes_nothing(data, &error.to_string()),
    }
}

/// Nothing of 12 bytes is in both.
fn quotes_nothing(data: &[u8], shown: &str) {
    let own = ["the sealed snapshot has another form", "a record in the sealed snapshot is damaged"];
    let data = String::from_utf8_lossy(data);
    if own.iter().any(|own| own.as_bytes().windows(12).any(|w| data.as_bytes().windows(12).any(|d| d == w))) {
        return;
    }
    for piece in data.as_bytes().windows(24) {
        assert!(!shown.as_bytes().windows(24).any(|s| s == piece), "quoted: {shown}");
    }
}
