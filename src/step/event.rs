//! What is decided for a device, the steps, and what the journal records of them.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

use crate::model::device::Component;

/// The order of steps for an application (`docs/strategies.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Mute the source, copy, verify, clear the source.
    MuteSource,
    /// The source cannot be muted: create the target muted, verify, look at the source once more, clear it, unmute the
    /// target.
    MuteTarget,
    /// The record cannot be muted: clear its keys from a snapshot that was read twice, then copy.
    ClearFirst,
    /// Source and target are one deployment, in which nothing can exist twice: mute, delete at the source from a snapshot
    /// that was read twice, then create.
    Swap,
}

impl Strategy {
    /// True when the source's records go before those of the target are made: then the snapshot alone holds the device in
    /// between.
    pub fn clears_first(self) -> bool {
        matches!(self, Self::ClearFirst | Self::Swap)
    }
}

/// What was decided for one device when its move began; later runs keep to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Recipe {
    /// The order of steps.
    pub strategy: Strategy,
    /// The device's ID on the target.
    pub target_id: String,
    /// What the source's `schedule_downlinks` was before we muted it; `None` inside when it was not set.
    pub mute: Option<Mute>,
    /// Components that get a record on the target.
    pub create: BTreeSet<Component>,
    /// Components whose record is removed at the source; empty when nothing is cleared.
    pub clear: BTreeSet<Component>,
    /// True when the clear waits until the device was seen on the target.
    pub wait_seen: bool,
    /// True when `session.started_at` is set once more after the NS record was created.
    pub started_at: bool,
    /// Mute-target: true when the session goes along, and its counters are set once the source is cleared.
    #[serde(default)]
    pub counters: bool,
}

/// How the source is muted, and what it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Mute {
    /// `mac_settings.schedule_downlinks` as it was found.
    pub was: Option<bool>,
}

/// One thing that is done to one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Read the source whole and seal it.
    Snapshot,
    /// Stop the source from sending downlinks.
    Mute,
    /// Read NS, AS and JS again and seal them with the copy that follows from them.
    Reread,
    /// Create a record on the target.
    Create(Component),
    /// Give the session its start time back, which creation resets.
    StartedAt,
    /// Read a record of the target back and compare.
    Verify(Component),
    /// Wait until the device was seen on the target.
    AwaitSeen,
    /// Read the sealed snapshot from disk and compare it with the source.
    CheckSnapshot,
    /// Remove a record at the source. Mute-target: `ns` stands for the keys, `is` for the whole device.
    Clear(Component),
    /// Mute-target: decide with which counters the target goes on, and seal the copy with them.
    Count,
    /// Mute-target: give the target these counters.
    SetCounters,
    /// Undo: remove a record on the target.
    Remove(Component),
    /// Undo: give the source its downlinks back.
    Unmute,
    /// Rollback: stop the target from sending downlinks.
    MuteTarget,
    /// Give the target its downlinks back: mute-target once the source is cleared, or a rollback given up before it changed
    /// anything else.
    UnmuteTarget,
    /// Rollback: read the target whole and seal it with what follows for the source.
    ReadBack,
    /// Rollback: give the source its record back, or what it lacks of what the device has become on the target.
    Restore(Component),
    /// Rollback: read a record of the source back and compare.
    VerifyBack(Component),
    /// Rollback: read what was sealed from disk and compare it with the target.
    CheckBack,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Snapshot => f.write_str("read the source"),
            Self::Mute => f.write_str("mute the source"),
            Self::Reread => f.write_str("read the source again"),
            Self::Create(c) => write!(f, "create the {c} record on the target"),
            Self::StartedAt => f.write_str("restore the session's start time"),
            Self::Verify(c) => write!(f, "verify the {c} record on the target"),
            Self::AwaitSeen => f.write_str("wait until it is seen on the target"),
            Self::CheckSnapshot => f.write_str("check the sealed snapshot"),
            Self::Clear(c) => write!(f, "clear the {c} record at the source"),
            Self::Count => f.write_str("decide the counters"),
            Self::SetCounters => f.write_str("set the counters on the target"),
            Self::Remove(c) => write!(f, "remove the {c} record from the target"),
            Self::Unmute => f.write_str("unmute the source"),
            Self::MuteTarget => f.write_str("mute the target"),
            Self::UnmuteTarget => f.write_str("unmute the target"),
            Self::ReadBack => f.write_str("read the target"),
            Self::Restore(c) => write!(f, "restore the {c} record at the source"),
            Self::VerifyBack(c) => write!(f, "verify the {c} record at the source"),
            Self::CheckBack => f.write_str("check what was sealed of the target"),
        }
    }
}

/// What the journal records of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The source was read whole and sealed as `seal`.
    Snapshot {
        /// Seal of the source's records.
        seal: u64,
        /// What was decided from it.
        recipe: Recipe,
    },
    /// NS, AS and JS were read again after the mute. Mute-target: the copy was decided, from the first snapshot.
    Reread {
        /// Seal of the source's records as of now.
        seal: u64,
        /// Seal of the copy that is to be written.
        copy: u64,
        /// What was decided from it: the device may have joined since the first snapshot.
        recipe: Recipe,
    },
    /// The call for this step is about to be made.
    Intent {
        /// Which.
        step: Step,
    },
    /// The step was done.
    Done {
        /// Which.
        step: Step,
    },
    /// The sealed snapshot was read from disk and held against the source, which was sealed once more as it was then: the
    /// last that was seen of it before the clear.
    Checked {
        /// Seal of the source's records as of now.
        seal: u64,
    },
    /// The source is cleared: what is written to the target has the larger counters of both sides from now on.
    Counted {
        /// Seal of the copy with them.
        copy: u64,
    },
    /// A record that is not of this run's making is on the target as it should be: an undo leaves it there.
    Adopted {
        /// Whose.
        component: Component,
    },
    /// The step failed; the next run goes on from here.
    Failed {
        /// Which.
        step: Step,
        /// False when it surely did not take effect: its intent is void, and there is nothing of ours to undo.
        maybe_applied: bool,
        /// Why; no secrets.
        why: String,
    },
    /// The move is given up: what was made on the target is removed, then the source is unmuted.
    Undo {
        /// Name of the finding.
        kind: String,
        /// Why; no secrets.
        why: String,
    },
    /// The device goes back to the source, whatever was done: by a command, or because the target refused it after the
    /// source was cleared.
    Rollback {
        /// Name of the finding.
        kind: String,
        /// Why; no secrets.
        why: String,
    },
    /// The target was read whole, and what the source gets was decided.
    ReadBack {
        /// Seal of the target's records.
        seal: u64,
        /// Seal of what is written to the source.
        back: u64,
        /// Components of the source to which something is written.
        restore: BTreeSet<Component>,
    },
    /// A rollback was given up before it changed anything but the mute of the target: the device stays there.
    Kept,
    /// Everything that the move did was undone; it can start again.
    Undone,
    /// The device is on the target and everything wanted at the source is done.
    Finished,
}

/// An event that is not legal in a state: a bug of this program or a damaged journal, never something to go on from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{event} is not legal here: {why}")]
pub struct Illegal {
    /// The event.
    pub event: String,
    /// The rule that forbids it.
    pub why: &'static str,
}
