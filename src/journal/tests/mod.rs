//! What the journal promises, tried.

mod basics;

use std::path::PathBuf;

use tempfile::TempDir;

use super::*;

/// A folder with a journal in it.
pub(super) struct Place {
    pub folder: TempDir,
    pub path: PathBuf,
}

impl Place {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("temp dir");
        let path = folder.path().join("acme.journal");
        Self { folder, path }
    }

    pub fn try_open(&self) -> Result<Opened, Error> {
        self.try_open_for(&[], &[])
    }

    pub fn try_open_for(&self, pins: &[(&str, &str)], accept: &[&str]) -> Result<Opened, Error> {
        Journal::open(&self.path, &SealKeyRef::Beside, &self::pins(pins), &Who::current(), accept)
    }

    pub fn open(&self) -> Journal {
        self.try_open().expect("opens").journal
    }

    pub fn beside(&self, suffix: &str) -> PathBuf {
        self.folder.path().join(format!("acme.journal{suffix}"))
    }

    pub fn refused(&self) -> ErrorKind {
        self.try_open().expect_err("must be refused").kind
    }
}

pub(super) fn pins(items: &[(&str, &str)]) -> Pins {
    Pins { items: items.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect() }
}

pub(super) fn device(name: &str) -> DeviceKey {
    DeviceKey::new("app", name)
}

pub(super) fn bodies(events: &[Event]) -> Vec<(&str, &[u8])> {
    events.iter().map(|e| (e.kind.as_str(), e.body.as_slice())).collect()
}
