//! Which devices of an application are moved.

use std::{
    collections::BTreeSet,
    io::{self, Read},
    path::PathBuf,
};

use glob::Pattern;

use crate::model::ids::{DeviceId, is_v2_id};

/// The longest list of device IDs, in bytes: about a million of them.
pub const MAX_LIST: u64 = 40 << 20;

/// Which devices of an application are moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Devices {
    /// All.
    All,
    /// Those with these IDs.
    Ids(BTreeSet<DeviceId>),
    /// Those with the IDs that the file held when the configuration was loaded.
    File {
        /// The file.
        path: PathBuf,
        /// What was in it.
        ids: BTreeSet<DeviceId>,
    },
    /// Those with the IDs on standard input, which is read when the run starts.
    Stdin,
    /// Those whose ID has one of these shapes.
    Glob(Vec<Pattern>),
}

/// The devices that a user chose, once all lists have been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All.
    All,
    /// Those with these IDs: one that the source does not have is worth a finding.
    Ids(BTreeSet<DeviceId>),
    /// Those whose ID has one of these shapes.
    Glob(Vec<Pattern>),
}

impl Devices {
    /// Reads what is still to be read; `stdin` is touched only for [`Devices::Stdin`].
    ///
    /// # Errors
    /// When standard input cannot be read or has a line that is no device ID.
    pub fn select(&self, stdin: impl Read) -> Result<Selection, ListError> {
        match self {
            Self::All => Ok(Selection::All),
            Self::Ids(ids) | Self::File { ids, .. } => Ok(Selection::Ids(ids.clone())),
            Self::Stdin => read_list(stdin).map(Selection::Ids),
            Self::Glob(globs) => Ok(Selection::Glob(globs.clone())),
        }
    }

    /// The IDs that are listed and known by now.
    pub fn listed(&self) -> Option<&BTreeSet<DeviceId>> {
        match self {
            Self::Ids(ids) | Self::File { ids, .. } => Some(ids),
            _ => None,
        }
    }
}

impl Selection {
    /// True when the device is to be moved.
    pub fn contains(&self, id: &DeviceId) -> bool {
        match self {
            Self::All => true,
            Self::Ids(ids) => ids.contains(id),
            Self::Glob(globs) => globs.iter().any(|glob| glob.matches(id.as_str())),
        }
    }
}

/// Why a list of device IDs cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// It cannot be read.
    #[error("cannot read the list: {0}")]
    Read(#[from] io::Error),
    /// A line is no ID.
    #[error("line {line} of the list: `{text}` is not an ID")]
    Line {
        /// From 1.
        line: usize,
        /// What is there, at most 40 characters.
        text: String,
    },
    /// There is no ID in it.
    #[error("the list is empty")]
    Empty,
}

/// Reads device IDs, one a line; empty lines and what follows `#` do not count.
///
/// # Errors
/// When it cannot be read, is longer than 40 MiB, has a line that is no ID, or is empty.
pub fn read_list(from: impl Read) -> Result<BTreeSet<DeviceId>, ListError> {
    let mut bytes = Vec::new();
    if from.take(MAX_LIST + 1).read_to_end(&mut bytes)? as u64 > MAX_LIST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 40 MiB").into());
    }
    let text = String::from_utf8_lossy(&bytes);
    let mut ids = BTreeSet::new();
    for (i, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let id = line.split('#').next().unwrap_or_default().trim();
        if id.is_empty() {
            continue;
        }
        // V2's rule covers that of The Things Stack.
        if !is_v2_id(id) {
            return Err(ListError::Line { line: i + 1, text: id.chars().take(40).collect() });
        }
        ids.insert(DeviceId::unchecked(id));
    }
    if ids.is_empty() { Err(ListError::Empty) } else { Ok(ids) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> DeviceId {
        text.parse().expect("an ID")
    }

    #[test]
    fn a_list_has_comments_and_any_line_end() {
        let ids =
            read_list("\u{feff}dev-1\r\n\n# none\n  dev-2 # the second\ndev-1".as_bytes()).expect("a list");
        assert_eq!(ids, BTreeSet::from([id("dev-1"), id("dev-2")]));
    }

    #[test]
    fn a_bad_line_is_named() {
        let error = read_list("dev-1\nDev_2\n".as_bytes()).expect_err("no ID");
        assert_eq!(error.to_string(), "line 2 of the list: `Dev_2` is not an ID");
        assert!(matches!(read_list("#\n".as_bytes()), Err(ListError::Empty)));
    }

    #[test]
    fn standard_input_is_read_only_when_asked_for() {
        let all = Devices::All.select(io::repeat(b'!')).expect("not read");
        assert!(all.contains(&id("dev-1")));
        let some = Devices::Stdin.select("dev-1\n".as_bytes()).expect("a list");
        assert!(some.contains(&id("dev-1")) && !some.contains(&id("dev-2")));
    }

    #[test]
    fn globs_match_whole_ids() {
        let globs = vec![Pattern::new("meter-0?").expect("a glob"), Pattern::new("valve-*").expect("a glob")];
        let chosen = Selection::Glob(globs);
        assert!(chosen.contains(&id("meter-01")) && chosen.contains(&id("valve-x")));
        assert!(!chosen.contains(&id("meter-012")) && !chosen.contains(&id("my-valve-x")));
    }
}
