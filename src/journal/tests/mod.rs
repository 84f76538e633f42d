//! What the journal promises, tried.

mod basics;
mod crash;
mod refusals;
mod secrecy;
mod sharing;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

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

/// A process of its own that runs one ignored test of this module on the journal at `path`.
pub(super) fn child(test: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a test binary"));
    command
        .args([&format!("journal::tests::{test}"), "--exact", "--ignored", "--nocapture"])
        .env(CHILD, path);
    command
}

/// The journal that the parent wants a child to use; `None` when the ignored test was not started by a parent.
pub(super) fn path_from_parent() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

const CHILD: &str = "STACKFERRY_TEST_JOURNAL";

/// Numbers that look random and are the same in every run (splitmix64).
pub(super) struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below.max(1) as u64) as usize
    }
}
