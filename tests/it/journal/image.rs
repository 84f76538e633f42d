//! The files of a journal at one moment of a run, and what they hold.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Mutex},
};

use stackferry::{
    journal::{DeviceKey, Error, Journal, Pins, SealKeyRef, View, Who},
    step::{Event, State},
};

use crate::world::World;

/// What lies beside a journal in the middle of a run, by the end of its name.
pub const FILES: [&str; 5] = ["", "-wal", "-shm", ".lock", ".key"];

/// Names and bytes.
pub type Files = BTreeMap<&'static str, Vec<u8>>;

/// One entry of a device, unsealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub seq: u64,
    pub at: jiff::Timestamp,
    pub device: DeviceKey,
    pub kind: String,
    pub sealed: bool,
    pub plain: Vec<u8>,
}

/// All that a journal says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    pub run_id: String,
    pub pins: Pins,
    pub entries: Vec<Entry>,
}

impl Contents {
    /// Opens the journal as a run does.
    pub fn of_run(path: &Path, pins: &Pins) -> Result<Self, Error> {
        let journal = Journal::open(path, &SealKeyRef::Beside, pins, &Who::current(), &[])?.journal;
        let mut contents = Self::events(&journal)?;
        for device in journal.devices()? {
            for seal in journal.seals(&device)? {
                let plain = journal.unseal(seal.id)?.to_vec();
                contents.entries.push(Entry {
                    seq: seal.id,
                    at: seal.at,
                    device: device.clone(),
                    kind: seal.kind,
                    sealed: true,
                    plain,
                });
            }
        }
        contents.entries.sort_by_key(|entry| entry.seq);
        journal.close()?;
        Ok(contents)
    }

    /// Opens the journal as `status` does, which leaves seals closed.
    pub fn of_status(path: &Path) -> Result<Self, Error> {
        Self::events(&View::open(path)?)
    }

    fn events(view: &View) -> Result<Self, Error> {
        let mut entries = Vec::new();
        view.for_each_device::<Error>(|device, events| {
            entries.extend(events.into_iter().map(|e| Entry {
                seq: e.seq,
                at: e.at,
                device: device.clone(),
                kind: e.kind,
                sealed: false,
                plain: e.body,
            }));
            Ok(())
        })?;
        entries.sort_by_key(|entry: &Entry| entry.seq);
        Ok(Self { run_id: view.run_id(), pins: view.pins()?, entries })
    }

    /// What `status` sees of it.
    pub fn unsealed(&self) -> Self {
        let entries = self.entries.iter().filter(|e| !e.sealed).cloned().collect();
        Self { entries, ..self.clone() }
    }

    /// True when this is the other, or what the other was at an earlier time.
    pub fn is_beginning_of(&self, other: &Self) -> bool {
        self.run_id == other.run_id && other.entries.starts_with(&self.entries)
    }

    /// Where each device stands.
    pub fn states(&self) -> BTreeMap<DeviceKey, State> {
        let mut states: BTreeMap<DeviceKey, State> = BTreeMap::new();
        // What an application has is under an empty device ID, with events of its own.
        let of_devices = |e: &&Entry| !e.sealed && !e.device.device.as_str().is_empty();
        for entry in self.entries.iter().filter(of_devices) {
            let event: Event = serde_json::from_slice(&entry.plain).expect("an event");
            let state = states.entry(entry.device.clone()).or_default();
            *state = state.apply(&event).expect("legal");
        }
        states
    }
}

/// The files of a journal, and what they hold.
#[derive(Debug, Clone)]
pub struct Image {
    pub files: Files,
    pub contents: Contents,
}

impl Image {
    /// Reads what `files` hold from a copy of them.
    pub fn new(files: Files) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("test.journal");
        put(&files, &path);
        let pins = View::open(&path).and_then(|view| view.pins()).expect("the image is sound");
        let contents = Contents::of_run(&path, &pins).expect("the image is sound");
        contents.states();
        Self { files, contents }
    }
}

/// The path of the file beside the journal.
pub fn beside(journal: &Path, suffix: &str) -> std::path::PathBuf {
    let mut name = journal.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Reads the files as they are now: what the system has at this moment is what a killed process leaves.
pub fn take(journal: &Path) -> Files {
    FILES.iter().filter_map(|s| fs::read(beside(journal, s)).ok().map(|bytes| (*s, bytes))).collect()
}

/// Puts the files there, and nothing else of a journal.
pub fn put(files: &Files, journal: &Path) {
    for suffix in FILES {
        let path = beside(journal, suffix);
        match files.get(suffix) {
            Some(bytes) => {
                fs::write(&path, bytes).expect("writes");
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("sets");
            }
            None => drop(fs::remove_file(&path)),
        }
    }
}

/// The journals of two runs over the fixture's devices with these numbers, one after another: as a kill during each call
/// to either side would leave them, and as each run left it at its end. The first run stops before the clear.
///
/// One device is in hand at a time, so that nothing is written while the files are read.
pub fn of_two_runs(numbers: &[usize], config: &str, key: Option<&[u8]>) -> Vec<Files> {
    let world = World::some(numbers);
    world.config(&config.replace("[clear]", "[clear]\nhold = true"));
    let taken = Arc::new(Mutex::new(Vec::new()));
    let journal = world.dir.path().join("test.journal");
    if let Some(key) = key {
        put(&Files::from([(".key", key.to_vec())]), &journal);
    }
    for side in [&world.source, &world.target] {
        let (taken, journal) = (Arc::clone(&taken), journal.clone());
        side.tts.on_call(move |_| {
            // Looked at under the lock: both sides are called at once while the plan is made.
            let mut taken = taken.lock().expect("no panic");
            let files = take(&journal);
            if files.contains_key("-wal") {
                taken.push(files);
            }
            None
        });
    }
    world.run().expect(0).says("on hold");
    taken.lock().expect("no panic").push(take(&journal));
    world.config(config);
    world.run().expect(0);
    let mut taken = std::mem::take(&mut *taken.lock().expect("no panic"));
    taken.push(take(&journal));
    taken
}
